import {
  type Entry,
  type FileEntry,
  isFile,
  type Manifest,
  orderedEntry,
  parseManifest,
  type Signed,
} from './manifest.ts'
import { BETWEEN, beginOfFiles, END, ENTRY, headTextOf } from './manifest-text.ts'
import { releaseIdOf } from './names.ts'

// Most pushes change the contents of a few files, each at the path it had. Then what was checked of one release.json holds
// of the other, but for what stands in those few places: 25,000 entries are compared as text in 3 ms, and parsed and checked
// in 80.

/** Some milliseconds. To parse all of many is about as quick, and stops now and then for others. */
const MAX_CHANGED = 1_000

export interface ChangedFile {
  before: FileEntry
  after: FileEntry
}

/**
 * What differs in the files of two release.json, in their order. Undefined where it is more than the contents and modes of MAX_CHANGED files,
 * or their shared directories are not the same; and where `text` is not written as it must be. `older` is one that was checked.
 */
export function changedFiles(older: string, text: string): ChangedFile[] | undefined {
  let before = beginOfFiles(older)
  let after = beginOfFiles(text)
  if (before === undefined || after === undefined) return undefined
  const shared = sharedOf(text, after)
  if (shared === undefined || shared !== sharedOf(older, before)) return undefined
  const changed: ChangedFile[] = []
  for (;;) {
    const same = sameLength(older.slice(before), text.slice(after))
    if (before + same === older.length && after + same === text.length) return changed
    if (changed.length === MAX_CHANGED) return undefined
    // Where they differ, back to the begin of the entry.
    const back = text.slice(after, after + same + ENTRY.length).lastIndexOf(ENTRY)
    if (back === -1) return undefined
    const [old, now] = [entryAt(older, before + back), entryAt(text, after + back)]
    if (old === undefined || now === undefined || old.entry.path !== now.entry.path) return undefined
    if (old.text === now.text) return undefined
    changed.push({ before: old.entry, after: now.entry })
    before += back + old.text.length
    after += back + now.text.length
  }
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
function sharedOf(text: string, begin: number): string | undefined {
  try {
    return JSON.stringify((JSON.parse(headTextOf(text, begin)) as Manifest).shared)
  } catch {
    return undefined
  }
}

/** A file, written as it must be. */
function entryAt(text: string, from: number): { entry: FileEntry; text: string } | undefined {
  const next = text.indexOf(BETWEEN, from)
  const own = text.slice(from, next === -1 ? text.length - END.length : next + 1)
  let entry: Entry
  try {
    entry = orderedEntry(JSON.parse(own), 0)
  } catch {
    return undefined
  }
  return isFile(entry) && JSON.stringify(entry) === own ? { entry, text: own } : undefined
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
