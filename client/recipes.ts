import type { BundleObject } from '../shared/bundle.ts'
import { type Chunk, Chunker } from '../shared/chunking.ts'
import { Failure } from '../shared/failure.ts'
import type { Sha256 } from '../shared/names.ts'
import {
  addedBytes,
  type Basis,
  MIN_RECIPE_BYTES,
  parseChunks,
  planRecipe,
  type Recipe,
  recipeHead,
} from '../shared/recipe.ts'
import type { BasisAnswer } from '../shared/wire.ts'
import type { Source } from './source.ts'

// A big file that changed a little travels as a recipe: what of it the agent has already, and the rest.

/** It must save so much: a whole object needs nothing of what lies on the host. */
const MIN_SAVED = 0.25

/** The chunks of a source's contents, each read once. */
export interface Chunking extends Disposable {
  /** Gives those of others too that were cut before. */
  of(objects: ReadonlySet<Sha256>): Promise<ReadonlyMap<Sha256, Chunk[]>>
  /** What was cut so far. */
  known: ReadonlyMap<Sha256, Chunk[]>
}

/**
 * Begins with the big ones of the `likely` at once, since nothing else is to be done while the host is asked. Whatever is
 * not asked for then is left. `bases`: what they may be much like, which makes it twice as fast.
 */
export function beginChunks(
  source: Source,
  { likely, bases }: { likely: ReadonlySet<Sha256>; bases: readonly BasisAnswer[] },
): Chunking {
  const basisOf = basesByObject(bases)
  const known = new Map<Sha256, Chunk[]>()
  let wanted: ReadonlySet<Sha256> | undefined
  const cut = async (objects: ReadonlySet<Sha256>) => {
    if (objects.size === 0) return
    for await (const object of source.objects(objects)) {
      if (object.size <= MIN_RECIPE_BYTES) continue
      const chunker = new Chunker(basisOf.get(object.sha256)?.chunks)
      const chunks = await chunksOf(object, chunker, () => wanted === undefined || wanted.has(object.sha256))
      if (chunks !== undefined) known.set(object.sha256, chunks)
    }
  }
  const early = cut(likely)
  // It comes out of `of`, when somebody asks.
  early.catch(() => {})
  return {
    known,
    async of(objects) {
      wanted = objects
      await early
      await cut(new Set([...objects].filter((digest) => !known.has(digest))))
      return known
    },
    [Symbol.dispose]() {
      wanted = new Set()
    },
  }
}

/** Undefined as soon as it is not wanted. */
async function chunksOf(object: BundleObject, chunker: Chunker, isWanted: () => boolean): Promise<Chunk[] | undefined> {
  const chunks: Chunk[] = []
  for await (const portion of object.open()) {
    if (!isWanted()) return undefined
    chunks.push(...chunker.push(portion))
    // For Ctrl-C, and for the other side of the connection.
    await new Promise((next) => setImmediate(next))
  }
  return [...chunks, ...chunker.end()]
}

/** A recipe for each of these objects that is worth it. */
export async function planRecipes(
  chunking: Chunking,
  { wanted, bases }: { wanted: ReadonlySet<Sha256>; bases: readonly BasisAnswer[] },
): Promise<Map<Sha256, Recipe>> {
  const basisOf = basesByObject(bases)
  const recipes = new Map<Sha256, Recipe>()
  for (const [object, chunks] of await chunking.of(
    new Set([...basisOf.keys()].filter((object) => wanted.has(object))),
  )) {
    const basis = basisOf.get(object)
    if (basis === undefined) continue
    const recipe = planRecipe(chunks, basis)
    const size = chunks.reduce((sum, { length }) => sum + length, 0)
    if (addedBytes(recipe) <= size * (1 - MIN_SAVED)) recipes.set(object, recipe)
  }
  return recipes
}

function basesByObject(bases: readonly BasisAnswer[]): Map<Sha256, Basis> {
  return new Map(
    bases.flatMap(({ basis, objects, chunks }) => {
      const parsed = { sha256: basis, chunks: parseChunks(chunks) }
      return objects.map((object): [Sha256, Basis] => [object, parsed])
    }),
  )
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

/** Of the wanted objects as they are to be sent. */
export function bytesOf(
  sizes: ReadonlyMap<Sha256, number>,
  wanted: ReadonlySet<Sha256>,
  recipes: ReadonlyMap<Sha256, Recipe> = new Map(),
): number {
  let bytes = 0
  for (const digest of wanted) {
    const recipe = recipes.get(digest)
    bytes += recipe === undefined ? (sizes.get(digest) ?? 0) : addedBytes(recipe)
  }
  return bytes
}
