import { type Entry, isFile } from './manifest.ts'
import type { Sha256 } from './names.ts'
import { MIN_RECIPE_BYTES } from './recipe.ts'

/** To be read for one push. Half a second of a core, and 300 KB of chunks. */
const MAX_BASIS_BYTES = 512 * 1024 ** 2

export interface BasisPlan {
  basis: Sha256
  /** What may be made of it. */
  objects: Sha256[]
}

/**
 * Pure: what of an older release each missing object is much like, since it had the same path there; both of a size
 * that makes it worth asking.
 */
export function planBases(
  files: readonly Entry[],
  { missing, older }: { missing: Iterable<Sha256>; older: readonly Entry[] },
): BasisPlan[] {
  const wanted = new Set(missing)
  const places = new Map<string, Sha256>()
  for (const entry of files) {
    if (isFile(entry) && entry.size > MIN_RECIPE_BYTES && wanted.has(entry.sha256)) places.set(entry.path, entry.sha256)
  }
  const plans = new Map<Sha256, BasisPlan>()
  let bytes = 0
  for (const entry of places.size === 0 ? [] : older) {
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
