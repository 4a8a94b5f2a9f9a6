import { createHash } from 'node:crypto'
import type { Writable } from 'node:stream'
import { createZstdCompress } from 'node:zlib'
import {
  type BundleObject,
  CHUNK_BYTES,
  CHUNKS_IN_FLIGHT,
  END_BYTES,
  entryHeader,
  MANIFEST_NAME,
  MAX_SIGNATURE_BYTES,
  MAX_SIGNATURES,
  objectName,
  paddingBytes,
  recipeName,
  signatureName,
  ZEROS,
} from './bundle.ts'
import { compression, type LinkKind } from './difference.ts'
import { Failure, reasonOf } from './failure.ts'
import { MAX_MANIFEST_BYTES } from './manifest.ts'

/** What goes into a bundle. Manifest and signatures are written as they are; objects come in any order, each once. */
export interface BundleParts {
  manifest: string
  signatures: string[]
  objects: AsyncIterable<BundleObject> | Iterable<BundleObject>
  /** A text the reader has too: see difference.ts. Not for a bundle that is to stand alone. */
  reference?: Uint8Array | undefined
  /** What it is sent over, see difference.ts. */
  link?: LinkKind | undefined
  /** An agent takes it, which hashes all of it: here it is not done once more. */
  isSent?: boolean | undefined
}

/**
 * A bundle's bytes, compressed, as they become ready; nothing is read before it is asked for. Every object of a bundle
 * that is kept is hashed as it passes: a file that changed between walk and packing throws `source_invalid` naming it.
 * Whatever `objects` throws comes out as itself.
 */
export async function* bundleBytes(parts: BundleParts): AsyncGenerator<Buffer> {
  const options = {
    chunkSize: CHUNK_BYTES,
    highWaterMark: CHUNKS_IN_FLIGHT * CHUNK_BYTES,
    ...compression(parts.reference, parts.link),
  }
  const zstd = createZstdCompress(options)
  // It never throws: what goes wrong destroys zstd, and so comes out of the loop below.
  void feed(zstd, tarBytes(parts))
  for await (const chunk of zstd) yield chunk
}

/**
 * Joins the pieces to chunks for zstd, since most are headers and small files and each write is a trip to another
 * thread. The few chunks are filled again and again: half a gigabyte of new ones would set the garbage collector to work
 * on all that is held besides. Ends zstd, or destroys it with what the pieces throw.
 */
async function feed(zstd: Writable, pieces: AsyncIterable<Uint8Array>): Promise<void> {
  try {
    const slots = slotsOf(zstd)
    let slot = await slots.untilFree()
    for await (const piece of pieces) {
      for (let at = 0; at < piece.length; ) {
        const some = piece.subarray(at, at + CHUNK_BYTES - slot.used)
        slot.chunk.set(some, slot.used)
        at += some.length
        slot.used += some.length
        if (slot.used < CHUNK_BYTES) continue
        slots.write(slot)
        slot = await slots.untilFree()
      }
      // Whoever took from it has left: the loop's end closes the pieces.
      if (zstd.destroyed) return
    }
    slots.write(slot)
    // Node ends the frame with the last write when it knows by then that it is the last, and once more when the stream
    // is flushed: an empty second frame, which our own reader refuses. So the end is said only when all is written.
    await slots.untilWritten()
    zstd.end()
  } catch (error) {
    zstd.destroy(error instanceof Error ? error : new Error(reasonOf(error)))
  }
}

interface Slot {
  chunk: Buffer
  used: number
}

/** CHUNKS_IN_FLIGHT of them. Nothing waits for a stream that was destroyed, which does not call back what it holds. */
function slotsOf(zstd: Writable) {
  const fresh = (): Slot => ({ chunk: Buffer.allocUnsafeSlow(CHUNK_BYTES), used: 0 })
  const free = Array.from({ length: CHUNKS_IN_FLIGHT }, fresh)
  let changed = () => {}
  zstd.once('close', () => changed())
  const until = async (count: number) => {
    while (free.length < count && !zstd.destroyed) {
      await new Promise<void>((resolve) => {
        changed = resolve
      })
    }
  }
  return {
    /** One to fill, when zstd has taken in what was in it. */
    async untilFree(): Promise<Slot> {
      // Lets zstd's thread hand over its result and take the next chunk while this one reads on. Awaits alone do not:
      // what they wake runs before anything another thread has to say. Without this the two work in turn.
      await new Promise((resolve) => setImmediate(resolve))
      await until(1)
      return free.pop() ?? fresh()
    },
    write(slot: Slot): void {
      zstd.write(slot.chunk.subarray(0, slot.used), () => {
        free.push({ ...slot, used: 0 })
        changed()
      })
    },
    untilWritten: () => until(CHUNKS_IN_FLIGHT),
  }
}

async function* tarBytes(parts: BundleParts): AsyncGenerator<Uint8Array> {
  yield* smallEntry(MANIFEST_NAME, parts.manifest, MAX_MANIFEST_BYTES)
  if (parts.signatures.length > MAX_SIGNATURES) {
    throw new Failure('limit_exceeded', `bundle: ${parts.signatures.length} signatures; the limit is ${MAX_SIGNATURES}`)
  }
  for (const [index, text] of parts.signatures.entries()) {
    yield* smallEntry(signatureName(index), text, MAX_SIGNATURE_BYTES)
  }
  const seen = new Set<string>()
  for await (const object of parts.objects) {
    if (seen.has(object.sha256)) throw new Error(`object ${object.sha256} was given to the bundle twice`)
    seen.add(object.sha256)
    yield entryHeader((object.recipe ? recipeName : objectName)(object.sha256), object.size)
    const hash = parts.isSent ? undefined : createHash('sha256')
    let left = object.size
    for await (const chunk of object.open()) {
      left -= chunk.length
      if (left < 0) throw changedWhilePacked(object.path ?? object.sha256)
      hash?.update(chunk)
      yield chunk
    }
    if (left !== 0 || (hash && hash.digest('hex') !== object.sha256))
      throw changedWhilePacked(object.path ?? object.sha256)
    yield ZEROS.subarray(0, paddingBytes(object.size))
  }
  yield Buffer.alloc(END_BYTES)
}

function* smallEntry(name: string, text: string, maxBytes: number): Generator<Uint8Array> {
  const content = Buffer.from(text)
  if (content.length > maxBytes) {
    throw new Failure('limit_exceeded', `bundle ${name}: ${content.length} bytes; the limit is ${maxBytes}`)
  }
  yield entryHeader(name, content.length)
  yield content
  yield ZEROS.subarray(0, paddingBytes(content.length))
}

export function changedWhilePacked(path: string): Failure {
  return new Failure('source_invalid', `pack ${JSON.stringify(path)}: it changed while it was packed`, {
    hint: 'run again when nothing writes to it, or name it in .tarmacignore',
  })
}
