import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Failure, reasonOf } from '../shared/failure.ts'
import { fingerprintOf, type PublicKey, parsePublicKey } from '../shared/ssh-key.ts'
import type { Surroundings } from './config.ts'
import { runProgram } from './run.ts'

// Keys are the user's SSH keys. We never read a private one: ssh-keygen signs, with the file, the ssh-agent or the
// token, and asks for a passphrase or a touch by itself.

export interface Key {
  publicKey: PublicKey
  fingerprint: string
  /** `ssh-agent` or the file's name. */
  from: string
  /** What `ssh-keygen -Y sign -f` takes; for a key of the ssh-agent it is written for the moment of signing. */
  file: string | undefined
}

/** All keys that could sign here, the one that would be used first. */
export async function findKeys(surroundings: Surroundings, keyFile: string | undefined): Promise<Key[]> {
  if (keyFile !== undefined) return [await keyOf(keyFile)]
  const keys = surroundings.hasSshAgent ? await agentKeys(surroundings) : []
  if (existsSync(surroundings.defaultKeyFile)) keys.push(await keyOf(surroundings.defaultKeyFile))
  return keys
}

export async function chooseKey(surroundings: Surroundings, keyFile: string | undefined): Promise<Key> {
  const [key] = await findKeys(surroundings, keyFile)
  if (key) return key
  throw new Failure(
    'key_missing',
    `find a key: the ssh-agent holds none we can use, and there is no ${surroundings.defaultKeyFile}`,
    {
      hint: 'make one: ssh-keygen -t ed25519; or name one: --key FILE',
    },
  )
}

async function keyOf(file: string): Promise<Key> {
  const publicFile = file.endsWith('.pub') ? file : `${file}.pub`
  let line: string
  try {
    line = await readFile(publicFile, 'utf8')
  } catch (cause) {
    throw new Failure('key_missing', `read ${publicFile}: ${reasonOf(cause)}`, {
      hint: existsSync(file)
        ? `make it again: ssh-keygen -y -f ${file} > ${publicFile}`
        : 'make a key: ssh-keygen -t ed25519',
      cause,
    })
  }
  const publicKey = parsePublicKey(line)
  return { publicKey, fingerprint: fingerprintOf(publicKey.blob), from: file, file }
}

async function agentKeys({ env }: Surroundings): Promise<Key[]> {
  const { exit, stdout } = await runProgram(['ssh-add', '-L'], { env })
  // 1: it holds no keys; 2: nobody answers at the socket. Either way a key file may still do.
  if (exit !== 0) return []
  return stdout.split('\n').flatMap((line) => {
    try {
      const publicKey = parsePublicKey(line)
      return [{ publicKey, fingerprint: fingerprintOf(publicKey.blob), from: 'ssh-agent', file: undefined }]
    } catch (error) {
      // An RSA key beside an ed25519 one is ordinary; it is only not ours to use.
      if (error instanceof Failure) return []
      throw error
    }
  })
}

/** Signs with SSHSIG; gives the armored signature. `notify` shows what ssh-keygen asks of the person (a touch). */
export async function sign(
  key: Key,
  what: { namespace: string; data: Uint8Array },
  parts: { surroundings: Surroundings; notify: (text: string) => void },
): Promise<string> {
  const dir = key.file === undefined ? await mkdtemp(join(tmpdir(), 'tarmac-key-')) : undefined
  try {
    const file = key.file ?? join(dir ?? '', 'key.pub')
    if (dir !== undefined)
      await writeFile(file, `${key.publicKey.type} ${key.publicKey.blob.toString('base64')}\n`, { mode: 0o600 })
    const argv = ['ssh-keygen', '-Y', 'sign', '-n', what.namespace, '-f', file]
    const ran = await runProgram(argv, {
      env: parts.surroundings.env,
      input: what.data,
      show: (text) => /presence|touch|pin/i.test(text) && parts.notify(text.trim()),
    })
    if (ran.exit === 0 && ran.stdout.startsWith('-----BEGIN SSH SIGNATURE-----')) return ran.stdout
    const said = ran.stderr.trim().split('\n').at(-1) ?? ''
    throw new Failure(
      'signing_failed',
      `sign with ${key.from} ${key.fingerprint}: ssh-keygen exited ${ran.exit}: ${said}`,
      {
        hint:
          key.from === 'ssh-agent'
            ? 'is the key still there? ssh-add -l; or name one: --key FILE'
            : 'is it readable, and the passphrase right?',
      },
    )
  } finally {
    if (dir !== undefined) await rm(dir, { recursive: true, force: true })
  }
}
