import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { Failure } from '../shared/failure.ts'
import { isSha256, type Sha256, sha256 } from '../shared/names.ts'
import { digestOfHash, fileBytes, PORTION_BYTES } from './source.ts'
import type { WalkedFile } from './walk.ts'

// Remembers what files hold, so that an unchanged tree is not read again. A file is known by path, size, both times and
// inode. It cannot be by content: a write within one tick of the file system's clock, after we read, leaves the same
// size and times with other content, and that push and all later ones would send the old one (git calls it "racily
// clean"). So what was touched just before we read it is not remembered, and is read once more next time.

const CACHE_FORMAT = 1
/** ext4's clock ticks every 4 ms, HFS+'s and old NFS servers' every second, FAT's every 2 s. */
const RACY_NS = 2_000_000_000n
/** Often enough for a progress line and for Ctrl-C. */
const BREATH_MS = 50

export interface HashCache {
  get(file: WalkedFile): Sha256 | undefined
  /** `readAtMs`: the clock when the reading began. Does nothing for a file touched just before, or after. */
  remember(file: WalkedFile, digest: Sha256, readAtMs: number): void
  /** Writes down what was asked for or remembered since it was opened, and forgets the rest. A cache that cannot be written is no failure. */
  save(): void
}

export interface HashProgress {
  files: number
  totalFiles: number
  bytes: number
  totalBytes: number
}

/** The cache of one project. Missing, damaged or of another format, it is empty. */
export function openHashCache(cacheDir: string, projectDir: string): HashCache {
  const dir = resolve(projectDir)
  const file = join(cacheDir, `hashes-${sha256(dir).slice(0, 32)}.json`)
  const old = readCache(file, dir)
  const now = new Map<string, string>()
  let changed = false
  return {
    get(walked) {
      const line = old.get(walked.path)
      const known = keyOf(walked)
      if (line === undefined || !line.startsWith(known)) return undefined
      const digest = line.slice(known.length)
      if (!isSha256(digest)) return undefined
      now.set(walked.path, line)
      return digest
    },
    remember(walked, digest, readAtMs) {
      const racyFrom = BigInt(Math.floor(readAtMs)) * 1_000_000n - RACY_NS
      if (BigInt(walked.mtimeNs) >= racyFrom || BigInt(walked.ctimeNs) >= racyFrom) return
      now.set(walked.path, keyOf(walked) + digest)
      changed = true
    },
    save() {
      if (!changed && now.size === old.size) return
      const temporary = `${file}.${process.pid}.tmp`
      try {
        mkdirSync(cacheDir, { recursive: true, mode: 0o700 })
        writeFileSync(temporary, JSON.stringify({ format: CACHE_FORMAT, dir, files: [...now] }), { mode: 0o600 })
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

function keyOf(file: WalkedFile): string {
  return `${file.size} ${file.mtimeNs} ${file.ctimeNs} ${file.ino} `
}

function readCache(file: string, dir: string): Map<string, string> {
  try {
    return parseCache(JSON.parse(readFileSync(file, 'utf8')), dir)
  } catch {
    // Not there, not readable, not JSON: all that is lost is time.
    return new Map()
  }
}

function parseCache(value: unknown, dir: string): Map<string, string> {
  const cache = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
  const known = new Map<string, string>()
  if (cache.format !== CACHE_FORMAT || cache.dir !== dir || !Array.isArray(cache.files)) return known
  for (const pair of cache.files as unknown[]) {
    if (!Array.isArray(pair)) continue
    const [path, line] = pair as unknown[]
    if (typeof path === 'string' && typeof line === 'string') known.set(path, line)
  }
  return known
}

/**
 * Path → digest of every file, in the order given; files the cache knows are not opened. One thread: two of them, or promises, were
 * slower on two cores. Throws `source_invalid` for a file that cannot be read, or has another size than when it was walked.
 */
export async function hashTree(tree: {
  root: string
  files: WalkedFile[]
  cache: HashCache
  onProgress?: ((progress: HashProgress) => void) | undefined
}): Promise<Map<string, Sha256>> {
  const { root, files, cache, onProgress } = tree
  const totalBytes = files.reduce((sum, { size }) => sum + size, 0)
  const digests = new Map<string, Sha256>()
  const scratch = Buffer.allocUnsafeSlow(PORTION_BYTES)
  let bytes = 0
  let breathedAt = performance.now()
  const breathe = async (): Promise<void> => {
    onProgress?.({ files: digests.size, totalFiles: files.length, bytes, totalBytes })
    await new Promise((next) => setImmediate(next))
    breathedAt = performance.now()
  }
  for (const file of files) {
    let digest = cache.get(file)
    if (digest === undefined) {
      const readAtMs = Date.now()
      const reading = digestOf(join(root, file.path), file.size, scratch)
      let step = reading.next()
      for (; !step.done; step = reading.next()) if (performance.now() - breathedAt > BREATH_MS) await breathe()
      digest = step.value
      cache.remember(file, digest, readAtMs)
    }
    digests.set(file.path, digest)
    bytes += file.size
    if (performance.now() - breathedAt > BREATH_MS) await breathe()
  }
  await breathe()
  return digests
}

/** Yields after each portion of the file, so that others can run meanwhile; returns the digest. */
export function* digestOf(file: string, size: number, scratch: Buffer): Generator<void, Sha256> {
  const hash = createHash('sha256')
  let total = 0
  for (const portion of fileBytes(file, scratch)) {
    total += portion.length
    hash.update(portion)
    yield
  }
  if (total !== size) {
    throw new Failure(
      'source_invalid',
      `hash ${JSON.stringify(file)}: it had ${size} bytes and then ${total}: something writes to it`,
      {
        hint: 'run again when nothing writes to it, or name it in .tarmacignore',
      },
    )
  }
  return digestOfHash(hash)
}
