import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { Chunk } from '../../shared/chunking.ts'
import { sha256 } from '../../shared/names.ts'
import {
  addedBytes,
  chunksText,
  parseChunks,
  parseRecipeHead,
  parseSteps,
  planRecipe,
  RECIPE_HEAD_BYTES,
  recipeHead,
  STEP_BYTES,
  type Step,
} from '../../shared/recipe.ts'

const BASIS = sha256('the old one')

/** A small alphabet, so that equal chunks are common. */
const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'c', 'd'), maxLength: 40 })

/** A chunk for each letter, of a length of its own. */
function chunksOf(text: string): Chunk[] {
  return [...text].map((letter) => ({ length: bytesOf(letter).length, digest: letter }))
}

function bytesOf(text: string): string {
  return [...text].map((letter) => letter.repeat(letter.charCodeAt(0) - 90)).join('')
}

function followed(steps: Step[], basis: string, added: string): string {
  let taken = 0
  return steps
    .map((step) => {
      const fresh = added.slice(taken, taken + step.added)
      taken += step.added
      return basis.slice(step.offset, step.offset + step.copied) + fresh
    })
    .join('')
}

test('a recipe makes the content, of the basis and of what the basis has not got', () => {
  fc.assert(
    fc.property(letters, letters, (old, text) => {
      const recipe = planRecipe(chunksOf(text), { sha256: BASIS, chunks: chunksOf(old) })
      const added = bytesOf([...text].filter((letter) => !old.includes(letter)).join(''))
      assert.equal(addedBytes(recipe), added.length)
      assert.equal(followed(recipe.steps, bytesOf(old), added), bytesOf(text))
    }),
  )
})

test('a content that did not change is one step', () => {
  const chunks = chunksOf('aabaacabcd')
  const { steps } = planRecipe(chunks, { sha256: BASIS, chunks })
  assert.deepEqual(steps, [{ offset: 0, copied: bytesOf('aabaacabcd').length, added: 0 }])
})

test('a recipe comes out of its bytes as it went in', () => {
  const steps = [
    { offset: 0, copied: 5, added: 2 },
    { offset: 2 ** 40, copied: 2 ** 33, added: 0 },
  ]
  const bytes = recipeHead({ basis: BASIS, steps })
  const size = 2 ** 33 + 7
  assert.deepEqual(parseRecipeHead(bytes, size), { basis: BASIS, count: 2 })
  assert.deepEqual(parseSteps(bytes.subarray(RECIPE_HEAD_BYTES), { size, basis: 2 ** 41, added: 2 }), steps)
})

test('steps that leave the basis, make another size, or do not use what came are refused', () => {
  const refused = (steps: Step[]) =>
    assert.throws(
      () =>
        parseSteps(recipeHead({ basis: BASIS, steps }).subarray(RECIPE_HEAD_BYTES), { size: 10, basis: 8, added: 4 }),
      { code: 'bundle_malformed' },
    )
  const most = 2 ** 48 - 1
  assert.doesNotThrow(() =>
    parseSteps(recipeHead({ basis: BASIS, steps: [{ offset: 2, copied: 6, added: 4 }] }).subarray(RECIPE_HEAD_BYTES), {
      size: 10,
      basis: 8,
      added: 4,
    }),
  )
  refused([{ offset: 3, copied: 6, added: 4 }])
  refused([{ offset: most, copied: 6, added: 4 }])
  refused([{ offset: 0, copied: most, added: 4 }])
  refused([{ offset: 0, copied: 7, added: 4 }])
  refused([{ offset: 0, copied: 5, added: 4 }])
  refused([{ offset: 0, copied: 7, added: 3 }])
  refused([{ offset: 0, copied: 5, added: 5 }])
  refused(Array.from({ length: 100 }, () => ({ offset: 0, copied: 0, added: most })))
  refused([])
})

test('more steps than a content of its size has chunks are refused before they are read', () => {
  const head = Buffer.alloc(RECIPE_HEAD_BYTES)
  head.writeUInt32BE(65, 32)
  assert.doesNotThrow(() => parseRecipeHead(head, 1024 * 1024))
  head.writeUInt32BE(66, 32)
  assert.throws(() => parseRecipeHead(head, 1024 * 1024), { code: 'bundle_malformed' })
  assert.equal(STEP_BYTES, 18)
})

test('chunks come out of their text as they went in, and a text that is none of ours is no chunks', () => {
  const chunks = ['one', 'two'].map((text, index) => ({
    length: 70_000 + index,
    digest: Buffer.from(sha256(text), 'hex').toString('base64', 0, 16),
  }))
  assert.deepEqual(parseChunks(chunksText(chunks)), chunks)
  assert.deepEqual(parseChunks('!'), [])
})
