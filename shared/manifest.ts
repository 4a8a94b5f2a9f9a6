import * as v from 'valibot'
import { Failure } from './failure.ts'
import { comparingText, parsingText, textWith } from './manifest-text.ts'
import {
  type AppName,
  isSha256,
  parseAppName,
  parseServiceName,
  type ReleaseId,
  releaseIdOf,
  type ServiceName,
  type Sha256,
  sha256,
} from './names.ts'
import { orderedService, type ServiceSpec, serviceSchema, shortLine, whole } from './service-spec.ts'
import { quoted, treeChecks } from './tree.ts'
import { drained, inTurns, pacedBy } from './turns.ts'

export type { Command, ServiceSpec } from './service-spec.ts'

// release.json: what a release is. It is canonical JSON: parse, normalise, stringify gives the same bytes, else it is
// refused. So there is one text per meaning, and a signature over the text is a signature over the meaning.

export const MANIFEST_FORMAT = 1
/** About 600,000 files at 110 bytes an entry; keeps a stranger from making the agent hold more. */
export const MAX_MANIFEST_BYTES = 64 * 1024 * 1024
/** Ten times the biggest node_modules tree we have met. */
export const MAX_FILES = 200_000
/** The biggest size a ustar header can say in octal. */
export const MAX_FILE_BYTES = 8 * 1024 ** 3 - 1

export type Mode = '0644' | '0755'
export type FileEntry = { path: string; mode: Mode; size: number; sha256: Sha256 }
export type LinkEntry = { path: string; link: string }
export type DirEntry = { path: string; dir: true }
export type Entry = FileEntry | LinkEntry | DirEntry

export interface Manifest {
  format: typeof MANIFEST_FORMAT
  app: AppName
  version?: string
  /** ISO 8601 UTC with whole seconds: 2026-11-22T23:38:51Z. */
  created: string
  source?: { commit: string; branch?: string; dirty: boolean }
  services: Record<ServiceName, ServiceSpec>
  /** Persistent directories, linked into each release. */
  shared: string[]
  /** How many once-healthy and how many failed releases the agent keeps. */
  keep: { releases: number; failed: number }
  files: Entry[]
}

/** A name this long is wrong anyway, and a message should not carry more of it. */
const MAX_NAME_SHOWN = 100

const headSchema = v.strictObject({
  format: v.literal(MANIFEST_FORMAT),
  // The rule is parseAppName's; this keeps its message short.
  app: v.pipe(v.string(), v.maxLength(MAX_NAME_SHOWN)),
  version: v.optional(shortLine),
  created: v.pipe(v.string(), v.regex(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/, 'must look like 2026-11-22T23:38:51Z')),
  source: v.optional(v.strictObject({ commit: shortLine, branch: v.optional(shortLine), dirty: v.boolean() })),
  services: v.record(v.pipe(v.string(), v.maxLength(MAX_NAME_SHOWN)), serviceSchema),
  shared: v.pipe(v.array(v.string()), v.maxLength(100)),
  // Two at least: the one that runs and the one to go back to.
  keep: v.strictObject({ releases: whole(2, 1000), failed: whole(0, 1000) }),
  files: v.array(v.unknown()),
})

export interface Signed {
  manifest: Manifest
  /** The exact text that was signed. */
  text: string
  id: ReleaseId
}

/** The only door for what nobody has checked. Throws `manifest_invalid`, `path_refused`, `mode_refused` or `link_refused`. */
export const parseManifest = (text: string): Signed => drained(parsing(text))

/** The same, with a `turn` for others now and then: 25,000 files take 150 ms. */
export const parseManifestInTurns = (text: string, turn: () => Promise<unknown>) => pacedBy(turn, parsing(text))

function* parsing(text: string): Generator<undefined, Signed> {
  let value: unknown
  try {
    value = yield* parsingText(text)
  } catch (cause) {
    throw new Failure('manifest_invalid', `release.json: not JSON: ${(cause as Error).message.slice(0, 200)}`, {
      cause,
    })
  }
  yield
  const manifest = yield* normalising(value)
  yield
  if (!(yield* comparingText(manifest, text))) {
    throw new Failure(
      'manifest_invalid',
      'release.json: not canonical: other keys, another order or other spelling than tarmac writes',
      {
        hint: 'let tarmac pack or tarmac push write it',
      },
    )
  }
  return signedOf(manifest, text)
}

export function manifestText(manifest: Manifest): string {
  return JSON.stringify(manifest)
}

/** For who makes one: checked as any other, and written out. Throws as `parseManifest` does. */
export function writeManifest(value: Manifest): Signed {
  return signedOf(normaliseManifest(value))
}

/** The same for files of which is known that they are as they must be, and how they are written. */
export function writeManifestWith({ files, ...head }: Manifest, filesText: string): Signed {
  const normal = normaliseManifest({ ...head, files: [] })
  return signedOf({ ...normal, files }, textWith(normal, filesText))
}

function signedOf(manifest: Manifest, text = manifestText(manifest)): Signed {
  return { manifest, text, id: releaseIdOf(manifest.created, text) }
}

/** Checks everything about a manifest and gives it back with its keys in the one order. */
export function normaliseManifest(value: unknown): Manifest {
  return drained(normalising(value))
}

function* normalising(value: unknown): Generator<undefined, Manifest> {
  const parsed = v.safeParse(headSchema, value)
  if (!parsed.success) {
    const issue = parsed.issues[0]
    throw new Failure(
      'manifest_invalid',
      `release.json: ${clipped(v.getDotPath(issue) ?? 'the whole')}: ${clipped(issue.message)}`,
    )
  }
  const head = parsed.output
  if (!isInstant(head.created)) {
    throw new Failure('manifest_invalid', `release.json: created: ${quoted(head.created)} is no date`)
  }
  if (head.files.length > MAX_FILES) {
    throw new Failure('limit_exceeded', `release.json: ${head.files.length} files; the limit is ${MAX_FILES}`)
  }
  const names = Object.keys(head.services).sort()
  if (names.length === 0)
    throw new Failure('manifest_invalid', 'release.json: services: none; a release runs at least one')
  const services: Record<ServiceName, ServiceSpec> = {}
  for (const name of names) services[parseServiceName(name)] = orderedService(head.services[name] as ServiceSpec)
  const files: Entry[] = []
  yield* inTurns(head.files, (entry, index) => files.push(orderedEntry(entry, index)))
  const shared = [...head.shared].sort()
  yield* treeChecks(files, shared)
  return {
    format: MANIFEST_FORMAT,
    app: parseAppName(head.app),
    ...(head.version === undefined ? {} : { version: head.version }),
    created: head.created,
    ...(head.source === undefined ? {} : { source: orderedSource(head.source) }),
    services,
    shared,
    keep: { releases: head.keep.releases, failed: head.keep.failed },
    files,
  }
}

/** `Date.parse` takes 30 February for 2 March and 24:00 for the next day: one instant would have two release ids. */
function isInstant(created: string): boolean {
  const ms = Date.parse(created)
  return !Number.isNaN(ms) && new Date(ms).toISOString() === created.replace('Z', '.000Z')
}

/** valibot's messages quote what they were given, whole. */
function clipped(text: string): string {
  return text.length > 300 ? `${text.slice(0, 300).toWellFormed()}…` : text
}

function orderedSource(source: {
  commit: string
  branch?: string | undefined
  dirty: boolean
}): NonNullable<Manifest['source']> {
  return {
    commit: source.commit,
    ...(source.branch === undefined ? {} : { branch: source.branch }),
    dirty: source.dirty,
  }
}

export function orderedEntry(value: unknown, index: number): Entry {
  const entry = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
  const { path, mode, size, link } = entry
  if (typeof path !== 'string') throw new Failure('manifest_invalid', `release.json: files.${index}: no path`)
  if (link !== undefined) {
    if (typeof link !== 'string')
      throw new Failure('manifest_invalid', `release.json: ${quoted(path)}: link is no text`)
    return { path, link }
  }
  if (entry.dir === true) return { path, dir: true }
  if (mode !== '0644' && mode !== '0755') {
    throw new Failure(
      'mode_refused',
      `release.json: ${quoted(path)}: mode ${quoted(mode)} is neither "0644" nor "0755"`,
      {
        hint: 'setuid, setgid and writable-by-others have no place in a release; tarmac pack normalises modes',
      },
    )
  }
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0 || size > MAX_FILE_BYTES) {
    throw new Failure(
      'manifest_invalid',
      `release.json: ${quoted(path)}: size ${quoted(size)}; the limit is ${MAX_FILE_BYTES}`,
    )
  }
  if (!isSha256(entry.sha256)) throw new Failure('manifest_invalid', `release.json: ${quoted(path)}: no sha256`)
  return { path, mode, size, sha256: entry.sha256 }
}

export function isFile(entry: Entry): entry is FileEntry {
  return 'sha256' in entry
}

export function isLink(entry: Entry): entry is LinkEntry {
  return 'link' in entry
}

/**
 * Digest of what a release is made of, less when and from where: two pushes of one tree are equal in this. It is that of
 * the end of release.json, from its services on, so that to know it nobody need parse megabytes. A string in it cannot say
 * `"services":`: it would have a backslash before the second quote.
 */
export function contentOfText(text: string | Buffer): Sha256 {
  const at = text.indexOf('"services":')
  return sha256(typeof text === 'string' ? text.slice(at) : text.subarray(at))
}
