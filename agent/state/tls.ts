import { createHash, createPrivateKey, createPublicKey, webcrypto, X509Certificate } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { Failure, isErrno, reasonOf } from '../../shared/failure.ts'
import { writeWhole } from './disk.ts'
import type { Layout } from './layout.ts'

/** Trust is by pin, renewed by hand when ever: a date that passes must not end a deploy at night. */
const VALID_YEARS = 50
const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }

export interface TlsIdentity {
  key: string
  cert: string
  /** `sha256//<base64 of the SHA-256 of the SPKI>`: the form curl's --pinnedpubkey takes. */
  pin: string
}

/** Throws `config_missing` when `tarmac-agent init` was not run. */
export function readTls(layout: Layout): TlsIdentity {
  try {
    const cert = readFileSync(layout.tlsCertFile, 'utf8')
    return { key: readFileSync(layout.tlsKeyFile, 'utf8'), cert, pin: pinOf(new X509Certificate(cert)) }
  } catch (cause) {
    if (!isErrno(cause, 'ENOENT')) throw cause
    throw new Failure('config_missing', `read ${layout.tlsDir}: the agent has no TLS key yet`, {
      hint: 'make one with: tarmac-agent init',
      cause,
    })
  }
}

/** What is there, whole; what is missing of it is made. */
export async function ensureTls(layout: Layout): Promise<TlsIdentity> {
  const isWhole = existsSync(layout.tlsKeyFile) && existsSync(layout.tlsCertFile)
  return isWhole ? readTls(layout) : makeTls(layout)
}

/**
 * Makes a P-256 key and a certificate signed by itself. A key that is there is kept: it is what clients know the host
 * by, and a certificate alone is lost by a power cut between the two, or by hand.
 */
export async function makeTls(layout: Layout): Promise<TlsIdentity> {
  // Loaded only here: needed once in the life of a host.
  await import('reflect-metadata')
  const x509 = await import('@peculiar/x509')
  x509.cryptoProvider.set(webcrypto)
  mkdirSync(layout.tlsDir, { recursive: true, mode: 0o700 })
  const keys = (await keysThere(layout)) ?? (await newKeys(layout))
  const now = new Date()
  const end = new Date(now)
  end.setUTCFullYear(now.getUTCFullYear() + VALID_YEARS)
  const cert = await x509.X509CertificateGenerator.createSelfSigned({
    name: 'CN=tarmac-agent',
    // A day back: the client's clock may be behind.
    notBefore: new Date(now.getTime() - 86_400_000),
    notAfter: end,
    signingAlgorithm: ALGORITHM,
    keys,
  })
  await writeWhole(layout.tlsCertFile, cert.toString('pem'), { mode: 0o644 })
  return readTls(layout)
}

async function newKeys(layout: Layout) {
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify'])
  const pkcs8 = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey))
  const key = `-----BEGIN PRIVATE KEY-----\n${pkcs8.toString('base64').replace(/.{64}/g, '$&\n').trimEnd()}\n-----END PRIVATE KEY-----\n`
  await writeWhole(layout.tlsKeyFile, key, { mode: 0o600 })
  return keys
}

/** Throws `config_invalid` for one that is damaged: a new one in its place is for a person to decide. */
async function keysThere({ tlsKeyFile }: Layout) {
  const text = readIfThere(tlsKeyFile)
  if (text === undefined) return undefined
  try {
    const privateKey = createPrivateKey(text)
    const pkcs8 = privateKey.export({ type: 'pkcs8', format: 'der' })
    const spki = createPublicKey(privateKey).export({ type: 'spki', format: 'der' })
    return {
      privateKey: await webcrypto.subtle.importKey('pkcs8', pkcs8, ALGORITHM, false, ['sign']),
      publicKey: await webcrypto.subtle.importKey('spki', spki, ALGORITHM, true, ['verify']),
    }
  } catch (cause) {
    throw new Failure('config_invalid', `read ${tlsKeyFile}: it is no P-256 key: ${reasonOf(cause)}`, {
      hint: `put it back from a backup; or move it away, and tarmac-agent init makes a new one, which every client must be told to trust`,
      cause,
    })
  }
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined
    throw error
  }
}

function pinOf(cert: X509Certificate): string {
  const spki = cert.publicKey.export({ type: 'spki', format: 'der' })
  return `sha256//${createHash('sha256').update(spki).digest('base64')}`
}
