import { planBases } from '../shared/basis-plan.ts'
import type { Chunk } from '../shared/chunking.ts'
import { type Entry, isFile, type Manifest } from '../shared/manifest.ts'
import type { Sha256 } from '../shared/names.ts'
import { chunksText } from '../shared/recipe.ts'
import { changedFiles } from '../shared/same-paths.ts'
import type { BasisAnswer } from '../shared/wire.ts'
import type { Reference } from './references.ts'

// What was pushed to a host last tells what it lacks, and what big files may be made of, without asking it.

export interface Since {
  reference: Reference
  /** Contents that the reference has not. */
  lacking: Set<Sha256>
  /** Where it differs, or more: what was there, and what is there now. */
  older: readonly Entry[]
  files: readonly Entry[]
  /** Each path is what it was there, but for the contents and modes of files. */
  areOnlyContents: boolean
}

/** Undefined when the reference is none any more: nobody has checked it since it was written. `text`: with these files. */
export function changesSince(reference: Reference, text: string, files: readonly Entry[]): Since | undefined {
  const before = reference.text.toString()
  const changed = changedFiles(before, text)
  if (changed !== undefined) {
    const lacking = new Set(changed.map(({ after }) => after.sha256))
    if (lacking.size > 0) for (const digest of digestsIn(before)) lacking.delete(digest)
    const [older, newer] = [changed.map((change) => change.before), changed.map((change) => change.after)]
    return { reference, lacking, older, files: newer, areOnlyContents: true }
  }
  const older = filesOf(before)
  if (older === undefined) return undefined
  const lacking = changedIn(files, older)
  // What is new at its path may be old at another one.
  if (lacking.size > 0) for (const entry of older) if (isFile(entry)) lacking.delete(entry.sha256)
  return { reference, lacking, older, files, areOnlyContents: false }
}

const DIGEST = '"sha256":"'
const DIGEST_CHARS = 64

/** Of all files of a release.json. */
function* digestsIn(text: string): Iterable<Sha256> {
  for (let at = text.indexOf(DIGEST); at !== -1; at = text.indexOf(DIGEST, at + DIGEST_CHARS)) {
    yield text.slice(at + DIGEST.length, at + DIGEST.length + DIGEST_CHARS) as Sha256
  }
}

/** Contents that are not what they were at the same path. Both lists are sorted alike, so each is gone through once. */
function changedIn(files: readonly Entry[], older: readonly Entry[]): Set<Sha256> {
  const changed = new Set<Sha256>()
  let at = 0
  for (const entry of files) {
    if (!isFile(entry)) continue
    // Wherever the order is another one, some entries are taken for changed that are not.
    while (at < older.length && (older[at]?.path ?? '') < entry.path) at++
    const before = older[at]
    const isSame = before?.path === entry.path && isFile(before) && before.sha256 === entry.sha256
    if (!isSame) changed.add(entry.sha256)
  }
  return changed
}

function digestsOf(files: readonly Entry[]): Set<Sha256> {
  const digests = new Set<Sha256>()
  for (const entry of files) if (isFile(entry)) digests.add(entry.sha256)
  return digests
}

function filesOf(text: string): readonly Entry[] | undefined {
  try {
    // An agent has checked it: as it was, it is as good as the manifest that was signed then.
    return (JSON.parse(text) as Manifest).files
  } catch {
    return undefined
  }
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
