import { createHash } from 'node:crypto'
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
import { Failure } from './failure.ts'
import { MAX_MANIFEST_BYTES } from './manifest.ts'
import { feed } from './zstd-feed.ts'

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
  void feed(zstd, tarBytes(parts), { chunkBytes: CHUNK_BYTES, inFlight: CHUNKS_IN_FLIGHT })
  for await (const chunk of zstd) yield chunk
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
