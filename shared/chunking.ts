import { createHash, hash } from 'node:crypto'

// Cuts a content where its own bytes say so, so that an insertion moves the cuts with it and changes only the chunks
// around it. FastCDC with normalised chunking: Xia et al., "FastCDC: a Fast and Efficient Content-Defined Chunking
// Approach for Data Deduplication", USENIX ATC 2016, https://www.usenix.org/conference/atc16/technical-sessions/presentation/xia
// Both sides must cut alike: whoever changes a number here changes the wire. Two that do not agree find nothing in
// common and send whole objects; they never make a wrong one, since its digest is checked.

/** No cut before: smaller chunks cost more to name than to send. */
export const MIN_CHUNK_BYTES = 16 * 1024
/** Up to here a cut is made unlikely, from here on likely: that holds most chunks near 64 KiB, their average. */
const NORMAL_CHUNK_BYTES = 56 * 1024
/** A cut is made here at the latest: of zeros, for one, there is nothing to cut by. */
export const MAX_CHUNK_BYTES = 256 * 1024
/** How many of the 32 bits must be zero at a cut. 16 would give 64 KiB; two more before the normal size, two less after. */
const BITS_BEFORE_NORMAL = 18
const BITS_AFTER_NORMAL = 14
/** Half a sha256: it finds what is equal and proves nothing, so a collision costs a second upload at most. */
export const CHUNK_DIGEST_BYTES = 16

export interface Chunk {
  length: number
  /** Base64 of the first 16 bytes of its sha256. */
  digest: string
}

/**
 * Takes a content in portions of any size and gives its chunks: the same ones whatever the portions. `older` are those of
 * a content that may be much like it: where bytes are the same after a cut, so is the next cut, and is not looked for.
 */
export class Chunker {
  readonly #gear = gearTable()
  /** Less the last one: a content ends anywhere. */
  readonly #older: readonly Chunk[]
  readonly #places: ReadonlyMap<string, number>
  /** In `older`, what comes next if it goes on as there. */
  #next = 0
  #hash = createHash('sha256')
  #length = 0
  /** Of the last 32 bytes: what is older was shifted out. */
  #rolling = 0

  constructor(older: readonly Chunk[] = []) {
    this.#older = older.slice(0, -1)
    this.#places = new Map(this.#older.map(({ digest }, index) => [digest, index]))
  }

  /** The chunks that end in this portion. */
  push(portion: Uint8Array): Chunk[] {
    const ended: Chunk[] = []
    let start = 0
    for (let at = 0; at < portion.length; ) {
      const same = this.#length === 0 ? this.#asBefore(portion.subarray(at)) : undefined
      if (same !== undefined) {
        ended.push(same)
        at += same.length
        start = at
        continue
      }
      const end = this.#nextStop(portion, at)
      this.#length += end.at - at
      at = end.at
      if (!end.isCut && this.#length < MAX_CHUNK_BYTES) continue
      this.#hash.update(portion.subarray(start, at))
      ended.push(this.#cut())
      start = at
    }
    this.#hash.update(portion.subarray(start))
    return ended
  }

  /** What is left after the last portion: one chunk, or none. */
  end(): Chunk[] {
    return this.#length === 0 ? [] : [this.#cut()]
  }

  /** The next of the older chunks, when these bytes begin with it. */
  #asBefore(bytes: Uint8Array): Chunk | undefined {
    const older = this.#older[this.#next]
    if (older === undefined || older.length > bytes.length) return undefined
    if (shortened(hash('sha256', bytes.subarray(0, older.length), 'buffer')) !== older.digest) return undefined
    this.#next++
    return older
  }

  #cut(): Chunk {
    const chunk = { length: this.#length, digest: shortened(this.#hash.digest()) }
    this.#next = (this.#places.get(chunk.digest) ?? this.#older.length) + 1
    this.#hash = createHash('sha256')
    this.#length = 0
    this.#rolling = 0
    return chunk
  }

  /** The next cut, or where another rule begins, or the end of the portion. */
  #nextStop(portion: Uint8Array, from: number): { at: number; isCut: boolean } {
    const length = this.#length
    const upTo = (bytes: number) => Math.min(portion.length, from + bytes - length)
    if (length < MIN_CHUNK_BYTES) return { at: upTo(MIN_CHUNK_BYTES), isCut: false }
    const isBefore = length < NORMAL_CHUNK_BYTES
    const end = upTo(isBefore ? NORMAL_CHUNK_BYTES : MAX_CHUNK_BYTES)
    const shift = 32 - (isBefore ? BITS_BEFORE_NORMAL : BITS_AFTER_NORMAL)
    const gear = this.#gear
    let rolling = this.#rolling
    // The one loop that sees every byte: 1.7 GB/s.
    for (let at = from; at < end; at++) {
      rolling = ((rolling << 1) + (gear[portion[at] ?? 0] ?? 0)) | 0
      if (rolling >>> shift === 0) return { at: at + 1, isCut: true }
    }
    this.#rolling = rolling
    return { at: end, isCut: false }
  }
}

function shortened(digest: Buffer): string {
  return digest.toString('base64', 0, CHUNK_DIGEST_BYTES)
}

/** A random number for each value of a byte: any will do, as long as both sides have the same. */
function gearTable(): Int32Array {
  const digests = Array.from({ length: 32 }, (_, index) => hash('sha256', `tarmac-chunking ${index}`, 'buffer'))
  const bytes = Buffer.concat(digests)
  return Int32Array.from({ length: 256 }, (_, value) => bytes.readInt32BE(value * 4))
}
