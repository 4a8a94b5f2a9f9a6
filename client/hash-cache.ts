import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { isSha256, type Sha256, sha256 } from '../shared/names.ts'
import { type Facts, isSameFile, type WalkedFile } from './walk.ts'

// Remembers what files hold, so that an unchanged tree is not read again. A file is known by path, size, both times and
// inode. It cannot be by content: a write within one tick of the file system's clock, after we read, leaves the same
// size and times with other content, and that push and all later ones would send the old one (git calls it "racily
// clean"). So what was touched just before we read it is not remembered, and is read once more next time.

const CACHE_FORMAT = 2
/** ext4's clock ticks every 4 ms, HFS+'s and old NFS servers' every second, FAT's every 2 s. */
const RACY_MS = 2_000

/** Of a file as it was when it had this content. */
type Known = Facts & { digest: Sha256 }

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
  const now = new Map<string, Known>()
  let changed = false
  return {
    get(walked) {
      const known = old.get(walked.path)
      if (known === undefined || !isSameFile(known, walked)) return undefined
      now.set(walked.path, known)
      return known.digest
    },
    remember({ path, size, mtimeMs, ctimeMs, ino }, digest, readAtMs) {
      const racyFrom = readAtMs - RACY_MS
      if (mtimeMs >= racyFrom || ctimeMs >= racyFrom) return
      now.set(path, { size, mtimeMs, ctimeMs, ino, digest })
      changed = true
    },
    save() {
      if (!changed && now.size === old.size) return
      const temporary = `${file}.${process.pid}.tmp`
      try {
        mkdirSync(cacheDir, { recursive: true, mode: 0o700 })
        writeFileSync(temporary, JSON.stringify({ format: CACHE_FORMAT, dir, files: flat(now) }), { mode: 0o600 })
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

/** One list without lists in it, which is read in half the time. */
function flat(files: ReadonlyMap<string, Known>): unknown[] {
  return [...files].flatMap(([path, { size, mtimeMs, ctimeMs, ino, digest }]) => [
    path,
    size,
    mtimeMs,
    ctimeMs,
    ino,
    digest,
  ])
}

function readCache(file: string, dir: string): Map<string, Known> {
  try {
    return parseCache(JSON.parse(readFileSync(file, 'utf8')), dir)
  } catch {
    // Not there, not readable, not JSON: all that is lost is time.
    return new Map()
  }
}

/** A number that is none matches no file; a digest that is none ends the list. */
function parseCache(value: unknown, dir: string): Map<string, Known> {
  const cache = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
  const known = new Map<string, Known>()
  if (cache.format !== CACHE_FORMAT || cache.dir !== dir || !Array.isArray(cache.files)) return known
  const files = cache.files as unknown[]
  for (let at = 0; at < files.length; at += 6) {
    const [path, size, mtimeMs, ctimeMs, ino, digest] = [
      files[at],
      files[at + 1],
      files[at + 2],
      files[at + 3],
      files[at + 4],
      files[at + 5],
    ]
    if (typeof path !== 'string' || !isSha256(digest)) break
    known.set(path, { size, mtimeMs, ctimeMs, ino, digest } as Known)
  }
  return known
}
