import { lstatSync, mkdirSync, readlinkSync, rmSync, symlinkSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { setImmediate as breathe } from 'node:timers/promises'
import { Failure, isErrno } from '../../shared/failure.ts'
import { type Entry, type FileEntry, isFile, isLink, type LinkEntry } from '../../shared/manifest.ts'
import type { AppName } from '../../shared/names.ts'
import { whenDue } from '../../shared/turns.ts'
import { placeFile } from '../state/disk.ts'
import type { Layout } from '../state/layout.ts'
import { isIntact, lookAt, otherSizeOf, quarantine } from '../state/object-check.ts'
import { linkObject } from '../state/objects.ts'
import type { Release } from '../state/release-store.ts'

/**
 * Looks whether a release is what was signed, and puts what is not in its place again, of the objects there are: a
 * file that was edited, replaced or deleted on the host. One look a file, 0.1 s for 24,000; what was written to since is
 * read. Gives the paths that cannot be mended, because the object is damaged too.
 */
export async function mendTree(layout: Layout, { id, manifest }: Release): Promise<string[]> {
  const { app } = manifest
  const tree = layout.treeDir(app, id)
  const lost: string[] = []
  const due = whenDue(breathe)
  for (const entry of [...manifest.files, ...sharedLinks(layout, tree, manifest)]) {
    await due()
    const path = `${tree}/${entry.path}`
    if (isFile(entry) && lookAt(path, entry) === 'sealed') continue
    if (await isAsSigned(path, entry)) continue
    if (!(await mend(layout, app, entry, path))) lost.push(entry.path)
  }
  return lost
}

/** Each file of a release, and where it lies. */
export function filesOf(layout: Layout, { id, manifest }: Release): { entry: FileEntry; path: string }[] {
  const tree = layout.treeDir(manifest.app, id)
  return manifest.files.filter(isFile).map((entry) => ({ entry, path: join(tree, entry.path) }))
}

/** What stands in a release for its shared directories: relative links, so that it reads the same under any root. */
export function sharedLinks(layout: Layout, tree: string, { app, shared }: Release['manifest']): LinkEntry[] {
  return shared.map((path) => ({ path, link: relative(dirname(join(tree, path)), layout.sharedPath(app, path)) }))
}

async function isAsSigned(path: string, entry: Entry): Promise<boolean> {
  if (isFile(entry)) return lookAt(path, entry) !== 'absent' && (await isIntact(path, entry))
  if (!isLink(entry)) return lstatSync(path, { throwIfNoEntry: false })?.isDirectory() === true
  try {
    return readlinkSync(path) === entry.link
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR', 'EINVAL')) return false
    throw error
  }
}

/** Not where it is the entry that is wrong. */
async function isDamaged(object: string, entry: FileEntry): Promise<boolean> {
  if (lookAt(object, entry) === 'absent' || (await isIntact(object, entry))) return false
  return (await otherSizeOf(object, entry)) === undefined
}

/** False when that which it would be made of is not to be had, or what stands there is in the way. */
async function mend(layout: Layout, app: AppName, entry: Entry, path: string): Promise<boolean> {
  const part = layout.incoming(app, 'mend.part')
  try {
    rmSync(part, { force: true })
    mkdirSync(isFile(entry) || isLink(entry) ? dirname(path) : path, { recursive: true, mode: 0o755 })
    if (isFile(entry)) {
      const object = layout.object(app, entry.sha256, entry.mode)
      if (await isDamaged(object, entry)) quarantine(layout, app, entry)
      linkObject(layout, app, entry, part)
    } else if (isLink(entry)) symlinkSync(entry.link, part)
    else return true
    placeFile(part, path)
    return true
  } catch (error) {
    // A directory where a file was, a file where a directory was.
    const isInTheWay = isErrno(error, 'EISDIR', 'ENOTDIR', 'EEXIST', 'ENOTEMPTY')
    if (isInTheWay || (error instanceof Failure && error.code === 'object_missing')) return false
    throw error
  }
}
