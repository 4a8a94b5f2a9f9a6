import { lstatSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { basename } from 'node:path'
import { setImmediate as breathe } from 'node:timers/promises'
import { Failure, isErrno } from '../../shared/failure.ts'
import type { Manifest, Signed } from '../../shared/manifest.ts'
import { headTextIn, parsingText } from '../../shared/manifest-text.ts'
import {
  type AppName,
  isAppName,
  isReleaseId,
  type ReleaseId,
  releaseIdOf,
  type Sha256,
  sha256,
} from '../../shared/names.ts'
import { drained, pacedBy } from '../../shared/turns.ts'
import { type Layout, REMOVED } from './layout.ts'

// What lies on the disk. A release directory exists whole or not at all (see assemble.ts), so being there is enough.

export interface Release {
  id: ReleaseId
  manifest: Manifest
}

/** What a release is, less its files. */
export type ReleaseHead = Omit<Manifest, 'files'>

/** Apps that were pushed here. A stray directory (lost+found, a backup) or file is passed over, and stops nobody. */
export function appsOn(layout: Layout): AppName[] {
  return namesIn(layout.appsDir)
    .filter(isAppName)
    .filter((app) => statSync(layout.appDir(app), { throwIfNoEntry: false })?.isDirectory())
    .sort()
}

/** Ids of the release directories there are; anything else that lies there is not ours to count or touch. */
export function releasesOn(layout: Layout, app: AppName): ReleaseId[] {
  return namesIn(layout.releasesDir(app)).filter(isReleaseId)
}

/** Ids of releases that were taken away and are not deleted yet. */
export function removedOn(layout: Layout, app: AppName): ReleaseId[] {
  return namesIn(layout.stagingDir(app))
    .map((name) => (name.endsWith(REMOVED) ? name.slice(0, -REMOVED.length) : ''))
    .filter(isReleaseId)
}

/** Names among the releases that are none of these, and so are left alone. */
export function straysOn(layout: Layout, app: AppName, known: ReadonlySet<string>): string[] {
  return namesIn(layout.releasesDir(app)).filter((name) => !known.has(name))
}

/**
 * The release that `current` leads to, by what it is and not by what the link says: before something is removed, a
 * link that was made by hand counts too. Throws `prune_failed` when it leads to none of these.
 */
export function releaseServed(layout: Layout, app: AppName, ids: readonly ReleaseId[]): ReleaseId | null {
  const link = layout.currentLink(app)
  if (lstatSync(link, { throwIfNoEntry: false }) === undefined) return null
  const there = statSync(link, { throwIfNoEntry: false })
  const found = ids.find((id) => {
    const { dev, ino } = lstatSync(layout.releaseDir(app, id), { throwIfNoEntry: false }) ?? {}
    return dev === there?.dev && ino === there?.ino
  })
  if (there !== undefined && found !== undefined) return found
  throw new Failure(
    'prune_failed',
    `prune ${app}: ${link} leads to no release that is known here: nothing is removed`,
    {
      hint: 'make it right with: tarmac push',
    },
  )
}

export function currentRelease(layout: Layout, app: AppName): ReleaseId | null {
  try {
    const id = basename(readlinkSync(layout.currentLink(app)))
    return isReleaseId(id) ? id : null
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return null
    throw error
  }
}

/** Throws `release_unknown`, or `release_damaged` when release.json is not what it was. */
export function readRelease(layout: Layout, app: AppName, id: ReleaseId): Release {
  const bytes = readReleaseBytes(layout, app, id)
  return { id, manifest: drained(signedAs<Manifest>(bytes.toString(), bytes, { app, id })) }
}

/** With a turn for others now and then. Undefined when it is not there, or not what it was: a push may be what mends it. */
export async function intactRelease(layout: Layout, app: AppName, id: ReleaseId): Promise<Signed | undefined> {
  try {
    const bytes = readReleaseBytes(layout, app, id)
    const text = bytes.toString()
    return { id, text, manifest: await pacedBy(breathe, signedAs<Manifest>(text, bytes, { app, id })) }
  } catch (error) {
    if (error instanceof Failure) return undefined
    throw error
  }
}

/**
 * In a sixth of the time, for those who need no files: 25,000 of them are 4.5 MB of text, and 50 ms in which nobody is
 * answered. Throws as `readRelease` does.
 */
export function readHead(layout: Layout, app: AppName, id: ReleaseId): ReleaseHead {
  const bytes = readReleaseBytes(layout, app, id)
  return drained(signedAs<ReleaseHead>(headTextIn(bytes), bytes, { app, id }))
}

/**
 * What was checked when it came, and lies where only root writes: checked again is that it is the same, by the digest
 * in its name. To check all of it as when it came takes five times as long. With a turn for others now and then.
 */
export function parseStored(text: string, of: { app: AppName; id: ReleaseId }): Promise<Manifest> {
  return pacedBy(breathe, signedAs<Manifest>(text, text, of))
}

/** `json` is the whole of release.json or the part of it that is wanted. Throws `release_damaged`. */
function* signedAs<T extends ReleaseHead>(
  json: string,
  whole: string | Uint8Array,
  { app, id }: { app: AppName; id: ReleaseId },
): Generator<undefined, T> {
  try {
    const parsed = (yield* parsingText(json)) as T | null
    if (typeof parsed?.created === 'string' && releaseIdOf(parsed.created, whole) === id) return parsed
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause
  }
  throw new Failure('release_damaged', `read ${app}: release.json of ${id} is not what was signed`, {
    hint: 'it was changed on the host: push the release again',
  })
}

/** Of all its files together, each as large as the manifest says. */
export function sizeOf({ files }: Manifest): { bytes: number; files: number } {
  return { files: files.length, bytes: files.reduce((sum, entry) => sum + ('size' in entry ? entry.size : 0), 0) }
}

/** The signatures that came with it, as many as can be read. */
export function readSignatures(layout: Layout, app: AppName, id: ReleaseId): string[] {
  return namesIn(layout.signaturesDir(app, id)).map((_, index) =>
    readFileSync(layout.signatureFile(app, id, index), 'utf8'),
  )
}

export function readReleaseText(layout: Layout, app: AppName, id: ReleaseId): string {
  return readReleaseBytes(layout, app, id).toString()
}

/** release.json as it was signed. Throws `release_unknown`. */
export function readReleaseBytes(layout: Layout, app: AppName, id: ReleaseId): Buffer {
  try {
    return readFileSync(layout.manifestFile(app, id))
  } catch (cause) {
    if (!isErrno(cause, 'ENOENT')) throw cause
    throw new Failure('release_unknown', `read ${app}: release ${id} is not on this host`, {
      hint: 'what is kept: tarmac releases',
      cause,
    })
  }
}

/** The bytes of the release.json with this digest, when a release of the app has it: ids end in its first digits. */
export function releaseTextOf(layout: Layout, app: AppName, digest: Sha256): Buffer | undefined {
  const id = releasesOn(layout, app).find((id) => id.endsWith(`-${digest.slice(0, 8)}`))
  if (id === undefined) return undefined
  try {
    const bytes = readFileSync(layout.manifestFile(app, id))
    return sha256(bytes) === digest ? bytes : undefined
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined
    throw error
  }
}

/** Nothing for a directory that is not there. */
export function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir)
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return []
    throw error
  }
}
