import { malformed } from './bundle.ts'

// Walks the outside of a zstd frame (RFC 8878 section 3.1.1) without decompressing, to know where it ends. Decoders
// disagree on what may follow: Node 26 decodes a second frame and swallows empty and skippable ones, Node 24 drops a
// second frame silently when it comes in the same write (nodejs/node#64741), tar stops at its own end. Bytes that some
// read and some do not are a place to hide things in, so we demand one frame, and the input's end where it ends.

const MAGIC = 0xfd2fb528
const RLE_BLOCK = 1
const RESERVED_BLOCK = 3

/** `field`: bytes we must see; `body`: how many pass by unseen. */
type Part = { field: number } | { body: number }

function* frameParts(): Generator<Part, void, Buffer> {
  if ((yield { field: 4 }).readUInt32LE() !== MAGIC) throw malformed('is no zstd frame')
  const descriptor = (yield { field: 1 }).readUInt8()
  const singleSegment = (descriptor & 0x20) !== 0
  if ((descriptor & 0x08) !== 0) throw malformed('is a zstd frame of a later format')
  if ((descriptor & 0x03) !== 0) throw malformed('is a zstd frame that asks for a dictionary')
  if (!singleSegment) yield { body: 1 }
  yield { body: [singleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6] ?? 0 }
  for (let last = false; !last; ) {
    const header = (yield { field: 3 }).readUIntLE(0, 3)
    const type = (header >> 1) & 3
    if (type === RESERVED_BLOCK) throw malformed('has a zstd block of a reserved type')
    yield { body: type === RLE_BLOCK ? 1 : header >> 3 }
    last = (header & 1) === 1
  }
  if ((descriptor & 0x04) !== 0) yield { body: 4 }
}

/**
 * The bytes as they are. Throws `bundle_malformed` when they are less than one zstd frame or anything more: another
 * frame, an empty or skippable one, a single byte.
 */
export async function* oneFrame(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const parts = frameParts()
  let part = parts.next()
  let field = Buffer.alloc(0)
  let passed = 0
  for await (const chunk of bytes) {
    for (let at = 0; at < chunk.length; ) {
      if (part.done) throw malformed('goes on after its end')
      const wanted = 'field' in part.value ? part.value.field : part.value.body
      const some = chunk.subarray(at, at + wanted - passed)
      if ('field' in part.value) field = Buffer.concat([field, some])
      at += some.length
      passed += some.length
      // A body may be of no bytes, even at the very end: ask on until something is wanted.
      while (!part.done && passed === ('field' in part.value ? part.value.field : part.value.body)) {
        part = parts.next(field)
        field = Buffer.alloc(0)
        passed = 0
      }
    }
    yield chunk
  }
  if (!part.done) throw malformed('ends in its middle: it was cut short')
}
