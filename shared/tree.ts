import { Failure } from './failure.ts'
import type { Entry } from './manifest.ts'
import { inTurns } from './turns.ts'

// The path rules of a release. Pure: decided on the manifest's own graph, never on a disk, so that nothing a
// disk holds (or holds by the time it is used) changes the answer.

/** ext4, xfs and btrfs all stop a name at 255 bytes. */
const MAX_SEGMENT_BYTES = 255
/** A quarter of Linux's PATH_MAX: leaves room for the root in front. */
const MAX_PATH_BYTES = 1024
/** Linux gives up after 40 links (path_resolution(7)). */
const MAX_LINKS_FOLLOWED = 40
/**
 * Segments looked at for all links of a manifest together. A tree of 50,000 links, as pnpm makes them, takes half a
 * million; 64 MiB of links made for it would take a thousand million, and the agent with it.
 */
const MAX_LINK_STEPS = 2_000_000
/** A path as long as may be is shown whole; what a stranger sent instead of one is not. */
const MAX_SHOWN = 1024

/**
 * Paths are sorted, unique, relative, and nothing lies below a file or a link; links stay inside; nothing lies in a
 * shared directory. Throws `path_refused` or `link_refused` naming the entry.
 */
export function* treeChecks(files: Entry[], shared: string[]): Generator<undefined, void> {
  for (const path of shared) checkPath(path)
  const dirs = new Set<string>()
  const links = new Map<string, string>()
  let before: string | undefined
  let wasPlain = true
  let dir = ''
  yield* inTurns(files, (entry) => {
    const { path } = entry
    const plain = isPlain(path)
    if (!plain) checkPath(path)
    // Two plain ones are ASCII, of which every order is the same.
    const isSorted = before === undefined || (plain && wasPlain ? before < path : isBefore(before, path))
    if (!isSorted) throw refused(path, 'not sorted by bytes, or there twice')
    before = path
    wasPlain = plain
    if ('link' in entry) links.set(path, entry.link)
    // Mostly it lies beside the one before it.
    const end = path.lastIndexOf('/')
    if (end === dir.length && path.startsWith(dir)) return
    dir = parentOf(path)
    for (const parent of parentsOf(path)) {
      if (dirs.size === dirs.add(parent).size) break
    }
  })
  yield* inTurns(files, ({ path }) => {
    if (dirs.has(path)) throw notBelow(files, path)
  })
  if (shared.length > 0) checkAllShared(shared, { entries: new Set(files.map(({ path }) => path)), dirs })
  const tree = { links, shared: new Set(shared), steps: 0 }
  yield* inTurns([...links], ([path, link]) => checkLink(path, link, tree))
}

function notBelow(files: Entry[], parent: string): Failure {
  const below = files.find(({ path }) => path.startsWith(`${parent}/`))?.path ?? parent
  return refused(below, `it lies below ${quoted(parent)}, which is no directory or needs no entry of its own`)
}

/** By their bytes. JavaScript's own order, by UTF-16, is another one where there are characters beyond U+FFFF. */
function isBefore(a: string, b: string): boolean {
  if (SURROGATE.test(a) || SURROGATE.test(b)) return Buffer.compare(Buffer.from(a), Buffer.from(b)) < 0
  return a < b
}

const SURROGATE = /[\ud800-\udfff]/
/** Nearly all there are: printable ASCII, no segment that is empty or begins with a dot. Short ones need no other check. */
const PLAIN = /^[ -\-0-~][ -.0-~]*(?:\/[ -\-0-~][ -.0-~]*)*$/

function isPlain(path: string): boolean {
  return path.length <= MAX_SEGMENT_BYTES && PLAIN.test(path)
}

/** Throws `path_refused`. */
export function checkPath(path: string): void {
  if (isPlain(path)) return
  if (path === '') throw refused(path, 'is empty')
  if (!path.isWellFormed()) throw refused(path, 'is not valid Unicode')
  if (/\p{Cc}/u.test(path)) throw refused(path, 'holds control characters')
  if (path.startsWith('/')) throw refused(path, 'is absolute')
  for (const segment of path.split('/')) {
    if (segment === '' || segment === '.' || segment === '..') throw refused(path, `has the segment ${quoted(segment)}`)
    if (segment.length * 3 > MAX_SEGMENT_BYTES && Buffer.byteLength(segment) > MAX_SEGMENT_BYTES) {
      throw refused(path, `has a segment of more than ${MAX_SEGMENT_BYTES} bytes`)
    }
  }
  if (Buffer.byteLength(path) > MAX_PATH_BYTES) throw refused(path, `has more than ${MAX_PATH_BYTES} bytes`)
}

/** From the nearest up: `a/b/c` gives `a/b`, `a`. */
export function* parentsOf(path: string): Iterable<string> {
  for (let end = path.lastIndexOf('/'); end > 0; end = path.lastIndexOf('/', end - 1)) yield path.slice(0, end)
}

function checkAllShared(
  shared: string[],
  { entries, dirs }: { entries: ReadonlySet<string>; dirs: ReadonlySet<string> },
): void {
  for (const path of shared) {
    const others = shared.filter((other) => other !== path)
    if (others.length !== shared.length - 1) throw refused(path, 'is named twice in shared')
    if (others.some((other) => other.startsWith(`${path}/`))) throw refused(path, 'holds another shared path')
    if (entries.has(path) || dirs.has(path)) throw refused(path, 'is shared and in the release too')
    for (const parent of parentsOf(path)) {
      if (entries.has(parent)) throw refused(path, `is shared, but ${quoted(parent)} is no directory`)
    }
  }
}

/**
 * Follows the link as Linux would, on the manifest. It may point to nothing, but not out of the release: a link to
 * /etc, or up and out, would be followed by whatever reads the release.
 */
function checkLink(
  path: string,
  link: string,
  tree: { links: ReadonlyMap<string, string>; shared: ReadonlySet<string>; steps: number },
): void {
  const no = (why: string) =>
    new Failure('link_refused', `link ${quoted(path)} → ${quoted(link)}: ${why}`, {
      hint: 'make it relative and inside the release, copy what it points to, or name it in .tarmacignore',
    })
  if (link === '' || !link.isWellFormed() || /\p{Cc}/u.test(link) || Buffer.byteLength(link) > MAX_PATH_BYTES) {
    throw no('is empty, too long, or holds control characters')
  }
  if (link.startsWith('/')) throw no('is absolute')
  let at = parentOf(path)
  // The next segment is the last: links on the way put theirs in front of what is left.
  const todo = link.split('/').reverse()
  for (let followed = 0; todo.length > 0; ) {
    if (++tree.steps > MAX_LINK_STEPS) throw no(`is one of links that take more than ${MAX_LINK_STEPS} steps together`)
    const segment = todo.pop() ?? ''
    if (segment === '' || segment === '.') continue
    if (segment === '..') {
      if (at === '') throw no('leaves the release')
      at = parentOf(at)
      continue
    }
    at = at === '' ? segment : `${at}/${segment}`
    if (tree.shared.has(at)) {
      // On the host this is a link to another place: what `..` means from there is not ours to say.
      if (todo.includes('..')) throw no('goes through a shared directory and up again')
      return
    }
    const next = tree.links.get(at)
    if (next === undefined) continue
    if (++followed > MAX_LINKS_FOLLOWED) throw no(`goes through more than ${MAX_LINKS_FOLLOWED} links, or in a circle`)
    if (next.startsWith('/')) throw no(`goes through ${quoted(at)}, which is absolute`)
    at = parentOf(at)
    todo.push(...next.split('/').reverse())
  }
}

/** '' for the top. */
function parentOf(path: string): string {
  return path.slice(0, Math.max(path.lastIndexOf('/'), 0))
}

function refused(path: string, why: string): Failure {
  return new Failure('path_refused', `path ${quoted(path)} ${why}`)
}

/** As JSON, cut when it is long: an answer, a log line and a screen must not grow with what was sent. */
export function quoted(value: unknown): string {
  const text = String(JSON.stringify(value))
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN).toWellFormed()}…` : text
}
