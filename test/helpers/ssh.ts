import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { createHash, generateKeyPairSync, type KeyObject, randomUUID, sign } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import type { KeyType } from '../../shared/ssh-key.ts'
import { sshString, uint32 } from '../../shared/ssh-wire.ts'
import { signedBytes } from '../../shared/sshsig.ts'

// Keys and signatures for tests: real ones of ssh-keygen and ssh-agent, and ones made by hand, for the devices a
// test machine has not and for what ssh-keygen would never write.

/** A directory that goes with the test. */
export function tempDir(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), 'tarmac-test-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

/** The private key lies in `file`, the public one in `file`.pub; both go with the test. */
export interface TestKey {
  file: string
  publicLine: string
}

/** A key without passphrase; `name` becomes its comment. */
export function makeKey(
  t: TestContext,
  dir: string,
  { type = 'ed25519', name = 'test' }: { type?: 'ed25519' | 'ecdsa' | 'rsa'; name?: string } = {},
): TestKey {
  const file = join(dir, `id_${type}_${randomUUID().slice(0, 8)}`)
  const bits = { ed25519: [], ecdsa: ['-b', '256'], rsa: ['-b', '2048'] }[type]
  execFileSync('ssh-keygen', ['-q', '-t', type, ...bits, '-N', '', '-C', name, '-f', file])
  t.after(() => {
    for (const path of [file, `${file}.pub`]) rmSync(path, { force: true })
  })
  return { file, publicLine: readFileSync(`${file}.pub`, 'utf8').trim() }
}

/** What `ssh-keygen -Y sign` writes for a private key file; no agent is asked. */
export function sshSign(keyFile: string, namespace: string, data: string | Uint8Array): string {
  return runSign(['-f', keyFile, '-n', namespace], data, undefined)
}

/** The same by an agent that holds the key; `key.file` itself is not read, only its .pub. */
export function agentSign(
  agent: TestAgent,
  key: TestKey,
  use: { namespace: string; data: string | Uint8Array },
): string {
  return runSign(['-f', `${key.file}.pub`, '-n', use.namespace], use.data, agent.socket)
}

function runSign(args: string[], input: string | Uint8Array, socket: string | undefined): string {
  const env = { PATH: process.env.PATH, ...(socket === undefined ? {} : { SSH_AUTH_SOCK: socket }) }
  return execFileSync('ssh-keygen', ['-q', '-Y', 'sign', ...args], { input, env, encoding: 'utf8', stdio: 'pipe' })
}

export interface TestAgent {
  socket: string
  add(key: TestKey): void
}

/** A real ssh-agent that ends with the test. */
export async function startAgent(t: TestContext): Promise<TestAgent> {
  // Not in the test's own directory: a socket's path may have 107 bytes at most.
  const dir = mkdtempSync(join(tmpdir(), 'agent-'))
  const socket = join(dir, 'socket')
  const child = spawn('ssh-agent', ['-D', '-a', socket], { stdio: 'ignore' })
  t.after(async () => {
    const gone = once(child, 'exit')
    if (child.kill()) await gone
    rmSync(dir, { recursive: true, force: true })
  })
  while (!existsSync(socket)) {
    if (child.exitCode !== null) throw new Error(`ssh-agent exited ${child.exitCode}`)
    await setTimeout(5)
  }
  const env = { PATH: process.env.PATH, SSH_AUTH_SOCK: socket }
  return { socket, add: (key) => void execFileSync('ssh-add', ['-q', key.file], { env, stdio: 'pipe' }) }
}

/** What `ssh-keygen -Y verify` says: its exit code is 0, or not. `at` is the time it takes for now: 20261122233851Z. */
export function sshVerifies(
  allowedSigners: string,
  signature: string,
  use: {
    principal: string
    namespace: string
    message: string | Uint8Array
    at?: string
    env?: Record<string, string>
  },
): boolean {
  const dir = mkdtempSync(join(tmpdir(), 'verify-'))
  try {
    const [signersFile, signatureFile] = [join(dir, 'allowed_signers'), join(dir, 'signature')]
    writeFileSync(signersFile, allowedSigners)
    writeFileSync(signatureFile, signature)
    const args = ['-f', signersFile, '-s', signatureFile, '-I', use.principal, '-n', use.namespace]
    if (use.at !== undefined) args.push(`-Overify-time=${use.at}`)
    const env = { PATH: process.env.PATH, ...use.env }
    return spawnSync('ssh-keygen', ['-Y', 'verify', ...args], { input: use.message, env }).status === 0
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

/** A key in this process, of any type: for FIDO types a device in software, which signs with the flags it is told. */
export interface HandKey {
  publicLine: string
  blob: Buffer
  sign(use: HandUse): Buffer
}

export interface HandUse {
  namespace: string
  message: string | Uint8Array
  hash?: 'sha256' | 'sha512'
  /** FIDO: 0x01 someone touched the device, 0x04 someone was recognised. */
  flags?: number
}

/** `sign` gives the raw form; `armorOf` makes ssh-keygen's of it. */
export function makeHandKey(type: KeyType): HandKey {
  const isEd25519 = type.includes('ed25519')
  const pair = isEd25519 ? generateKeyPairSync('ed25519') : generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const application = type.startsWith('sk-') ? 'ssh:' : undefined
  const { x = '', y = '' } = pair.publicKey.export({ format: 'jwk' })
  const point = isEd25519
    ? [sshString(base64url(x))]
    : [sshString('nistp256'), sshString(Buffer.concat([Buffer.from([4]), base64url(x), base64url(y)]))]
  const tail = application === undefined ? [] : [sshString(application)]
  const blob = Buffer.concat([sshString(type), ...point, ...tail])
  const signBlob = (statement: Buffer, flags: number) => {
    const device = Buffer.concat([Buffer.from([flags]), uint32(7)])
    const signed =
      application === undefined ? statement : Buffer.concat([digest(application), device, digest(statement)])
    const value = isEd25519 ? sign(null, signed, pair.privateKey) : p256Value(signed, pair.privateKey)
    return Buffer.concat([sshString(type), sshString(value), ...(application === undefined ? [] : [device])])
  }
  return {
    publicLine: `${type} ${blob.toString('base64')}`,
    blob,
    sign({ namespace, message, hash = 'sha512', flags = 0x01 }) {
      const value = signBlob(signedBytes(namespace, hash, Buffer.from(message)), flags)
      return rawSignature({ blob, namespace, hash, value })
    },
  }
}

/** The outer frame, with anything in it. */
export function rawSignature(parts: {
  blob: Uint8Array
  namespace: string
  hash: string
  value: Uint8Array
  version?: number
  reserved?: string
}): Buffer {
  const { blob, namespace, hash, value, version = 1, reserved = '' } = parts
  const strings = [blob, namespace, reserved, hash, value].map(sshString)
  return Buffer.concat([Buffer.from('SSHSIG'), uint32(version), ...strings])
}

function p256Value(signed: Buffer, key: KeyObject): Buffer {
  const value = sign('sha256', signed, { key, dsaEncoding: 'ieee-p1363' })
  return Buffer.concat([mpint(value.subarray(0, 32)), mpint(value.subarray(32))])
}

function mpint(bytes: Buffer): Buffer {
  const first = bytes.findIndex((byte) => byte !== 0)
  const digits = bytes.subarray(first)
  return sshString((digits[0] ?? 0) > 0x7f ? Buffer.concat([Buffer.alloc(1), digits]) : digits)
}

function digest(data: string | Uint8Array): Buffer {
  return createHash('sha256').update(data).digest()
}

function base64url(text: string): Buffer {
  return Buffer.from(text, 'base64url')
}
