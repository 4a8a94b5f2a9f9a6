import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Failure, isErrno } from '../../shared/failure.ts'
import type { Signed } from '../../shared/manifest.ts'
import { renameWhole, syncFilesystem } from '../state/disk.ts'
import type { Layout } from '../state/layout.ts'
import { removeObjectsOf } from '../state/object-sweep.ts'
import { type Release, releasesOn } from '../state/release-store.ts'
import { removeTree } from '../state/remove.ts'
import { sparesOn } from '../state/spares.ts'
import { nameOfTrouble } from '../state/trouble.ts'
import { mendTree } from './mend.ts'
import { alterTree, type GrowingTree, growTree, makeTree } from './release-tree.ts'
import { takeSpare } from './spare.ts'

interface Parts {
  signed: Signed
  signatures: string[]
  /** What runs, for who has read it. */
  running?: Release | undefined
  /** For who has begun with it. */
  tree?: GrowingTree | undefined
  /** Of what came: see `Stored`. */
  synced?: () => Promise<void>
}

/**
 * The tree of a release whose contents are about to come. Undefined where there is one that needs to be changed only, or the
 * release itself. Nothing of it may stay when the contents are refused: see `endTree`.
 */
export async function beginTree(layout: Layout, { manifest, id }: Signed): Promise<GrowingTree | undefined> {
  const { app } = manifest
  if (releasesOn(layout, app).includes(id) || sparesOn(layout, app).length > 0) return undefined
  await endTree(layout, { manifest, id })
  return growTree(layout, { id, manifest }, layout.treeIn(layout.staging(app, id)))
}

/**
 * Before the objects go that it links to: they are told by having no other link. What a failing disk does not let go is swept at
 * the next start.
 */
export async function endTree(layout: Layout, { manifest, id }: Release): Promise<void> {
  try {
    await removeTree(layout.staging(manifest.app, id))
  } catch (error) {
    if (nameOfTrouble(error) === undefined) throw error
  }
}

/**
 * Builds the release directory beside its place and renames it there: it exists whole or not at all. One sync of the
 * file system makes everything durable at once, the objects too, instead of one per file.
 */
export async function assemble(layout: Layout, { signed, signatures, running, tree, synced }: Parts): Promise<Release> {
  const { manifest, id, text } = signed
  const { app } = manifest
  if (releasesOn(layout, app).includes(id)) return madeBefore(layout, { id, manifest })
  const staging = layout.staging(app, id)
  if (tree === undefined) await removeTree(staging)
  try {
    if (tree !== undefined) await tree.finish()
    else await treeIn(layout, { id, manifest }, { staging, running })
    mkdirSync(join(staging, 'signatures'), { mode: 0o755 })
    for (const [index, signature] of signatures.entries()) {
      writeFileSync(join(staging, 'signatures', `${index}.sig`), signature, { mode: 0o444 })
    }
    writeFileSync(join(staging, 'release.json'), text, { mode: 0o444 })
    await synced?.()
    await syncFilesystem(staging)
    await renameWhole(staging, layout.releaseDir(app, id))
  } catch (error) {
    await withdraw(layout, signed)
    throw error
  }
  return { id, manifest }
}

/** Of a spare tree when there is one that serves. */
async function treeIn(
  layout: Layout,
  release: Release,
  { staging, running }: { staging: string; running: Release | undefined },
): Promise<void> {
  const tree = layout.treeIn(staging)
  const spare = takeSpare(layout, release.manifest.app, { staging, running })
  if (spare !== undefined) {
    try {
      return await alterTree(layout, tree, { from: spare, to: release })
    } catch (error) {
      // It was not what it should be; a disk that takes nothing says so once more.
      if (!isErrno(error, 'ENOENT', 'EEXIST', 'ENOTDIR', 'EISDIR')) throw error
      await removeTree(staging)
    }
  }
  await makeTree(layout, release, tree)
}

/** Does what comes before a release can be made, and says so when it fails: by nothing that is left of what came for it. */
export async function orWithdraw<T>(layout: Layout, signed: Signed, work: () => T): Promise<T> {
  try {
    return work()
  } catch (error) {
    await withdraw(layout, signed)
    throw error
  }
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
