import { setImmediate as breathe } from 'node:timers/promises'
import type { AppName } from '../../shared/names.ts'
import type { Agent } from '../agent.ts'
import { placeFile } from '../state/disk.ts'
import type { Layout } from '../state/layout.ts'
import { currentRelease, type Release, readRelease, releasesOn } from '../state/release-store.ts'
import { removeBigTree } from '../state/remove.ts'
import { sparesOn, spoilSpares, spoiltOn } from '../state/spares.ts'
import { makeTree } from './release-tree.ts'
import { diskOf, diskState, shortOf } from './room.ts'
import { roomOfRelease } from './room-needed.ts'

// A copy of the tree that runs, made of links while nobody waits: the next push takes it and changes only what differs.
// Making 25,000 links takes 0.4 s, which was most of what a push of a few files cost the host. It lies in staging, which
// an agent that starts empties, so none is ever used that was not made by this process.

/** A tree of fewer files is made in the time that it takes to look for a spare one. */
export const SPARE_MIN_FILES = 2_000
/** After a change: the app that was just started, and whoever comes next, go first. */
const DELAY_MS = 500
/** So much more than itself must be free: what is spare must never be what a push lacks. */
const ROOM_FACTOR = 10

type Parts = Pick<Agent, 'config' | 'layout' | 'log' | 'operations'>

export interface Spares {
  /** To be told of each change that ended. Returns at once and never throws. */
  renew(app: AppName): void
  end(): void
}

export function keepSpares(agent: Parts): Spares {
  const due = new Map<AppName, NodeJS.Timeout>()
  const underWay = new Set<AppName>()

  async function run(app: AppName): Promise<void> {
    due.delete(app)
    if (underWay.has(app)) return
    underWay.add(app)
    try {
      await renewSpare(agent, app)
    } catch (err) {
      if (!(err instanceof Interrupted)) agent.log.warn({ app, err }, 'no spare tree could be made')
    } finally {
      underWay.delete(app)
    }
  }

  return {
    renew(app) {
      clearTimeout(due.get(app))
      due.set(app, setTimeout(() => void run(app), DELAY_MS).unref())
    },
    end() {
      for (const timer of due.values()) clearTimeout(timer)
      due.clear()
    },
  }
}

/** A change has begun, and at its end there will be another tree to copy. */
class Interrupted extends Error {}

/** Leaves the spare tree of what is current, and no other one. Throws when a change begins meanwhile. */
export async function renewSpare({ config, layout, operations }: Parts, app: AppName): Promise<void> {
  const turn = async () => {
    await breathe()
    if (operations.of(app) !== undefined) throw new Interrupted()
  }
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
  const release = readRelease(layout, app, current)
  const { bytes, inodes } = roomOfRelease({ manifest: release.manifest, textBytes: 0, signatures: 0 }, disk.blockBytes)
  const ample = { bytes: bytes * ROOM_FACTOR, inodes: inodes * ROOM_FACTOR }
  if (release.manifest.files.length < SPARE_MIN_FILES || shortOf(disk, ample).length > 0) return
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
