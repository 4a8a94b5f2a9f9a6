import type { Hash } from 'node:crypto'
import { closeSync, constants, openSync, readSync } from 'node:fs'
import type { BundleObject } from '../shared/bundle.ts'
import { Failure, reasonOf } from '../shared/failure.ts'
import { type Entry, type FileEntry, isFile, type Signed } from '../shared/manifest.ts'
import { isSha256, type Sha256 } from '../shared/names.ts'
import { parentsOf } from '../shared/tree.ts'

// What a release is made from: a directory, a foreign archive, or a bundle that was packed before. All give the same.

export interface Source {
  /** For a manifest: sorted by the bytes of their paths. */
  readonly entries: Entry[]
  /** Sentences for a person; none of them stops a push. */
  readonly warnings: string[]
  /** The text of the tarmac.toml at the top. It is not among the entries. */
  readonly projectToml?: string
  /** Set when the source is a bundle: this is what was signed, and no other manifest can be made of it. */
  readonly signed?: { signed: Signed; signatures: string[] }
  /**
   * The wanted objects, each once, in the order in which they are to be sent; read each before asking for the next. Can be
   * called again. Throws `object_missing` when the source has not got one of them.
   */
  objects(wanted: ReadonlySet<Sha256>): AsyncIterable<BundleObject>
  /** Writes down what makes the next look quicker, if it has not yet: for a moment when others work. `close` does it too. */
  remember?(): void
  /** Takes away what the source made on the disk. */
  close(): void
}

/** Most files are read whole in one call; bigger ones in portions of this. */
export const PORTION_BYTES = 1024 * 1024

/**
 * A file's content, from byte `from` on. With `scratch`, every portion lies in it, and the next one overwrites it.
 * Throws `source_invalid`; never follows a link that took the file's place.
 */
export function* fileBytes(
  file: string,
  scratch: Buffer = Buffer.allocUnsafeSlow(PORTION_BYTES),
  from = 0,
): Generator<Buffer> {
  let fd: number | undefined
  try {
    fd = openSync(file, constants.O_RDONLY | constants.O_NOFOLLOW)
    for (let at = from; ; at += scratch.length) {
      const bytes = readSync(fd, scratch, 0, scratch.length, at)
      if (bytes > 0) yield scratch.subarray(0, bytes)
      // A regular file gives less than was asked for at its end only: no second call for the many small ones.
      if (bytes < scratch.length) return
    }
  } catch (cause) {
    throw cause instanceof Failure ? cause : unreadable(file, cause)
  } finally {
    if (fd !== undefined) closeSync(fd)
  }
}

export function unreadable(path: string, cause: unknown): Failure {
  return new Failure('source_invalid', `read ${JSON.stringify(path)}: ${reasonOf(cause)}`, { cause })
}

/** The digest of a sha256 that was fed piece by piece. */
export function digestOfHash(hash: Hash): Sha256 {
  const hex = hash.digest('hex')
  if (!isSha256(hex)) throw new Error(`${hex} is no sha256: the hash is of another kind`)
  return hex
}

/** Half of a character beyond U+FFFF: there JavaScript's order, by UTF-16, is another than that of the UTF-8 bytes. */
const SURROGATE = /[\ud800-\udfff]/

/** Sorts by the UTF-8 bytes, as the manifest demands. */
export function sortedByPath<T extends { path: string }>(items: T[]): T[] {
  if (!items.some(({ path }) => SURROGATE.test(path))) {
    return items.toSorted((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0))
  }
  return items
    .map((item) => ({ item, bytes: Buffer.from(item.path) }))
    .sort((a, b) => Buffer.compare(a.bytes, b.bytes))
    .map(({ item }) => item)
}

/** Small ASCII: such a name is its own key. */
export const SMALL = /^[^A-Z\x80-\uffff]*$/

/** Equal for names that a person, or another file system, takes for the same. */
export function foldedName(name: string): string {
  return SMALL.test(name) ? name : name.normalize('NFC').toLowerCase()
}

/** One warning for each pair of names in one directory that look alike. */
export function lookAlikes(paths: readonly string[]): string[] {
  const known = new Map<string, string>()
  const dirs = new Set<string>()
  const warnings: string[] = []
  const look = (path: string): void => {
    const slash = path.lastIndexOf('/') + 1
    const name = path.slice(slash)
    const folded = foldedName(name)
    const key = folded === name ? path : path.slice(0, slash) + folded
    const other = known.get(key)
    if (other === undefined) known.set(key, path)
    else warnings.push(`${JSON.stringify(other)} and ${JSON.stringify(path)} differ only in case or Unicode form`)
  }
  for (const path of paths) {
    for (const parent of parentsOf(path)) {
      if (dirs.has(parent)) break
      dirs.add(parent)
      look(parent)
    }
    // An empty directory has a path of its own, and may be above another one in a foreign archive.
    if (!dirs.has(path)) look(path)
  }
  return warnings
}

/** The wanted objects of these entries, of equal files the first; `open` gives a file's content from a place on, in portions that may lie in `scratch`. */
export async function* wantedObjects(
  entries: Entry[],
  wanted: ReadonlySet<Sha256>,
  open: (entry: FileEntry, scratch: Buffer, from: number) => Iterable<Buffer>,
): AsyncGenerator<BundleObject> {
  const left = new Set(wanted)
  const scratch = Buffer.allocUnsafeSlow(PORTION_BYTES)
  for (const entry of entries) {
    if (!isFile(entry) || !left.delete(entry.sha256)) continue
    const { sha256, size, path } = entry
    const openAt = (from: number) => open(entry, scratch, from)
    yield { sha256, size, path, open: () => openAt(0), openAt }
  }
  checkAllFound(left)
}

/** Throws `object_missing` when anything is left. */
export function checkAllFound(left: ReadonlySet<Sha256>): void {
  const [first] = left
  if (first === undefined) return
  throw new Failure('object_missing', `read source: ${left.size} objects are not in it, the first ${first}`, {
    hint: 'pack the release again from its directory',
  })
}
