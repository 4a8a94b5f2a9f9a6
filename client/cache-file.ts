import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  type Stats,
  statSync,
  writeSync,
} from 'node:fs'
import { dirname, isAbsolute, join } from 'node:path'

// What makes the next command quicker, in the user's cache. To lose it costs time and nothing else, so no trouble here is
// a failure. But it decides what runs and what is signed: what another user may have written is not believed.

const WRITABLE_BY_OTHERS = 0o022
/** A manifest, the biggest of what lies there, has 64 MiB at the most. */
const MAX_BYTES = 128 * 1024 * 1024
/** Nobody writes a file for so long: who began it was killed. */
const STALE_MS = 60_000
const TEMPORARY = '.tmp'

/** Undefined when it is not there, or not ours alone. */
export function readCacheFile(cacheDir: string, name: string): Buffer | undefined {
  try {
    if (!isAbsolute(cacheDir) || !isOurs(statSync(cacheDir))) return undefined
    // Neither through a link, nor waiting for who writes into a pipe.
    const file = openSync(join(cacheDir, name), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    try {
      const stat = fstatSync(file)
      return isOurs(stat) && stat.isFile() && stat.size <= MAX_BYTES ? readFileSync(file) : undefined
    } finally {
      closeSync(file)
    }
  } catch {
    return undefined
  }
}

/** Whole or not at all. `parts` are asked for once there is a place for them. */
export function writeCacheFile(cacheDir: string, name: string, parts: () => readonly (string | Uint8Array)[]): void {
  const temporary = join(cacheDir, `${name}.${process.pid}${TEMPORARY}`)
  try {
    if (!isAbsolute(cacheDir) || !makePlace(cacheDir)) return
    removeStale(cacheDir)
    const file = openSync(temporary, 'wx', 0o600)
    try {
      for (const part of parts()) writeAll(file, typeof part === 'string' ? Buffer.from(part) : part)
      renameSync(temporary, join(cacheDir, name))
    } catch (error) {
      rmSync(temporary)
      throw error
    } finally {
      closeSync(file)
    }
  } catch {
    // A full disk, a read-only home, a file where the directory should be: all that is lost is time.
  }
}

function isOurs({ uid, mode }: Stats): boolean {
  return uid === process.getuid?.() && (mode & WRITABLE_BY_OTHERS) === 0
}

/**
 * False where it is not ours: root in another user's home would leave what that user cannot write. Made with the one above
 * it at the most: a home is nobody's to make. (And a recursive mkdir of Node 26 never ends below /proc.)
 */
function makePlace(cacheDir: string): boolean {
  const above = dirname(cacheDir)
  for (const dir of [dirname(above), above]) {
    const owner = statSync(dir, { throwIfNoEntry: false })?.uid
    if (owner !== undefined && owner !== 0 && owner !== process.getuid?.()) return false
  }
  for (const dir of [above, cacheDir]) if (!existsSync(dir)) mkdirSync(dir, { mode: 0o700 })
  return isOurs(statSync(cacheDir))
}

/** Of those who were killed. */
function removeStale(cacheDir: string): void {
  for (const name of readdirSync(cacheDir)) {
    const file = join(cacheDir, name)
    if (name.endsWith(TEMPORARY) && Math.abs(Date.now() - lstatSync(file).mtimeMs) > STALE_MS) rmSync(file)
  }
}

function writeAll(file: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at)
}
