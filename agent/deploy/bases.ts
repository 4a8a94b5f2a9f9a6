import { Failure } from '../../shared/failure.ts'
import { isFile, type Manifest } from '../../shared/manifest.ts'
import type { AppName, ReleaseId, Sha256 } from '../../shared/names.ts'
import { chunksText, MIN_RECIPE_BYTES } from '../../shared/recipe.ts'
import type { BasisAnswer } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import { chunksOfObject } from '../state/basis.ts'
import type { Layout } from '../state/layout.ts'
import { currentRelease, readRelease } from '../state/release-store.ts'

/** Read for one question. Half a second of a core, and an answer of 300 KB. */
const MAX_BASIS_BYTES = 512 * 1024 ** 2
/** A disk that takes longer is slower than most lines, and the client waits. */
const MAX_CHUNKING_MS = 10_000

interface Plan {
  basis: Sha256
  /** What may be made of it. */
  objects: Sha256[]
}

/**
 * Pure: what of an older release each missing object is much like, since it had the same path there; both of a size
 * that makes it worth asking.
 */
export function planBases(manifest: Manifest, missing: readonly Sha256[], older: Manifest): Plan[] {
  const wanted = new Set(missing)
  const places = new Map<string, Sha256>()
  for (const entry of manifest.files) {
    if (isFile(entry) && entry.size > MIN_RECIPE_BYTES && wanted.has(entry.sha256)) places.set(entry.path, entry.sha256)
  }
  const plans = new Map<Sha256, Plan>()
  let bytes = 0
  for (const entry of older.files) {
    const object = places.get(entry.path)
    if (object === undefined || !wanted.has(object) || !isFile(entry) || entry.size <= MIN_RECIPE_BYTES) continue
    const known = plans.get(entry.sha256)
    if (known === undefined && bytes + entry.size > MAX_BASIS_BYTES) continue
    wanted.delete(object)
    if (known !== undefined) known.objects.push(object)
    else {
      bytes += entry.size
      plans.set(entry.sha256, { basis: entry.sha256, objects: [object] })
    }
  }
  return [...plans.values()]
}

/** What the release that serves, or else the newest one, has in the place of what is missing, in chunks. */
export async function basesFor(
  { layout, ledger }: Pick<Agent, 'layout' | 'ledger'>,
  manifest: Manifest,
  missing: readonly Sha256[],
): Promise<BasisAnswer[]> {
  const { app } = manifest
  const wanted = new Set(missing)
  // Looked at first: most pushes change no such file, and to read the older release.json takes 20 ms.
  if (!manifest.files.some((entry) => isFile(entry) && entry.size > MIN_RECIPE_BYTES && wanted.has(entry.sha256)))
    return []
  const id = currentRelease(layout, app) ?? ledger.releases(app)[0]?.id
  const older = id && manifestOf(layout, app, id)
  if (older === undefined) return []
  const deadline = performance.now() + MAX_CHUNKING_MS
  const answers: BasisAnswer[] = []
  for (const { basis, objects } of planBases(manifest, missing, older)) {
    const chunks = await chunksOfObject(layout, app, { sha256: basis, deadline })
    if (chunks !== undefined) answers.push({ basis, objects, chunks: chunksText(chunks) })
  }
  return answers
}

/** Undefined when it is not what it was: this push may be the one that mends it. */
function manifestOf(layout: Layout, app: AppName, id: ReleaseId): Manifest | undefined {
  try {
    return readRelease(layout, app, id).manifest
  } catch (error) {
    if (error instanceof Failure) return undefined
    throw error
  }
}
