import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import fc from 'fast-check'
import { type Chunk, Chunker, MAX_CHUNK_BYTES, MIN_CHUNK_BYTES } from '../../shared/chunking.ts'
import { sha256 } from '../../shared/names.ts'
import { randomFrom } from '../helpers/raw-release.ts'

const MEBIBYTE = 1024 * 1024
/** A cut forgets what was before it, and so two contents meet again at the first cut they share: seldom later than this. */
const CHUNKS_NEAR = 8

function chunksOf(content: Buffer, portion = MEBIBYTE, older?: Chunk[]): Chunk[] {
  const chunker = new Chunker(older)
  const chunks: Chunk[] = []
  for (let at = 0; at < content.length; at += portion) chunks.push(...chunker.push(content.subarray(at, at + portion)))
  return [...chunks, ...chunker.end()]
}

function seeded(bytes: number, seed: number): Buffer {
  const below = randomFrom(seed)
  return Buffer.from(Array.from({ length: bytes }, () => below(256)))
}

test('the chunks of a content are its bytes, one after the other, each of a size that is allowed', () => {
  for (const content of [randomBytes(3 * MEBIBYTE + 17), Buffer.alloc(MEBIBYTE), Buffer.alloc(1), Buffer.alloc(0)]) {
    let at = 0
    const chunks = chunksOf(content)
    for (const { length, digest } of chunks) {
      const whole = Buffer.from(sha256(content.subarray(at, at + length)), 'hex')
      assert.equal(digest, whole.toString('base64', 0, 16))
      at += length
      assert.ok(length <= MAX_CHUNK_BYTES)
      assert.ok(length >= MIN_CHUNK_BYTES || at === content.length)
    }
    assert.equal(at, content.length)
  }
})

test('the same bytes have the same chunks, however they arrive', () => {
  const content = seeded(MEBIBYTE, 1)
  const whole = chunksOf(content)
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 300_000 }), { minLength: 1, maxLength: 20 }), (sizes) => {
      const chunker = new Chunker()
      const chunks: Chunk[] = []
      for (let at = 0, turn = 0; at < content.length; turn++) {
        const size = sizes[turn % sizes.length] ?? 1
        chunks.push(...chunker.push(content.subarray(at, at + size)))
        at += size
      }
      assert.deepEqual([...chunks, ...chunker.end()], whole)
    }),
    { numRuns: 30 },
  )
})

test('both sides cut where every version before did: the numbers are part of the wire', () => {
  const chunks = chunksOf(seeded(MEBIBYTE, 7))
  assert.deepEqual(
    chunks.map(({ length }) => length),
    [47827, 79601, 75323, 79355, 71282, 125463, 143613, 66446, 32066, 86465, 74930, 58668, 59909, 47628],
  )
})

test('chunks have 64 KiB on the average', () => {
  const content = randomBytes(16 * MEBIBYTE)
  const average = content.length / chunksOf(content).length / 1024
  assert.ok(average > 54 && average < 76, `${average} KiB`)
})

test('an insertion, a removal or a change leaves all chunks that are not near it', () => {
  const content = seeded(2 * MEBIBYTE, 3)
  const older = chunksOf(content)
  const known = new Set(older.map(({ digest }) => digest))
  fc.assert(
    fc.property(fc.nat(content.length), fc.nat(40_000), fc.uint8Array({ maxLength: 1000 }), (at, removed, added) => {
      const edited = Buffer.concat([content.subarray(0, at), added, content.subarray(at + removed)])
      const strange = chunksOf(edited).filter(({ digest }) => !known.has(digest))
      assert.ok(strange.length <= CHUNKS_NEAR, `${strange.length} chunks`)
      // And they are the same for whoever knows those of the older one.
      assert.deepEqual(chunksOf(edited, 700_000, older), chunksOf(edited))
    }),
    { numRuns: 25 },
  )
})
