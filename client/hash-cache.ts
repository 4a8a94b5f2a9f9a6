import { appendFileSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { type Sha256, sha256 } from '../shared/names.ts'
import type { WalkedFile } from './walk.ts'

// Remembers what files hold, so that an unchanged tree is not read again. A file is known by path, size, both times and
// inode. It cannot be by content: a write within one tick of the file system's clock, after we read, leaves the same
// size and times with other content, and that push and all later ones would send the old one (git calls it "racily
// clean"). So what was touched just before we read it is not remembered, and is read once more next time.

const CACHE_FORMAT = 2
/** ext4's clock ticks every 4 ms, HFS+'s and old NFS servers' every second, FAT's every 2 s. */
const RACY_MS = 2_000

const SHA256_CHARS = 64
/** In one list for all files, which is read in half the time of a list of lists: path, size, mtime, ctime, inode, digest. */
type Field = string | number
const FIELDS = 6

export interface HashCache {
  get(file: WalkedFile): Sha256 | undefined
  /** `readAtMs`: the clock when the reading began. Does nothing for a file touched just before, or after. */
  remember(file: WalkedFile, digest: Sha256, readAtMs: number): void
  /** Writes down what was asked for or remembered since it was opened, and forgets the rest. A cache that cannot be written is no failure. */
  save(): void
}

/** The cache of one project. Missing, damaged or of another format, it is empty. */
export function openHashCache(cacheDir: string, projectDir: string): HashCache {
  const dir = resolve(projectDir)
  const file = join(cacheDir, `hashes-${sha256(dir).slice(0, 32)}.json`)
  const old = readCache(file, dir)
  const find = finderIn(old)
  // What is not known has a place too: in the order in which all are asked for now, and next time.
  const rows = new Map<string, Field[]>()
  let changed = false
  return {
    get({ path, size, mtimeMs, ctimeMs, ino }) {
      const at = find(path)
      const isSame = old[at + 1] === size && old[at + 2] === mtimeMs && old[at + 3] === ctimeMs && old[at + 4] === ino
      rows.set(path, isSame ? old.slice(at, at + FIELDS) : [])
      return isSame ? (old[at + 5] as Sha256) : undefined
    },
    remember({ path, size, mtimeMs, ctimeMs, ino }, digest, readAtMs) {
      const racyFrom = readAtMs - RACY_MS
      if (mtimeMs >= racyFrom || ctimeMs >= racyFrom) return
      rows.set(path, [path, size, mtimeMs, ctimeMs, ino, digest])
      changed = true
    },
    save() {
      const files = [...rows.values()].flat()
      if (!changed && files.length === old.length) return
      const temporary = `${file}.${process.pid}.tmp`
      try {
        mkdirSync(cacheDir, { recursive: true, mode: 0o700 })
        const body = Buffer.from(JSON.stringify({ format: CACHE_FORMAT, dir, files }))
        writeFileSync(temporary, `${sha256(body)}\n`, { mode: 0o600 })
        appendFileSync(temporary, body)
        renameSync(temporary, file)
      } catch {
        // A full disk or a read-only home makes the next push slower, not this one wrong.
        removeIfThere(temporary)
      }
    },
  }
}

function removeIfThere(file: string): void {
  try {
    rmSync(file)
  } catch {
    // It was never made, or cannot be removed: nobody reads it.
  }
}

/** Where in the list a path stands; a place without anything when it is not there. Quick when asked in its order. */
function finderIn(list: readonly Field[]): (path: string) => number {
  let next = 0
  let index: Map<Field, number> | undefined
  return (path) => {
    if (list[next] !== path) {
      index ??= new Map(
        Array.from({ length: list.length / FIELDS }, (_, row) => [list[row * FIELDS] ?? '', row * FIELDS]),
      )
      next = index.get(path) ?? next
    }
    if (list[next] !== path) return list.length
    next += FIELDS
    return next - FIELDS
  }
}

/** What we wrote, to the last bit: a digest with one bit changed would go into a release. */
function readCache(file: string, dir: string): Field[] {
  try {
    const bytes = readFileSync(file)
    const body = bytes.subarray(SHA256_CHARS + 1)
    if (bytes.toString('latin1', 0, SHA256_CHARS) !== sha256(body)) return []
    const cache = JSON.parse(body.toString()) as { format?: unknown; dir?: unknown; files: Field[] }
    return cache.format === CACHE_FORMAT && cache.dir === dir ? cache.files : []
  } catch {
    // Not there, not readable, not JSON: all that is lost is time.
    return []
  }
}
