import { existsSync, mkdirSync, readFileSync, statSync } from 'node:fs'
import { parseAllowedSigners, signerLine } from '../shared/allowed-signers.ts'
import { Failure, isErrno } from '../shared/failure.ts'
import { fingerprintOf, parsePublicKey } from '../shared/ssh-key.ts'
import { DEFAULTS, layoutFor, parseListen } from './config.ts'
import { print } from './print.ts'
import { writeWhole } from './state/disk.ts'
import type { Layout } from './state/layout.ts'
import { readSignersText } from './state/signers.ts'
import { ensureTls } from './state/tls.ts'

// What the admin does once per host, at its own prompt. Doing it again changes nothing and prints the same pin.

export async function initHost(options: { root?: string; listen?: string }): Promise<void> {
  const layout = layoutFor(options.root)
  if (options.listen !== undefined) parseListen(options.listen)
  try {
    mkdirSync(layout.etc, { recursive: true, mode: 0o755 })
    mkdirSync(layout.appsDir, { recursive: true, mode: 0o755 })
    mkdirSync(layout.tlsDir, { recursive: true, mode: 0o700 })
  } catch (cause) {
    if (!isErrno(cause, 'EACCES', 'EPERM', 'EROFS')) throw cause
    throw new Failure('config_invalid', `init ${layout.root}: ${(cause as Error).message}`, {
      hint: 'run it as root (sudo tarmac-agent init), or try it out anywhere with --root DIR',
      cause,
    })
  }
  const config = existsSync(layout.configFile) ? readFileSync(layout.configFile, 'utf8') : undefined
  if (config === undefined || options.listen !== undefined) {
    await writeWhole(layout.configFile, configText(config, options.listen ?? DEFAULTS.listen), {
      // It may come to hold a webhook's address, and whoever knows that can write there.
      mode: 0o600,
    })
  }
  if (!existsSync(layout.signersFile)) await writeWhole(layout.signersFile, SIGNERS_HEAD, { mode: 0o644 })
  const { pin } = await ensureTls(layout)
  print.note(`configuration  ${layout.configFile}`)
  print.note(`signers        ${layout.signersFile}`)
  print.note(`data           ${layout.root}`)
  print.line(`pin ${pin}`)
  if (parseAllowedSigners(readSignersText(layout)).length === 0) {
    const flag = options.root === undefined ? '' : ` --root ${options.root}`
    print.note(`next: tarmac-agent signers add NAME 'ssh-ed25519 AAAA…'${flag}   (each person's line: tarmac keys)`)
  }
}

export async function addSigner(name: string, key: string, options: { root?: string }): Promise<void> {
  const layout = layoutFor(options.root)
  refuseWithoutInit(layout)
  const added = parsePublicKey(lineOf(key))
  const line = signerLine(name, added)
  const text = readSignersText(layout)
  const known = parseAllowedSigners(text).find((signer) => signer.key.blob.equals(added.blob))
  if (known) {
    if (known.principal === name) return print.line(`${name} ${fingerprintOf(added.blob)} is known already`)
    throw new Failure(
      'usage',
      `add signer ${name}: the key ${fingerprintOf(added.blob)} belongs to ${known.principal} already`,
      {
        hint: `one key, one person: tarmac-agent signers remove ${known.principal}`,
      },
    )
  }
  const next = `${text}${text === '' || text.endsWith('\n') ? '' : '\n'}${line}\n`
  // A line that the agent would not understand (`Ann` beside `ann`) would lock everybody out.
  parseAllowedSigners(next)
  await writeWhole(layout.signersFile, next, { mode: 0o644 })
  print.line(`${name} ${fingerprintOf(added.blob)} is let in`)
}

export function listSigners(options: { root?: string; json?: boolean }): void {
  const signers = parseAllowedSigners(readSignersText(layoutFor(options.root)))
  if (options.json) {
    const list = signers.map(({ principal, key, validAfter, validBefore }) => ({
      name: principal,
      type: key.type,
      fingerprint: fingerprintOf(key.blob),
      validAfter: validAfter?.toISOString() ?? null,
      validBefore: validBefore?.toISOString() ?? null,
    }))
    print.line(JSON.stringify({ signers: list }))
    return
  }
  for (const { principal, key, validBefore } of signers) {
    const until = validBefore === undefined ? '' : `  until ${validBefore.toISOString()}`
    print.line(`${principal}  ${fingerprintOf(key.blob)}  ${key.type}${until}`)
  }
  if (signers.length === 0) print.note("nobody: tarmac-agent signers add NAME 'ssh-ed25519 AAAA…'")
}

export async function removeSigner(name: string, options: { root?: string }): Promise<void> {
  const layout = layoutFor(options.root)
  const text = readSignersText(layout)
  const lines = new Set(parseAllowedSigners(text).flatMap((signer) => (signer.principal === name ? [signer.line] : [])))
  if (lines.size === 0) {
    throw new Failure('usage', `remove signer ${JSON.stringify(name)}: no such signer`, {
      hint: 'who is known: tarmac-agent signers list',
    })
  }
  const left = text.split('\n').filter((_, index) => !lines.has(index + 1))
  await writeWhole(layout.signersFile, left.join('\n'), { mode: 0o644 })
  print.line(`${name} is let in no longer (${lines.size} ${lines.size === 1 ? 'key' : 'keys'})`)
}

function lineOf(key: string): string {
  if (/^[a-z0-9@.-]+ /i.test(key.trim()) || !existsSync(key) || !statSync(key).isFile()) return key
  return readFileSync(key, 'utf8')
}

function refuseWithoutInit(layout: Layout): void {
  if (existsSync(layout.etc)) return
  throw new Failure('config_missing', `add signer: ${layout.etc} is not there`, { hint: 'first: tarmac-agent init' })
}

/** All else that the admin wrote stays. A key of the top level may stand anywhere above the first table. */
function configText(there: string | undefined, listen: string): string {
  const before = there ?? "# The Tarmac agent's own configuration; DESIGN.md names every key.\n"
  const line = `listen = ${JSON.stringify(listen)}`
  const known = /^[ \t]*listen[ \t]*=.*$/m
  if (known.test(before)) return before.replace(known, () => line)
  const table = before.search(/^[ \t]*\[/m)
  const at = table === -1 ? before.length : table
  const head = before.slice(0, at)
  return `${head}${head === '' || head.endsWith('\n') ? '' : '\n'}${line}\n${before.slice(at)}`
}

const SIGNERS_HEAD = `# Who may deploy to this host: OpenSSH's allowed_signers format (man ssh-keygen, ALLOWED SIGNERS).
# Add a line with: tarmac-agent signers add NAME 'ssh-ed25519 AAAA…'
`
