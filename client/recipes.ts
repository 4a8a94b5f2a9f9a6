import type { BundleObject } from '../shared/bundle.ts'
import { type Chunk, Chunker } from '../shared/chunking.ts'
import { Failure } from '../shared/failure.ts'
import type { Sha256 } from '../shared/names.ts'
import { addedBytes, type Basis, parseChunks, planRecipe, type Recipe, recipeHead } from '../shared/recipe.ts'
import type { BasisAnswer } from '../shared/wire.ts'
import type { Source } from './source.ts'

// A big file that changed a little travels as a recipe: what of it the agent has already, and the rest.

/** It must save so much: a whole object needs nothing of what lies on the host. */
const MIN_SAVED = 0.25

/** Reads these contents once, and gives a recipe for each that is worth it. */
export async function planRecipes(
  source: Source,
  { wanted, bases }: { wanted: ReadonlySet<Sha256>; bases: readonly BasisAnswer[] },
): Promise<Map<Sha256, Recipe>> {
  const basisOf = new Map<Sha256, Basis>()
  for (const { basis, objects, chunks } of bases) {
    const parsed = { sha256: basis, chunks: parseChunks(chunks) }
    for (const object of objects) if (wanted.has(object)) basisOf.set(object, parsed)
  }
  const recipes = new Map<Sha256, Recipe>()
  if (basisOf.size === 0) return recipes
  for await (const object of source.objects(new Set(basisOf.keys()))) {
    const basis = basisOf.get(object.sha256)
    if (basis === undefined || !isSliceable(object)) continue
    const recipe = planRecipe(await chunksOf(object), basis)
    if (addedBytes(recipe) <= object.size * (1 - MIN_SAVED)) recipes.set(object.sha256, recipe)
  }
  return recipes
}

async function chunksOf(object: BundleObject): Promise<Chunk[]> {
  const chunker = new Chunker()
  const chunks: Chunk[] = []
  for await (const portion of object.open()) {
    chunks.push(...chunker.push(portion))
    // For Ctrl-C, and for the other side of the connection.
    await new Promise((next) => setImmediate(next))
  }
  return [...chunks, ...chunker.end()]
}

/** The same objects, those with a recipe as that. */
export async function* asRecipes(
  objects: AsyncIterable<BundleObject>,
  recipes: ReadonlyMap<Sha256, Recipe>,
): AsyncGenerator<BundleObject> {
  for await (const object of objects) {
    const recipe = recipes.get(object.sha256)
    yield recipe === undefined || !isSliceable(object) ? object : recipeObject(object, recipe)
  }
}

type Sliceable = Required<Pick<BundleObject, 'openAt'>> & BundleObject

function isSliceable(object: BundleObject): object is Sliceable {
  return object.openAt !== undefined
}

function recipeObject(object: Sliceable, recipe: Recipe): BundleObject {
  const head = recipeHead(recipe)
  return {
    ...object,
    recipe: true,
    size: head.length + addedBytes(recipe),
    *open() {
      yield head
      yield* added(object, recipe)
    },
  }
}

/** What is here is not what it was when we asked, or our file is not: whole objects do not depend on either. */
export function isAboutRecipes(error: unknown): error is Failure {
  return error instanceof Failure && (error.code === 'basis_missing' || error.code === 'object_mismatch')
}

/** Of the content, what the recipe does not take of the basis. */
function* added({ openAt }: Sliceable, { steps }: Recipe): Generator<Uint8Array> {
  let at = 0
  for (const { copied, added } of steps) {
    at += copied
    yield* slice(added > 0 ? openAt(at) : [], added)
    at += added
  }
}

function* slice(portions: Iterable<Uint8Array>, bytes: number): Generator<Uint8Array> {
  let left = bytes
  for (const portion of portions) {
    yield portion.subarray(0, left)
    left -= portion.length
    if (left <= 0) return
  }
}
