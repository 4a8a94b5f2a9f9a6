import { planBases } from '../shared/basis-plan.ts'
import type { Chunk } from '../shared/chunking.ts'
import { type Entry, isFile, type Manifest } from '../shared/manifest.ts'
import { changedFiles, differencesOf } from '../shared/manifest-compare.ts'
import type { Sha256 } from '../shared/names.ts'
import { chunksText } from '../shared/recipe.ts'
import type { BasisAnswer } from '../shared/wire.ts'
import type { Reference } from './references.ts'

// What was pushed to a host last tells what it lacks, and what big files may be made of, without asking it.

export interface Since {
  reference: Reference
  /** Contents that the reference has not. */
  lacking: Set<Sha256>
  /** Where they differ: what was there, and what is there now. */
  older: readonly Entry[]
  files: readonly Entry[]
  /** Each path is what it was there, but for the contents and modes of files. */
  areOnlyContents: boolean
}

/** Undefined when the reference is none any more: nobody has checked it since it was written. */
export function changesSince(reference: Reference, text: string): Since | undefined {
  const before = reference.text.toString()
  const differences = differencesOf(before, text)
  if (differences === undefined) return undefined
  const older = differences.flatMap((difference) => difference.before ?? [])
  const files = differences.flatMap((difference) => difference.after ?? [])
  const lacking = new Set(files.filter(isFile).map(({ sha256 }) => sha256))
  // What is new at its path may be old at another one.
  if (lacking.size > 0) for (const digest of digestsIn(before)) lacking.delete(digest)
  return { reference, lacking, older, files, areOnlyContents: changedFiles(before, text, differences) !== undefined }
}

const DIGEST = '"sha256":"'
const DIGEST_CHARS = 64

/** Of all files of a release.json. */
function* digestsIn(text: string): Iterable<Sha256> {
  for (let at = text.indexOf(DIGEST); at !== -1; at = text.indexOf(DIGEST, at + DIGEST_CHARS)) {
    yield text.slice(at + DIGEST.length, at + DIGEST.length + DIGEST_CHARS) as Sha256
  }
}

function digestsOf(files: readonly Entry[]): Set<Sha256> {
  const digests = new Set<Sha256>()
  for (const entry of files) if (isFile(entry)) digests.add(entry.sha256)
  return digests
}

/** What the agent would answer, of those files whose chunks are remembered. */
export function basesIn(remembered: ReadonlyMap<string, string>, { files, lacking, older }: Since): BasisAnswer[] {
  return planBases(files, { missing: lacking, older }).flatMap((plan) => {
    const chunks = remembered.get(plan.basis)
    return chunks === undefined ? [] : { ...plan, chunks }
  })
}

/** To be remembered of this release. */
export function chunkTexts(
  { files }: Manifest,
  { remembered, cut }: { remembered: ReadonlyMap<string, string>; cut: ReadonlyMap<Sha256, Chunk[]> },
): Map<string, string> {
  const texts = new Map<string, string>()
  for (const digest of remembered.size + cut.size === 0 ? [] : digestsOf(files)) {
    const chunks = cut.get(digest)
    const text = chunks === undefined ? remembered.get(digest) : chunksText(chunks)
    if (text !== undefined) texts.set(digest, text)
  }
  return texts
}
