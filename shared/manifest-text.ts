import type { Entry, Manifest } from './manifest.ts'

// release.json as text. Its files are its last key and nearly all of it: 4.5 MB for 25,000. They are gone through in
// portions, between which others get their turn. A string in JSON cannot say what is looked for here: it would have a
// backslash before each quote.

const FILES_BEGIN = ',"files":['
export const ENTRY_BEGIN = '{"path":'
export const BETWEEN_ENTRIES = `},${ENTRY_BEGIN}`
export const TEXT_END = ']}'

/** Some 2,000 files, 2 ms. */
const PORTION_CHARS = 384 * 1024

/** Where the first file begins; undefined where none can. */
export function beginOfFiles(text: string): number | undefined {
  const at = text.indexOf(FILES_BEGIN)
  return at === -1 ? undefined : at + FILES_BEGIN.length
}

/** Of the bytes of one, the whole less the key `files`. */
export function headTextIn(bytes: Buffer): string {
  return `${bytes.toString('utf8', 0, bytes.indexOf(FILES_BEGIN))}}`
}

/** The whole with no files. */
export function headTextOf(text: string, begin: number): string {
  return text.slice(0, begin) + TEXT_END
}

/** What JSON.parse gives. Throws as that does. */
export function* parsingText(text: string): Generator<undefined, unknown> {
  return (yield* inPortions(text)) ?? JSON.parse(text)
}

/** Undefined for what is not written as a release.json is. */
function* inPortions(text: string): Generator<undefined, unknown> {
  const begin = beginOfFiles(text)
  const end = text.length - TEXT_END.length
  if (begin === undefined || end - begin < PORTION_CHARS || !text.endsWith(TEXT_END)) return undefined
  const files: unknown[] = []
  try {
    const head = JSON.parse(headTextOf(text, begin)) as Partial<Manifest>
    for (let from = begin; from < end; ) {
      const next = text.indexOf(BETWEEN_ENTRIES, from + PORTION_CHARS)
      const to = next === -1 ? end : next + 1
      for (const entry of JSON.parse(`[${text.slice(from, to)}]`) as unknown[]) files.push(entry)
      from = to + 1
      yield
    }
    return { ...head, files }
  } catch {
    return undefined
  }
}

/** So many entries are written at once. */
const PORTION_ENTRIES = 2_000

/** Gives whether JSON.stringify would give this text. */
export function* comparingText(manifest: Manifest, text: string): Generator<undefined, boolean> {
  const head = headText(manifest)
  if (!text.startsWith(head)) return false
  const { files } = manifest
  let at = head.length
  for (let from = 0; from < files.length; from += PORTION_ENTRIES) {
    const portion = portionText(files.slice(from, from + PORTION_ENTRIES))
    const between = from === 0 ? '' : ','
    if (!text.startsWith(between + portion, at)) return false
    at += between.length + portion.length
    yield
  }
  return text.slice(at) === TEXT_END
}

/** release.json with these files, written as a JSON array, in the place of those of `head`. */
export function textWith(head: Manifest, filesText: string): string {
  return `${headText(head).slice(0, -1)}${filesText}}`
}

/** Up to the first file. */
function headText(manifest: Manifest): string {
  return JSON.stringify({ ...manifest, files: [] }).slice(0, -TEXT_END.length)
}

function portionText(entries: readonly Entry[]): string {
  return JSON.stringify(entries).slice(1, -1)
}
