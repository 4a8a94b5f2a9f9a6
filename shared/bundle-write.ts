import { createHash } from 'node:crypto'
import { pipeline, type Writable } from 'node:stream'
import { createZstdCompress } from 'node:zlib'
import {
  BLOCK_BYTES,
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
} from './bundle.ts'
import { compression } from './difference.ts'
import { Failure } from './failure.ts'
import { MAX_MANIFEST_BYTES } from './manifest.ts'

/** What goes into a bundle. Manifest and signatures are written as they are; objects come in any order, each once. */
export interface BundleParts {
  manifest: string
  signatures: string[]
  objects: AsyncIterable<BundleObject> | Iterable<BundleObject>
  /** A text the reader has too: see difference.ts. Not for a bundle that is to stand alone. */
  reference?: Uint8Array | undefined
  /** The link is what it waits for: more time for fewer bytes. */
  isFar?: boolean | undefined
}

const ZEROS = Buffer.alloc(BLOCK_BYTES)

/**
 * A bundle's bytes, compressed, as they become ready; nothing is read before it is asked for. Every object is hashed
 * as it passes (what a recipe makes only the agent can hash): a file that changes between walk and packing throws `source_invalid` naming it, instead of travelling
 * to a host that refuses it. Whatever `objects` throws comes out as itself.
 */
export async function* bundleBytes(parts: BundleParts): AsyncGenerator<Buffer> {
  const options = {
    chunkSize: CHUNK_BYTES,
    highWaterMark: CHUNKS_IN_FLIGHT * CHUNK_BYTES,
    ...compression(parts.reference, { isFar: parts.isFar ?? false }),
  }
  const zstd = createZstdCompress(options)
  // The callback is there because pipeline asks for one: an error of either side also comes out of the loop below.
  pipeline(unhurriedEnd(batched(tarBytes(parts)), zstd), zstd, () => {})
  for await (const chunk of zstd) yield chunk
}

/**
 * Node ends the frame with the last write when it knows by then that it is the last, and once more when the stream is
 * flushed: an empty second frame, which our own reader refuses. So the end is said only when all is written.
 */
async function* unhurriedEnd(pieces: AsyncIterable<Uint8Array>, zstd: Writable): AsyncGenerator<Uint8Array> {
  yield* pieces
  // Also called, with an error, when the stream is destroyed: this never waits for ever.
  await new Promise((resolve) => zstd.write(Buffer.alloc(0), resolve))
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
    const hash = createHash('sha256')
    let left = object.size
    for await (const chunk of object.open()) {
      left -= chunk.length
      if (left < 0) throw changed(object)
      hash.update(chunk)
      yield chunk
    }
    if (left !== 0 || (!object.recipe && hash.digest('hex') !== object.sha256)) throw changed(object)
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

function changed(object: BundleObject): Failure {
  return new Failure(
    'source_invalid',
    `pack ${JSON.stringify(object.path ?? object.sha256)}: it changed while it was packed`,
    {
      hint: 'run again when nothing writes to it, or name it in .tarmacignore',
    },
  )
}

/** Joins small pieces: every write to a zlib stream is a trip to another thread, and most pieces are headers and small files. */
async function* batched(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let batch = Buffer.allocUnsafeSlow(CHUNK_BYTES)
  let used = 0
  for await (const piece of pieces) {
    for (let at = 0; at < piece.length; ) {
      const some = piece.subarray(at, at + CHUNK_BYTES - used)
      batch.set(some, used)
      at += some.length
      used += some.length
      if (used < CHUNK_BYTES) continue
      yield batch
      // Lets zstd's thread hand over its result and take the next chunk while this one reads on. Awaits alone do not:
      // what they wake runs before anything another thread has to say. Without this the two work in turn.
      await new Promise((resolve) => setImmediate(resolve))
      batch = Buffer.allocUnsafeSlow(CHUNK_BYTES)
      used = 0
    }
  }
  if (used > 0) yield batch.subarray(0, used)
}
