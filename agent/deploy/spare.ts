import type { AppName } from '../../shared/names.ts'
import type { Agent } from '../agent.ts'
import { placeFile } from '../state/disk.ts'
import type { Layout } from '../state/layout.ts'
import { currentRelease, intactRelease, type Release, readRelease, releasesOn } from '../state/release-store.ts'
import { removeBigTree } from '../state/remove.ts'
import { sparesOn, spoilSpares, spoiltOn } from '../state/spares.ts'
import { idleTurn } from './idle-turn.ts'
import { makeTree } from './release-tree.ts'
import { diskOf, diskState, shortOf } from './room.ts'
import { roomOfRelease } from './room-needed.ts'

// A copy of the tree that runs, made of links while nobody waits: the next push takes it and changes only what differs.
// Making 25,000 links takes 0.4 s, which was most of what a push of a few files cost the host. It lies in staging, which
// an agent that starts empties, so none is ever used that was not made by this process.

/** A tree of fewer files is made in the time that it takes to look for a spare one. */
export const SPARE_MIN_FILES = 2_000
/** So much more than itself must be free: what is spare must never be what a push lacks. */
const ROOM_FACTOR = 10

type Parts = Pick<Agent, 'config' | 'layout' | 'operations'>

/** Leaves the spare tree of what is current, and no other one. Throws when a change begins meanwhile. */
export async function renewSpare({ config, layout, operations }: Parts, app: AppName): Promise<void> {
  const turn = idleTurn(operations, app)
  await turn()
  const disk = await diskOf(config)
  const current = diskState(disk) === 'ok' ? currentRelease(layout, app) : null
  const [spare, ...more] = sparesOn(layout, app)
  if (spare !== undefined && spare === current && more.length === 0) return
  spoilSpares(layout, app)
  for (const remains of spoiltOn(layout, app)) {
    await turn()
    await removeBigTree(remains)
  }
  if (current === null) return
  const manifest = (await intactRelease(layout, app, current))?.manifest
  // Its damage is told by who looks for it.
  if (manifest === undefined) return
  const release = { id: current, manifest }
  await turn()
  const { bytes, inodes } = roomOfRelease({ manifest: release.manifest, textBytes: 0, signatures: 0 }, disk.blockBytes)
  const ample = { bytes: bytes * ROOM_FACTOR, inodes: inodes * ROOM_FACTOR }
  if (release.manifest.files.length < SPARE_MIN_FILES || shortOf(disk, ample).length > 0) return
  await turn()
  const part = layout.sparePart(app, current)
  await makeTree(layout, release, layout.treeIn(part), turn)
  placeFile(part, layout.spare(app, current))
}

/** Moves a spare tree, if there is one, to `staging`, and says of which release it is the copy. */
export function takeSpare(
  layout: Layout,
  app: AppName,
  { staging, running }: { staging: string; running?: Release | undefined },
): Release | undefined {
  const [id] = sparesOn(layout, app)
  if (id === undefined || !releasesOn(layout, app).includes(id)) return undefined
  const release = running?.id === id ? running : readRelease(layout, app, id)
  placeFile(layout.spare(app, id), staging)
  return release
}
