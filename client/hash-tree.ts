import { availableParallelism } from 'node:os'
import type { Sha256 } from '../shared/names.ts'
import { digestOf } from './file-digest.ts'
import type { HashCache } from './hash-cache.ts'
import { claim, startHelper } from './hash-work.ts'
import { PORTION_BYTES } from './source.ts'
import { placeOf, type WalkedFile } from './walk.ts'

export interface HashProgress {
  files: number
  totalFiles: number
  bytes: number
  totalBytes: number
}

/** Often enough for a progress line and for Ctrl-C. */
const BREATH_MS = 50
/** What takes longer to hash than a thread takes to start, 30 ms. */
const HELPED_BYTES = 64 * 1024 * 1024

/**
 * The digest of every file, in the order given; files the cache knows are not opened. A second thread helps with many:
 * half a gigabyte takes 0.36 s instead of 0.65 on two cores. Throws `source_invalid` for a file that cannot be read, or has
 * another size than when it was walked.
 */
export async function hashTree(tree: {
  root: string
  files: WalkedFile[]
  cache: HashCache
  onProgress?: ((progress: HashProgress) => void) | undefined
}): Promise<Sha256[]> {
  const { root, files, cache, onProgress } = tree
  const known = files.map((file) => cache.get(file))
  const unread = files.filter((_, index) => known[index] === undefined)
  const work = { files: unread.map(({ path, size }) => ({ place: placeOf(root, path), size })), claimed: counter() }
  const breath = breathing(onProgress, progressOf(files, unread, work.claimed))
  const readAtMs = Date.now()
  const scratch = Buffer.allocUnsafeSlow(PORTION_BYTES)
  const hash = async (file: WalkedFile): Promise<Sha256> => {
    const reading = digestOf(placeOf(root, file.path), file.size, scratch)
    for (;;) {
      const step = reading.next()
      if (step.done) return step.value
      if (breath.isDue()) await breath.take()
    }
  }
  const found = new Map<number, Sha256>()
  const helper = sumOf(unread) > HELPED_BYTES && availableParallelism() > 1 ? startHelper(work) : undefined
  try {
    for (let index = claim(work.claimed); index < unread.length; index = claim(work.claimed)) {
      const file = unread[index]
      if (file) found.set(index, await hash(file))
      if (breath.isDue()) await breath.take()
    }
    for (const [index, digest] of (await helper?.digests) ?? []) found.set(index, digest)
  } finally {
    helper?.end()
  }
  const digests: Sha256[] = []
  let index = 0
  for (const [at, file] of files.entries()) {
    let digest = known[at]
    if (digest === undefined) {
      digest = found.get(index++) ?? (await hash(file))
      cache.remember(file, digest, readAtMs)
    }
    digests.push(digest)
  }
  if (unread.length > 0) await breath.take()
  return digests
}

function breathing(onProgress: ((progress: HashProgress) => void) | undefined, progress: () => HashProgress) {
  let tookAt = performance.now()
  return {
    isDue: () => performance.now() - tookAt > BREATH_MS,
    async take(): Promise<void> {
      onProgress?.(progress())
      await new Promise((next) => setImmediate(next))
      tookAt = performance.now()
    },
  }
}

/** What somebody has begun with counts as done. */
function progressOf(files: WalkedFile[], unread: WalkedFile[], claimed: Int32Array): () => HashProgress {
  const totalBytes = sumOf(files)
  const unreadBytes = sumOf(unread)
  let bytes = 0
  const upTo = [0, ...unread.map(({ size }) => (bytes += size))]
  return () => {
    const begun = Math.min(Atomics.load(claimed, 0), unread.length)
    return {
      files: files.length - unread.length + begun,
      totalFiles: files.length,
      bytes: totalBytes - unreadBytes + (upTo[begun] ?? 0),
      totalBytes,
    }
  }
}

function counter(): Int32Array {
  return new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT))
}

function sumOf(files: readonly WalkedFile[]): number {
  return files.reduce((sum, { size }) => sum + size, 0)
}
