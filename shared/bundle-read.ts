import { isUtf8 } from 'node:buffer'
import { createZstdDecompress } from 'node:zlib'
import {
  BLOCK_BYTES,
  CHUNK_BYTES,
  CHUNKS_IN_FLIGHT,
  END_BYTES,
  entryHeader,
  field,
  MAX_SIGNATURE_BYTES,
  MAX_SIGNATURES,
  malformed,
  NAME_FIELD,
  paddingBytes,
  parseEntryName,
  SIZE_FIELD,
  ZEROS,
} from './bundle.ts'
import { decompression } from './difference.ts'
import { Failure, reasonOf } from './failure.ts'
import { giveBack } from './give-back.ts'
import { MAX_FILE_BYTES, MAX_FILES, MAX_MANIFEST_BYTES } from './manifest.ts'
import type { Sha256 } from './names.ts'
import { type Content, Portions } from './portions.ts'
import { feed } from './zstd-feed.ts'
import { oneFrame } from './zstd-frame.ts'

export type BundleEntry =
  /** `bytes`: the same, as it came. */
  | { kind: 'manifest'; text: string; bytes: Uint8Array }
  | { kind: 'signature'; index: number; text: string }
  /**
   * `content` can be read once, and only until the next entry is asked for; what is left of it is then skipped. Each
   * portion of it is good until the next is asked for.
   */
  | { kind: 'object'; sha256: Sha256; size: number; content: Content }
  /** How to make an object: see recipe.ts. `size` is its own, not the object's. */
  | { kind: 'recipe'; sha256: Sha256; size: number; content: Content }

/**
 * How much may come as objects and recipes. Read anew when an object's content is first touched, so that a caller starts with
 * zeros and raises them (or gives getters) once the manifest has been proved: before that, no object byte passes.
 */
export interface BundleLimits {
  readonly maxObjects: number
  /** The sum of the sizes of all of them. */
  readonly maxBytes: number
}

/** For a caller that asks the signed manifest about each object before it touches its content. */
const LIMITED_BY_MANIFEST: BundleLimits = { maxObjects: MAX_FILES, maxBytes: Number.MAX_SAFE_INTEGER }

/** zstd never makes more than 1/256 and a few bytes a block out of what it cannot compress; the rest is what is under way. */
const MAX_EXPANSION = 1.01

/**
 * TLS gives 16 KiB at a time. Given to zstd's thread one by one, half a gigabyte is eight thousand trips there and back,
 * which took as long as the decompressing.
 */
const ARRIVING_BYTES = 128 * 1024

/** What the decompressor holds at both its ends, and as much for what is between them. */
const MAX_UNDER_WAY_BYTES = 3 * CHUNKS_IN_FLIGHT * CHUNK_BYTES

/**
 * Reads a bundle while it arrives, in little memory. Gives the manifest, its signatures, then the objects and recipes; a reader
 * that comes to the end without a throw has seen a whole bundle and nothing else. Contents are not hashed here.
 * Throws `bundle_malformed` and `limit_exceeded`; an error of `bytes` (a connection cut) comes out as itself.
 * Leaving the loop early closes everything, `bytes` too. `reference`: what it was written on, see difference.ts.
 */
export async function* readBundle(
  bytes: AsyncIterable<Uint8Array>,
  limits = LIMITED_BY_MANIFEST,
  reference?: Uint8Array,
): AsyncGenerator<BundleEntry> {
  const tar = new Portions(decompressed(bytes, reference))
  try {
    const first = await nextHeader(tar)
    if (first?.name.kind !== 'manifest') throw malformed('does not begin with release.json')
    yield { kind: 'manifest', ...(await wholeText(tar, first, MAX_MANIFEST_BYTES)) }
    let signatures = 0
    let objectBytes = 0
    const seen = new Set<Sha256>()
    for (let header = await nextHeader(tar); header; header = await nextHeader(tar)) {
      const { name, size } = header
      if (name.kind === 'signature' && name.index === signatures && seen.size === 0) {
        if (++signatures > MAX_SIGNATURES) throw exceeded('signatures', signatures, MAX_SIGNATURES)
        const { text } = await wholeText(tar, header, MAX_SIGNATURE_BYTES)
        yield { kind: 'signature', index: name.index, text }
      } else if ((name.kind === 'object' || name.kind === 'recipe') && !seen.has(name.sha256)) {
        seen.add(name.sha256)
        objectBytes += size
        const total = objectBytes
        const content = tar.content(size, () => {
          if (seen.size > limits.maxObjects) throw exceeded('objects', seen.size, limits.maxObjects)
          if (total > limits.maxBytes) throw exceeded('bytes of objects', total, limits.maxBytes)
        })
        yield { kind: name.kind, sha256: name.sha256, size, content }
        if (content.atOnce() === undefined) for await (const _ of content);
        await zeros(tar, paddingBytes(size))
      } else {
        throw malformed(`entry ${JSON.stringify(header.path)}: there twice, or not in its place`)
      }
    }
  } finally {
    await tar.close()
  }
}

type EntryHead = { name: ReturnType<typeof parseEntryName>; path: string; size: number }

/** Undefined at the end of the tar, when nothing follows it. */
async function nextHeader(tar: Portions): Promise<EntryHead | undefined> {
  const block = tar.atOnce(BLOCK_BYTES) ?? (await tar.exactly(BLOCK_BYTES))
  if (isZero(block)) {
    await zeros(tar, END_BYTES - BLOCK_BYTES)
    if ((await tar.some(1)).length > 0) throw malformed('goes on after its end')
    return undefined
  }
  const { path, size } = parseHeader(block)
  const name = parseEntryName(path)
  if (size > MAX_FILE_BYTES) throw exceeded(`entry ${JSON.stringify(path)}: bytes`, size, MAX_FILE_BYTES)
  // One spelling for each header: no other type, owner, link, device, prefix, checksum or base-256 number gets past.
  if (!block.equals(entryHeader(path, size)))
    throw malformed(`entry ${JSON.stringify(path)}: not the header tarmac writes`)
  return { name, path, size }
}

/** Of the two fields that say something; whether they and the rest are as they must be, the caller asks. */
function parseHeader(block: Buffer): { path: string; size: number } {
  const name = field(block, NAME_FIELD)
  const end = name.indexOf(0)
  const path = name.toString('latin1', 0, end === -1 ? name.length : end)
  const size = Number.parseInt(field(block, SIZE_FIELD).toString('latin1'), 8)
  if (Number.isNaN(size)) throw malformed(`entry ${JSON.stringify(path)}: its header has no size`)
  return { path, size }
}

async function wholeText(tar: Portions, { path, size }: EntryHead, maxBytes: number) {
  if (size > maxBytes) throw exceeded(`entry ${JSON.stringify(path)}: bytes`, size, maxBytes)
  const bytes = await tar.exactly(size)
  await zeros(tar, paddingBytes(size))
  // A signature is over bytes: text that does not give the same bytes back would be checked as something else.
  if (!isUtf8(bytes)) throw malformed(`entry ${JSON.stringify(path)}: not UTF-8`)
  return { text: bytes.toString(), bytes }
}

function exceeded(what: string, count: number, limit: number): Failure {
  return new Failure('limit_exceeded', `bundle ${what}: ${count}; the limit is ${limit}`)
}

async function zeros(tar: Portions, size: number): Promise<void> {
  if (!isZero(tar.atOnce(size) ?? (await tar.exactly(size)))) throw malformed('has something where only zeros belong')
}

/** Of a block at most. */
function isZero(bytes: Buffer): boolean {
  return bytes.equals(ZEROS.subarray(0, bytes.length))
}

/** What one zstd frame holds. The bytes of the source are taken no faster than the result is. */
async function* decompressed(bytes: AsyncIterable<Uint8Array>, reference?: Uint8Array): AsyncGenerator<Buffer> {
  let sent = 0
  let produced = 0
  let sourceError: { error: unknown } | undefined
  async function* counted(): AsyncGenerator<Uint8Array> {
    try {
      for await (const chunk of oneFrame(bytes)) {
        sent += chunk.length
        // A frame of blocks that hold nothing could go on for ever without ever reaching a limit on what comes out.
        if (sent > produced * MAX_EXPANSION + MAX_UNDER_WAY_BYTES) throw malformed('holds less than it takes to say it')
        yield chunk
      }
    } catch (error) {
      sourceError = { error }
      throw error
    }
  }
  const options = {
    chunkSize: CHUNK_BYTES,
    highWaterMark: CHUNKS_IN_FLIGHT * CHUNK_BYTES,
    rejectGarbageAfterEnd: true,
    ...decompression(reference),
  }
  const zstd = createZstdDecompress(options)
  void feed(zstd, counted(), { chunkBytes: ARRIVING_BYTES, inFlight: CHUNKS_IN_FLIGHT, isPrompt: true })
  try {
    for await (const chunk of zstd) {
      produced += chunk.length
      yield chunk
      giveBack(chunk)
    }
  } catch (error) {
    if (sourceError) throw sourceError.error
    throw malformed(`cannot be decompressed: ${reasonOf(error)}`, error)
  }
  if (zstd.bytesWritten !== sent)
    throw malformed(`goes on after its end: ${sent - zstd.bytesWritten} bytes were not read`)
}
