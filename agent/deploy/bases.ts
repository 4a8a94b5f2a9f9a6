import { planBases } from '../../shared/basis-plan.ts'
import { isFile, type Manifest } from '../../shared/manifest.ts'
import type { Sha256 } from '../../shared/names.ts'
import { chunksText, MIN_RECIPE_BYTES } from '../../shared/recipe.ts'
import type { BasisAnswer } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import { chunksOfObject } from '../state/basis.ts'
import { currentRelease, intactRelease } from '../state/release-store.ts'

/** A disk that takes longer is slower than most lines, and the client waits. */
const MAX_CHUNKING_MS = 10_000

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
  const older = id && (await intactRelease(layout, app, id))?.manifest
  if (older === undefined) return []
  const deadline = performance.now() + MAX_CHUNKING_MS
  const answers: BasisAnswer[] = []
  for (const { basis, objects } of planBases(manifest.files, { missing, older: older.files })) {
    const chunks = await chunksOfObject(layout, app, { sha256: basis, deadline })
    if (chunks !== undefined) answers.push({ basis, objects, chunks: chunksText(chunks) })
  }
  return answers
}
