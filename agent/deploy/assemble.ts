import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { setImmediate as breathe } from 'node:timers/promises'
import { Failure } from '../../shared/failure.ts'
import { isFile, isLink, type Signed } from '../../shared/manifest.ts'
import { removeTree, renameWhole, syncFilesystem } from '../state/disk.ts'
import type { Layout } from '../state/layout.ts'
import { removeObjectsOf } from '../state/object-sweep.ts'
import { linkObject } from '../state/objects.ts'
import { type Release, releasesOn } from '../state/release-store.ts'
import { nameOfTrouble } from '../state/trouble.ts'
import { mendTree, sharedLinks } from './mend.ts'

/** After so many entries the event loop gets its turn, so that `status` answers meanwhile. */
const ENTRIES_PER_TURN = 500

/**
 * Builds the release directory beside its place and renames it there: it exists whole or not at all. One sync of the
 * file system makes everything durable at once, the objects too, instead of one per file.
 */
export async function assemble(layout: Layout, signed: Signed, signatures: string[]): Promise<Release> {
  const { manifest, id, text } = signed
  const { app } = manifest
  if (releasesOn(layout, app).includes(id)) return madeBefore(layout, { id, manifest })
  const staging = layout.staging(app, id)
  await removeTree(staging)
  try {
    const tree = join(staging, 'tree')
    mkdirSync(tree, { recursive: true, mode: 0o755 })
    const made = new Set([tree])
    let count = 0
    for (const entry of manifest.files) {
      const path = join(tree, entry.path)
      const dir = isFile(entry) || isLink(entry) ? dirname(path) : path
      if (!made.has(dir)) {
        mkdirSync(dir, { recursive: true, mode: 0o755 })
        made.add(dir)
      }
      if (isFile(entry)) linkObject(layout, app, entry, path)
      else if (isLink(entry)) symlinkSync(entry.link, path)
      if (++count % ENTRIES_PER_TURN === 0) await breathe()
    }
    for (const { path, link } of sharedLinks(layout, layout.treeDir(app, id), manifest)) {
      mkdirSync(dirname(join(tree, path)), { recursive: true, mode: 0o755 })
      symlinkSync(link, join(tree, path))
    }
    mkdirSync(join(staging, 'signatures'), { mode: 0o755 })
    for (const [index, signature] of signatures.entries()) {
      writeFileSync(join(staging, 'signatures', `${index}.sig`), signature, { mode: 0o444 })
    }
    writeFileSync(join(staging, 'release.json'), text, { mode: 0o444 })
    await syncFilesystem(staging)
    await renameWhole(staging, layout.releaseDir(app, id))
  } catch (error) {
    await withdraw(layout, signed)
    throw error
  }
  return { id, manifest }
}

/**
 * There is no release: what came for it goes too, and room is what it most likely lacked. What a failing disk does not
 * let go is swept at the next start; it must not hide why.
 */
async function withdraw(layout: Layout, { id, manifest: { app, files } }: Signed): Promise<void> {
  try {
    await removeTree(layout.staging(app, id))
    await removeObjectsOf(layout, app, files)
  } catch (error) {
    if (nameOfTrouble(error) === undefined) throw error
  }
}

/** It is here already, whole, but who knows what became of it since. Throws `release_damaged`. */
async function madeBefore(layout: Layout, release: Release): Promise<Release> {
  const lost = await mendTree(layout, release)
  if (lost.length === 0) return release
  throw new Failure('release_damaged', `assemble ${release.manifest.app}: ${release.id} is damaged: ${lost[0]}`, {
    hint: 'pack it again: the next second has another name',
  })
}
