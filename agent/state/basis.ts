import { lstatSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { malformed } from '../../shared/bundle.ts'
import type { BundleEntry } from '../../shared/bundle-read.ts'
import { type Chunk, Chunker } from '../../shared/chunking.ts'
import { Failure, isErrno } from '../../shared/failure.ts'
import type { AppName, Sha256 } from '../../shared/names.ts'
import { Portions } from '../../shared/portions.ts'
import { MIN_RECIPE_BYTES, parseRecipeHead, parseSteps, RECIPE_HEAD_BYTES, STEP_BYTES } from '../../shared/recipe.ts'
import type { Layout } from './layout.ts'
import { isIntact } from './object-check.ts'

// An object of the store as the basis of another one: cut into chunks to be compared, and followed when a recipe came.
// Read by Node's own threads, a mebibyte at a time, so that somebody else gets a turn in between.

const PORTION_BYTES = 1024 * 1024

interface Basis {
  file: FileHandle
  size: number
}

/** Undefined when it is not here in any mode, or is not what it was. */
async function openBasis(layout: Layout, app: AppName, sha256: Sha256): Promise<Basis | undefined> {
  for (const mode of ['0644', '0755'] as const) {
    const path = layout.object(app, sha256, mode)
    const size = lstatSync(path, { throwIfNoEntry: false })?.size
    if (size === undefined || !(await isIntact(path, { sha256, size }))) continue
    try {
      return { file: await open(path), size }
    } catch (error) {
      // It was pruned since we looked.
      if (!isErrno(error, 'ENOENT')) throw error
    }
  }
  return undefined
}

/** Each portion lies where the one before it lay. */
async function* range({ file }: Basis, offset: number, bytes: number, scratch: Buffer): AsyncGenerator<Buffer> {
  for (let done = 0; done < bytes; ) {
    const { bytesRead } = await file.read(scratch, 0, Math.min(scratch.length, bytes - done), offset + done)
    if (bytesRead === 0) throw new Error(`an object ended at ${offset + done}, though nobody may write to it`)
    done += bytesRead
    yield scratch.subarray(0, bytesRead)
  }
}

/** Undefined when the object is not here, is damaged, or reading it takes until after `deadline` (of performance.now). */
export async function chunksOfObject(
  layout: Layout,
  app: AppName,
  { sha256, deadline }: { sha256: Sha256; deadline: number },
): Promise<Chunk[] | undefined> {
  const basis = await openBasis(layout, app, sha256)
  if (basis === undefined) return undefined
  try {
    const chunker = new Chunker()
    const chunks: Chunk[] = []
    for await (const portion of range(basis, 0, basis.size, Buffer.allocUnsafe(PORTION_BYTES))) {
      chunks.push(...chunker.push(portion))
      if (performance.now() > deadline) return undefined
    }
    return [...chunks, ...chunker.end()]
  } finally {
    await basis.file.close()
  }
}

/**
 * What a recipe makes, as if it had come: exactly `size` bytes, whose digest nobody has checked yet. Nothing is given
 * before all steps are known to be within the basis and to make this size. Each portion lies where the one before it
 * lay. Throws `basis_missing` and `bundle_malformed`.
 */
export async function* rebuilt(
  layout: Layout,
  app: AppName,
  { recipe, size }: { recipe: BundleEntry & { kind: 'recipe' }; size: number },
): AsyncGenerator<Buffer> {
  if (size <= MIN_RECIPE_BYTES) throw malformed(`recipe for ${recipe.sha256}: objects of ${size} bytes come whole`)
  const bytes = new Portions(recipe.content[Symbol.asyncIterator]())
  const head = parseRecipeHead(await bytes.exactly(RECIPE_HEAD_BYTES), size)
  const steps = await bytes.exactly(head.count * STEP_BYTES)
  const added = recipe.size - RECIPE_HEAD_BYTES - steps.length
  const basis = await openBasis(layout, app, head.basis)
  if (basis === undefined) {
    throw new Failure(
      'basis_missing',
      `store ${app}: object ${recipe.sha256} was to be made of ${head.basis}, which is not here`,
      {
        hint: 'push again: it is sent whole',
      },
    )
  }
  try {
    const scratch = Buffer.allocUnsafe(PORTION_BYTES)
    for (const step of parseSteps(steps, { size, basis: basis.size, added })) {
      yield* range(basis, step.offset, step.copied, scratch)
      yield* bytes.content(step.added)
    }
  } finally {
    await basis.file.close()
  }
}
