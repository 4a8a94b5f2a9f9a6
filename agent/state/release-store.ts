import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { basename } from 'node:path'
import { Failure, isErrno } from '../../shared/failure.ts'
import { type Manifest, parseManifest } from '../../shared/manifest.ts'
import { type AppName, isAppName, isReleaseId, type ReleaseId } from '../../shared/names.ts'
import type { Layout } from './layout.ts'

// What lies on the disk. A release directory exists whole or not at all (see assemble.ts), so being there is enough.

export interface Release {
  id: ReleaseId
  manifest: Manifest
}

/** Apps that were pushed here. A stray directory (lost+found, a backup) is passed over, and stops nobody. */
export function appsOn(layout: Layout): AppName[] {
  return namesIn(layout.appsDir).filter(isAppName).sort()
}

/** Ids of the release directories there are; anything else that lies there is not ours to count or touch. */
export function releasesOn(layout: Layout, app: AppName): ReleaseId[] {
  return namesIn(layout.releasesDir(app)).filter(isReleaseId)
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

/** Throws `release_unknown`. */
export function readRelease(layout: Layout, app: AppName, id: ReleaseId): Release {
  return { id, manifest: parseManifest(readReleaseText(layout, app, id)).manifest }
}

/** release.json as it was signed. Throws `release_unknown`. */
export function readReleaseText(layout: Layout, app: AppName, id: ReleaseId): string {
  try {
    return readFileSync(layout.manifestFile(app, id), 'utf8')
  } catch (cause) {
    if (!isErrno(cause, 'ENOENT')) throw cause
    throw new Failure('release_unknown', `read ${app}: release ${id} is not on this host`, {
      hint: 'what is kept: tarmac releases',
      cause,
    })
  }
}

function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir)
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return []
    throw error
  }
}
