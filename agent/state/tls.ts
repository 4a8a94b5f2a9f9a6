import { createHash, webcrypto, X509Certificate } from 'node:crypto'
import { mkdirSync, readFileSync } from 'node:fs'
import { Failure, isErrno } from '../../shared/failure.ts'
import { writeWhole } from './disk.ts'
import type { Layout } from './layout.ts'

/** Trust is by pin, renewed by hand when ever: a date that passes must not end a deploy at night. */
const VALID_YEARS = 50

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

/** Makes a P-256 key and a certificate signed by itself. */
export async function makeTls(layout: Layout): Promise<TlsIdentity> {
  // Loaded only here: needed once in the life of a host.
  await import('reflect-metadata')
  const x509 = await import('@peculiar/x509')
  x509.cryptoProvider.set(webcrypto as Crypto)
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
  const now = new Date()
  const end = new Date(now)
  end.setUTCFullYear(now.getUTCFullYear() + VALID_YEARS)
  const cert = await x509.X509CertificateGenerator.createSelfSigned({
    name: 'CN=tarmac-agent',
    // A day back: the client's clock may be behind.
    notBefore: new Date(now.getTime() - 86_400_000),
    notAfter: end,
    signingAlgorithm: algorithm,
    keys,
  })
  const pkcs8 = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey))
  const key = `-----BEGIN PRIVATE KEY-----\n${pkcs8.toString('base64').replace(/.{64}/g, '$&\n').trimEnd()}\n-----END PRIVATE KEY-----\n`
  mkdirSync(layout.tlsDir, { recursive: true, mode: 0o700 })
  await writeWhole(layout.tlsKeyFile, key, { mode: 0o600 })
  await writeWhole(layout.tlsCertFile, cert.toString('pem'), { mode: 0o644 })
  return readTls(layout)
}

function pinOf(cert: X509Certificate): string {
  const spki = cert.publicKey.export({ type: 'spki', format: 'der' })
  return `sha256//${createHash('sha256').update(spki).digest('base64')}`
}
