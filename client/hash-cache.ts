import { createHash } from 'node:crypto'
import { resolve } from 'node:path'
import { type Sha256, sha256 } from '../shared/names.ts'
import { readCacheFile, writeCacheFile } from './cache-file.ts'
import type { WalkedFile } from './walk.ts'

// Remembers what files hold, so that an unchanged tree is not read again. A file is known by path, size, both times and
// inode. It cannot be by content: a write within one tick of the file system's clock, after we read, leaves the same
// size and times with other content, and that push and all later ones would send the old one (git calls it "racily
// clean"). So what was touched just before we read it is not remembered, and is read once more next time.

const CACHE_FORMAT = 3
/** ext4's clock ticks every 4 ms, HFS+'s and old NFS servers' every second, FAT's every 2 s. */
const RACY_MS = 2_000

const SHA256_CHARS = 64
const NUMBERS = 4

export interface HashCache {
  /** It knew nothing when it was opened. */
  readonly isEmpty: boolean
  get(file: WalkedFile): Sha256 | undefined
  /** `readAtMs`: the clock when the reading began. Does nothing for a file touched just before, or after. */
  remember(file: WalkedFile, digest: Sha256, readAtMs: number): void
  /** Writes down what was asked for or remembered since it was opened, and forgets the rest. A cache that cannot be written is no failure. */
  save(): void
}

/** The cache of one project. Missing, damaged or of another format, it is empty. */
export function openHashCache(cacheDir: string, projectDir: string): HashCache {
  const dir = resolve(projectDir)
  const name = `hashes-${sha256(dir).slice(0, 32)}`
  const old = rowsIn(readCacheFile(cacheDir, name), dir)
  const find = finderIn(old.paths)
  // What is not known has a place too: in the order in which all are asked for now, and next time.
  const files: WalkedFile[] = []
  const digests: (Sha256 | undefined)[] = []
  const unknown = new Map<string, number>()
  let changed = false
  return {
    isEmpty: old.paths.length === 0,
    get(file) {
      const row = find(file.path)
      const digest = row !== undefined && holds(old.numbers, row, file) ? digestAt(old.digests, row) : undefined
      if (digest === undefined) unknown.set(file.path, files.length)
      files.push(file)
      digests.push(digest)
      return digest
    },
    remember(file, digest, readAtMs) {
      const racyFrom = readAtMs - RACY_MS
      if (file.mtimeMs >= racyFrom || file.ctimeMs >= racyFrom) return
      const place = unknown.get(file.path) ?? files.length
      files[place] = file
      digests[place] = digest
      changed = true
    },
    save() {
      const known = files.filter((_, place) => digests[place] !== undefined)
      if (!changed && known.length === old.paths.length) return
      writeCacheFile(cacheDir, name, () => {
        const parts = partsOf(dir, known, digests)
        const seal = createHash('sha256')
        for (const part of parts) seal.update(part)
        return [`${seal.digest('hex')}\n`, ...parts]
      })
    },
  }
}

/** Side by side instead of a list of objects: read in a fifth of the time. */
interface Rows {
  paths: string[]
  /** NUMBERS for each path. */
  numbers: Float64Array
  /** SHA256_CHARS for each path. */
  digests: string
}

function holds(numbers: Float64Array, row: number, { size, mtimeMs, ctimeMs, ino }: WalkedFile): boolean {
  const at = row * NUMBERS
  return numbers[at] === size && numbers[at + 1] === mtimeMs && numbers[at + 2] === ctimeMs && numbers[at + 3] === ino
}

function digestAt(digests: string, row: number): Sha256 {
  return digests.slice(row * SHA256_CHARS, (row + 1) * SHA256_CHARS) as Sha256
}

/** Where a path stands. Quick when asked in its order. */
function finderIn(paths: readonly string[]): (path: string) => number | undefined {
  let next = 0
  let index: Map<string, number> | undefined
  return (path) => {
    if (paths[next] !== path) {
      index ??= new Map(paths.map((known, row) => [known, row]))
      const row = index.get(path)
      if (row === undefined) return undefined
      next = row
    }
    return next++
  }
}

function partsOf(dir: string, files: readonly WalkedFile[], digests: readonly (Sha256 | undefined)[]) {
  const numbers = new Float64Array(files.length * NUMBERS)
  for (const [row, { size, mtimeMs, ctimeMs, ino }] of files.entries())
    numbers.set([size, mtimeMs, ctimeMs, ino], row * NUMBERS)
  const head = JSON.stringify({ format: CACHE_FORMAT, dir, files: files.length })
  const paths = files.map(({ path }) => path).join('\0')
  return [`${head}\n`, Buffer.from(numbers.buffer), digests.join(''), paths]
}

/** What we wrote, to the last bit: a digest with one bit changed would go into a release. */
function rowsIn(bytes: Buffer | undefined, dir: string): Rows {
  const none = { paths: [], numbers: new Float64Array(), digests: '' }
  if (bytes === undefined) return none
  try {
    const body = bytes.subarray(SHA256_CHARS + 1)
    if (bytes.toString('latin1', 0, SHA256_CHARS) !== sha256(body)) return none
    const headEnd = body.indexOf('\n')
    const head = JSON.parse(body.toString('utf8', 0, headEnd)) as { format?: unknown; dir?: unknown; files: number }
    if (head.format !== CACHE_FORMAT || head.dir !== dir || head.files === 0) return none
    const numbers = new Float64Array(head.files * NUMBERS)
    const digestsAt = headEnd + 1 + numbers.byteLength
    const pathsAt = digestsAt + head.files * SHA256_CHARS
    new Uint8Array(numbers.buffer).set(body.subarray(headEnd + 1, digestsAt))
    return {
      paths: body.toString('utf8', pathsAt).split('\0'),
      numbers,
      digests: body.toString('latin1', digestsAt, pathsAt),
    }
  } catch {
    // Not as we write it: all that is lost is time.
    return none
  }
}
