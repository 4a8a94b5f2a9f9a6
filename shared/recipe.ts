import { malformed } from './bundle.ts'
import { CHUNK_DIGEST_BYTES, type Chunk, MIN_CHUNK_BYTES } from './chunking.ts'
import { isSha256, type Sha256 } from './names.ts'

// How an object is made of another one, its basis, which the agent has. A recipe is: the basis' sha256 (32 bytes), the
// number of steps (4 bytes), the steps (18 bytes each), then the bytes that come new, one after the other. A step says:
// take so many bytes of the basis from there, then so many of the new ones (offset, copied, added: 6 bytes each). All
// numbers are big-endian. The result is worth nothing until its sha256 is that of the signed manifest.

/** A smaller object is sent whole: it costs less than to ask. */
export const MIN_RECIPE_BYTES = 1024 * 1024
export const RECIPE_HEAD_BYTES = 32 + 4
export const STEP_BYTES = 3 * 6

export interface Step {
  /** In the basis. */
  offset: number
  copied: number
  added: number
}

export interface Recipe {
  basis: Sha256
  steps: Step[]
}

/** What the agent has that is much like an object it lacks. */
export interface Basis {
  sha256: Sha256
  chunks: Chunk[]
}

/** Pure: makes the content of these chunks of what the basis has of them. Neighbours become one step. */
export function planRecipe(chunks: readonly Chunk[], basis: Basis): Recipe {
  const starts: number[] = []
  const places = new Map<string, number>()
  let at = 0
  for (const [index, { digest, length }] of basis.chunks.entries()) {
    starts.push(at)
    if (!places.has(digest)) places.set(digest, index)
    at += length
  }
  const steps: Step[] = []
  let next = -1
  for (const { digest, length } of chunks) {
    // Of equal ones that which goes on where the last one ended.
    const place = basis.chunks[next]?.digest === digest ? next : places.get(digest)
    const last = steps.at(-1)
    if (place === undefined) {
      if (last === undefined) steps.push({ offset: 0, copied: 0, added: length })
      else last.added += length
      continue
    }
    if (last !== undefined && last.added === 0 && place === next) last.copied += length
    else steps.push({ offset: starts[place] ?? 0, copied: length, added: 0 })
    next = place + 1
  }
  return { basis: basis.sha256, steps }
}

/** How many bytes come new. */
export function addedBytes({ steps }: Recipe): number {
  return steps.reduce((sum, { added }) => sum + added, 0)
}

/** All of a recipe but the new bytes. */
export function recipeHead({ basis, steps }: Recipe): Buffer {
  const head = Buffer.alloc(RECIPE_HEAD_BYTES + steps.length * STEP_BYTES)
  head.write(basis, 'hex')
  let at = head.writeUInt32BE(steps.length, 32)
  for (const { offset, copied, added } of steps)
    for (const number of [offset, copied, added]) at = head.writeUIntBE(number, at, 6)
  return head
}

/** Throws `bundle_malformed` when there are more steps than an object of this size can need. */
export function parseRecipeHead(head: Buffer, size: number): { basis: Sha256; count: number } {
  const basis = head.toString('hex', 0, 32)
  const count = head.readUInt32BE(32)
  // Each has one chunk at the least, and only the last one of a content may be smaller than the smallest.
  const limit = Math.floor(size / MIN_CHUNK_BYTES) + 1
  if (!isSha256(basis) || count > limit) throw malformed(`recipe: ${count} steps; the limit is ${limit}`)
  return { basis, count }
}

/**
 * The steps, when they make exactly `size` bytes of nothing but the basis and all of the new bytes. Throws
 * `bundle_malformed`.
 */
export function parseSteps(bytes: Buffer, sizes: { size: number; basis: number; added: number }): Step[] {
  const steps: Step[] = []
  let size = 0
  let fresh = 0
  for (let at = 0; at < bytes.length; at += STEP_BYTES) {
    const [offset, copied, added] = [bytes.readUIntBE(at, 6), bytes.readUIntBE(at + 6, 6), bytes.readUIntBE(at + 12, 6)]
    if (offset + copied > sizes.basis)
      throw malformed(`recipe: takes the bytes ${offset} to ${offset + copied} of ${sizes.basis}`)
    // These only grow: a sum too large to be exact is far too large.
    size += copied + added
    fresh += added
    steps.push({ offset, copied, added })
  }
  if (size !== sizes.size) throw malformed(`recipe: makes ${size} bytes; the signed release.json says ${sizes.size}`)
  if (fresh !== sizes.added) throw malformed(`recipe: brings ${sizes.added} bytes and uses ${fresh}`)
  return steps
}

const WIRE_CHUNK_BYTES = 4 + CHUNK_DIGEST_BYTES

/** Base64 of 20 bytes for each: length (big-endian) and digest. */
export function chunksText(chunks: readonly Chunk[]): string {
  const bytes = Buffer.alloc(chunks.length * WIRE_CHUNK_BYTES)
  let at = 0
  for (const { length, digest } of chunks) {
    bytes.writeUInt32BE(length, at)
    bytes.write(digest, at + 4, 'base64')
    at += WIRE_CHUNK_BYTES
  }
  return bytes.toString('base64')
}

/** What is left over at the end of a text that is none of ours is no chunk. */
export function parseChunks(text: string): Chunk[] {
  const bytes = Buffer.from(text, 'base64')
  return Array.from({ length: Math.floor(bytes.length / WIRE_CHUNK_BYTES) }, (_, index) => {
    const at = index * WIRE_CHUNK_BYTES
    return { length: bytes.readUInt32BE(at), digest: bytes.toString('base64', at + 4, at + WIRE_CHUNK_BYTES) }
  })
}
