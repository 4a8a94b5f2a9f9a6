import { createHash } from 'node:crypto'
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { join, relative } from 'node:path'
import { zstdCompressSync } from 'node:zlib'
import { entryHeader } from '../../shared/bundle.ts'
import { parseAppName, sha256 } from '../../shared/names.ts'
import { armorOf } from '../../shared/sshsig.ts'
import { paths, RELEASE_NAMESPACE } from '../../shared/wire.ts'
import type { HandKey } from './ssh.ts'

// Releases made by hand: whatever a hostile signer could sign, and whatever could become of it on the way. And the
// ground to judge by: every file, link, mode and owner below an agent's root, and every process that lives there.

export type Json = Record<string, unknown>

export const APP = parseAppName('shop')
export const RELEASES = paths.releases(APP)
export const MISSING = paths.missing(APP)

/** Needs no port and no time: it passes its gate as soon as it runs. */
export const SLEEPER: Json = {
  command: { exec: ['/bin/sleep', '1000'] },
  health: { intervalMs: 50, timeoutMs: 10_000, settleMs: 0 },
  restart: { attempts: 3, withinMs: 20_000, delayMs: 100 },
  stopTimeoutMs: 2_000,
}

export function fileEntry(path: string, content: string | Buffer, over: Json = {}): Json {
  return { path, mode: '0644', size: Buffer.byteLength(content), sha256: sha256(content), ...over }
}

/** A good release.json, but for what is laid over it; keys of `over` keep the place they have in a good one. */
export function manifestOf(files: unknown[], over: Json = {}): Json {
  return {
    format: 1,
    app: 'shop',
    created: '2026-11-22T23:38:51Z',
    services: { web: SLEEPER },
    shared: [],
    keep: { releases: 10, failed: 2 },
    files,
    ...over,
  }
}

/** A release signature over exactly this text, armored. */
export function signedBy(key: HandKey, text: string, namespace = RELEASE_NAMESPACE): string {
  return armorOf(key.sign({ namespace, message: text }))
}

export type TarEntry = [name: string, content: string | Buffer]

export function tarOf(entries: TarEntry[]): Buffer {
  const blocks = entries.flatMap(([name, content]) => {
    const bytes = Buffer.from(content)
    return [entryHeader(name, bytes.length), bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512)]
  })
  return Buffer.concat([...blocks, Buffer.alloc(1024)])
}

export function headEntries(text: string, signatures: string[]): TarEntry[] {
  return [['release.json', text], ...signatures.map((text, index): TarEntry => [`signatures/${index}.sig`, text])]
}

export function objectEntry(content: string | Buffer): TarEntry {
  return [`objects/${sha256(content)}`, content]
}

/** As it goes over the wire; every part may be a lie. */
export function bundleOf(text: string, signatures: string[], contents: (string | Buffer)[] = []): Buffer {
  return zstdCompressSync(tarOf([...headEntries(text, signatures), ...contents.map(objectEntry)]))
}

/** The manifest as text, signed by this key, with these contents. */
export function releaseOf(key: HandKey, manifest: Json, contents: (string | Buffer)[] = []): Buffer {
  const text = JSON.stringify(manifest)
  return bundleOf(text, [signedBy(key, text)], contents)
}

export interface Ground {
  /** A line for each thing on the disk: kind, mode, owner, content. */
  files: string[]
  /** Processes that live or were started below the root. */
  processes: string[]
}

/** Less the ledger, the TLS key and the configuration: a refusal is written to the log only. */
export function groundOf(root: string): Ground {
  const files: string[] = []
  walk(root, (path) => {
    const name = relative(root, path)
    if (/^(ledger\.db.*|tls|etc)(\/|$)/.test(name)) return
    const stats = lstatSync(path)
    const mode = (stats.mode & 0o7777).toString(8)
    const what = stats.isSymbolicLink()
      ? `→ ${readlinkSync(path)}`
      : stats.isFile()
        ? createHash('sha256').update(readFileSync(path)).digest('hex').slice(0, 16)
        : 'directory'
    files.push(`${name} ${mode} ${stats.uid}:${stats.gid} ${what}`)
  })
  return { files: files.sort(), processes: processesUnder(root) }
}

export function processesUnder(root: string): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readlinkSync(`/proc/${pid}/cwd`).startsWith(`${root}/`)
      } catch {
        // It ended while we looked, or is a thread of the kernel.
        return false
      }
    })
}

function walk(dir: string, visit: (path: string) => void): void {
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name)
    visit(path)
    if (entry.isDirectory()) walk(path, visit)
  }
}

/** One bit of it changed. */
export function flipped(bytes: Buffer, bit: number): Buffer {
  const copy = Buffer.from(bytes)
  copy.writeUInt8(copy.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3)
  return copy
}

/** The same numbers in every run, so that what failed once fails again (mulberry32). */
export function randomFrom(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let x = Math.imul(state ^ (state >>> 15), 1 | state)
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
    return ((x ^ (x >>> 14)) >>> 0) % below
  }
}
