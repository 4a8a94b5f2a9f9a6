import {
  type Entry,
  type FileEntry,
  isFile,
  type Manifest,
  orderedEntry,
  parseManifest,
  type Signed,
} from './manifest.ts'
import { BETWEEN_ENTRIES, beginOfFiles, ENTRY_BEGIN, headTextOf, TEXT_END } from './manifest-text.ts'
import { releaseIdOf } from './names.ts'

// Two release.json compared as text. Most pushes change the contents of a few files, each at the path it had: then what was
// checked of one holds of the other, but for what stands in those few places. 25,000 entries are compared as text in 3 ms, and
// parsed and checked in 150.

/** What stands in one of two lists of files, or in both and differs; then the paths are the same. */
export interface Difference {
  before: Entry | undefined
  after: Entry | undefined
}

export interface ChangedFile {
  before: FileEntry
  after: FileEntry
}

/**
 * What differs in the files of two release.json. Where the order of the bytes is not JavaScript's, one file may be told twice,
 * as gone and as new. Undefined where one is not written as it must be, or more differs than `most`.
 */
export function differencesOf(older: string, text: string, most = Number.POSITIVE_INFINITY): Difference[] | undefined {
  let before = beginOfFiles(older)
  let after = beginOfFiles(text)
  if (before === undefined || after === undefined) return undefined
  const differences: Difference[] = []
  for (;;) {
    const same = sameLength(older.slice(before), text.slice(after))
    if (before + same === older.length && after + same === text.length) return differences
    // Where they differ, back to the begin of the entry.
    const back = Math.max(0, text.slice(after, after + same + ENTRY_BEGIN.length).lastIndexOf(ENTRY_BEGIN))
    const [old, now] = [itemAt(older, before + back), itemAt(text, after + back)]
    // Both at their end, and yet they differ.
    if (old === undefined || now === undefined || (!old.entry && !now.entry)) return undefined
    const order = orderOf(old.entry, now.entry)
    const gone = order <= 0 ? old : undefined
    const come = order >= 0 ? now : undefined
    if (gone?.text !== come?.text) differences.push({ before: gone?.entry, after: come?.entry })
    if (differences.length > most) return undefined
    before += back + (gone?.length ?? 0)
    after += back + (come?.length ?? 0)
  }
}

/** Some milliseconds. To parse all of many is about as quick, and stops now and then for others. */
const MAX_CHANGED = 1_000

/**
 * The same where it is the contents and modes of some files, and nothing else that the rules for paths ask about. Undefined
 * otherwise. `older` is one that was checked.
 */
export function changedFiles(
  older: string,
  text: string,
  differences = differencesOf(older, text, MAX_CHANGED),
): ChangedFile[] | undefined {
  const shared = sharedOf(text)
  if (differences === undefined || shared === undefined || shared !== sharedOf(older)) return undefined
  const changed = differences.filter(isChangedFile)
  return changed.length === differences.length ? changed : undefined
}

function isChangedFile(difference: Difference): difference is ChangedFile {
  const { before, after } = difference
  return before !== undefined && after !== undefined && isFile(before) && isFile(after)
}

/** What `parseManifest` would give, where `changedFiles` says enough. Throws as that does. */
export function parseManifestOn(older: Signed, text: string): { signed: Signed; changed: ChangedFile[] } | undefined {
  const changed = changedFiles(older.text, text)
  const begin = beginOfFiles(text)
  if (changed === undefined || begin === undefined) return undefined
  const head = parseManifest(headTextOf(text, begin)).manifest
  const files = [...older.manifest.files]
  let at = 0
  for (const { after } of changed) {
    while (files[at]?.path !== after.path) {
      if (++at > files.length) throw new Error(`${after.path} is in the text of ${older.id} and not in its files`)
    }
    files[at] = after
  }
  return { signed: { manifest: { ...head, files }, text, id: releaseIdOf(head.created, text) }, changed }
}

/** Undefined where there is none to be read. */
function sharedOf(text: string): string | undefined {
  try {
    return JSON.stringify((JSON.parse(headTextOf(text, beginOfFiles(text) ?? 0)) as Manifest).shared)
  } catch {
    return undefined
  }
}

interface Item {
  /** Undefined at the end of the list. */
  entry: Entry | undefined
  text: string
  /** With the comma behind it. */
  length: number
}

/** Undefined for what is not written as it must be. */
function itemAt(text: string, from: number): Item | undefined {
  const end = text.length - TEXT_END.length
  if (from === end) return { entry: undefined, text: '', length: 0 }
  const next = text.indexOf(BETWEEN_ENTRIES, from)
  const to = next === -1 ? end : next + 1
  const own = text.slice(from, to)
  let entry: Entry
  try {
    entry = orderedEntry(JSON.parse(own), 0)
  } catch {
    return undefined
  }
  return JSON.stringify(entry) === own ? { entry, text: own, length: own.length + (next === -1 ? 0 : 1) } : undefined
}

/** Which of two comes first, if not both at once; the end comes last. */
function orderOf(a: Entry | undefined, b: Entry | undefined): number {
  if (a === undefined || b === undefined) return a === undefined ? 1 : -1
  return a.path < b.path ? -1 : a.path > b.path ? 1 : 0
}

/** Compared at once at first; a slice is no copy. */
const BLOCK_CHARS = 64 * 1024

/** How many characters they have in common from their begin on. */
function sameLength(a: string, b: string): number {
  const most = Math.min(a.length, b.length)
  let same = 0
  for (let step = BLOCK_CHARS; step >= 1; step /= 2) {
    while (same + step <= most && a.slice(same, same + step) === b.slice(same, same + step)) same += step
  }
  return same
}
