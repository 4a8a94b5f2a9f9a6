import { readFileSync } from 'node:fs'
import prettyBytes from 'pretty-bytes'
import { Failure, isErrno, reasonOf } from '../../shared/failure.ts'
import type { Entry, Manifest } from '../../shared/manifest.ts'
import { changedFiles } from '../../shared/manifest-compare.ts'
import type { AppName, ReleaseId } from '../../shared/names.ts'
import type { Agent } from '../agent.ts'
import { renameWhole } from '../state/disk.ts'
import { pruneRevisions } from '../state/env-revisions.ts'
import type { Layout } from '../state/layout.ts'
import type { Amount } from '../state/ledger-disk.ts'
import { removeDamaged } from '../state/object-check.ts'
import { lookThrough, type Removed, removeObjectsOf, removeOrphans, type Sweep } from '../state/object-sweep.ts'
import { currentRelease, parseStored, readReleaseText, releasesOn, removedOn } from '../state/release-store.ts'
import { removeBigTree, removeTree } from '../state/remove.ts'
import { sparesBegunOn, spoilSpares, spoiltOn } from '../state/spares.ts'
import { troubleWords } from '../state/trouble.ts'
import { type Change, openChange, runChange } from './change.ts'
import type { Ask } from './deploy.ts'
import { planPrune, refuseBroken } from './prune-plan.ts'
import { diskOf } from './room.ts'
import { roomOfRelease } from './room-needed.ts'

// Removing is two things. First all that goes disappears, each release by one rename: that is the record of what was
// decided, on the disk itself. Then it is deleted, out of sight; whoever finds such a one later goes on with that.

const NOTHING: Amount = { bytes: 0, inodes: 0 }

/** As somebody asked for it. Throws nothing: it is told to whoever watches, and to the ledger. */
export async function prune(agent: Agent, ask: Ask): Promise<void> {
  const change = openChange(ask, agent, null)
  await runChange(agent, change, () => carryOut(agent, change))
}

/**
 * After a push, also after a failed one, which made a release too. Its failure is a warning: what is live is live,
 * and saying otherwise would be a lie.
 */
export async function pruneApp(agent: Agent, change: Change): Promise<void> {
  try {
    await carryOut(agent, change)
  } catch (error) {
    agent.log.error({ err: error, app: change.app }, 'prune')
    change.step('warning', { message: reasonOf(error) })
  }
}

/** Removes all it can, and throws `prune_failed` at the end when that was not all. */
export async function carryOut(agent: Agent, change: Change): Promise<void> {
  const { layout, ledger } = agent
  const { app } = change
  const plan = await planPrune(agent, app)
  refuseBroken(plan)
  const whys = new Map(plan.verdicts.map(({ id, why }) => [id, why]))
  const trouble: string[] = []
  let freedBytes = 0
  const attempt = async (id: ReleaseId, work: () => Promise<void>): Promise<void> => {
    try {
      await work()
    } catch (error) {
      trouble.push(`${id}: ${troubleWords(error, layout.root)}`)
    }
  }
  const deleteAll = async (): Promise<void> => {
    for (const id of removedOn(layout, app)) {
      await attempt(id, async () => {
        const { objects: freed, tree } = await finishRemoval(agent, app, id)
        freedBytes += freed.bytes
        change.takes({ bytes: -freed.diskBytes - tree.bytes, inodes: -freed.objects - tree.inodes })
        const message = `${whys.get(id) ?? 'removed before'}: ${wordsOf(freed)}`
        change.step('pruned', { release: id, message, freedBytes: freed.bytes })
      })
    }
  }
  // What an attempt before this one could not delete would be in the way of one of the same name.
  await deleteAll()
  trouble.length = 0
  if (plan.doomed.length > 0) await freeLinks(layout, app, plan.doomed)
  for (const id of plan.doomed) await attempt(id, () => takeAway(agent, app, id))
  await deleteAll()
  await pruneRevisions(layout, app)
  ledger.setBytesOnDisk(app, Math.max(0, ledger.app(app).bytesOnDisk - freedBytes))
  removeDamaged(layout, app)
  // With the disk about to be full, or for what trouble above may have left. After a push it is done when nobody waits any more.
  if (change.kind === 'prune' || plan.graceMs === 0 || trouble.length > 0) await sweepStore(agent, change, plan)
  if (trouble.length === 0) return
  throw new Failure('prune_failed', `prune ${app}: not all could be removed: ${trouble.join('; ')}`, {
    hint: 'all else that was to go has gone; it is tried again with each push',
  })
}

/** What no release has, wherever it came from. */
async function sweepStore({ layout, ledger }: Agent, change: Change, grace: { graceMs: number }): Promise<void> {
  const { app } = change
  const looked = await lookThrough(layout, app)
  const orphans = await removeOrphans(looked, grace)
  change.takes({ bytes: -orphans.diskBytes, inodes: -orphans.objects })
  if (orphans.objects > 0)
    change.step('pruned', { message: `in no release: ${wordsOf(orphans)}`, freedBytes: orphans.bytes })
  ledger.setBytesOnDisk(app, looked.bytes - orphans.bytes)
}

/** A spare tree, also one that is half made or half removed, would keep what only these releases needed. */
async function freeLinks(layout: Layout, app: AppName, doomed: readonly ReleaseId[]): Promise<void> {
  if (sparesBegunOn(layout, app).some((id) => doomed.includes(id))) spoilSpares(layout, app)
  for (const remains of spoiltOn(layout, app)) await removeBigTree(remains)
}

/** From here on it is gone: no rollback finds it, and an agent that starts deletes it. */
async function takeAway({ layout, ledger, init }: Agent, app: AppName, id: ReleaseId): Promise<void> {
  // First the units that are left of it, in the slot that idles: none may name what is not there.
  for (const unit of await init.installed(app)) if (unit.release === id) await init.remove(unit)
  await renameWhole(layout.releaseDir(app, id), layout.removed(app, id))
  ledger.setState(app, id, 'pruned')
}

/** Its manifest goes last: while that is there, what only this release needed can be found. */
async function finishRemoval(agent: Agent, app: AppName, id: ReleaseId): Promise<{ objects: Removed; tree: Amount }> {
  const { config, layout, init } = agent
  const removing = removeBigTree(layout.removedTree(app, id))
  removing.catch(() => {})
  const removed = await manifestOfRemoved(layout, app, id)
  // While it is deleted.
  const { blockBytes } = await diskOf(config)
  const tree = removed === undefined ? NOTHING : roomOfRelease({ ...removed, signatures: 1 }, blockBytes)
  await removing
  const objects = await removeObjectsOf(layout, app, removed?.notInCurrent ?? [])
  await removeTree(layout.removed(app, id))
  // It may have been pushed again since.
  if (!releasesOn(layout, app).includes(id)) await init.forgetRelease(app, id)
  return { objects, tree }
}

/**
 * With those of its files at the least that the current release has not. None, when it was so far gone, or is not what it
 * was: what is left of it is an orphan, and goes as one.
 */
async function manifestOfRemoved(
  layout: Layout,
  app: AppName,
  id: ReleaseId,
): Promise<{ manifest: Manifest; textBytes: number; notInCurrent: readonly Entry[] } | undefined> {
  try {
    const text = readFileSync(layout.removedManifest(app, id), 'utf8')
    const manifest = await parseStored(text, { app, id })
    const current = currentText(layout, app)
    // Mostly it is told in a millisecond. To look at all objects of 25,000 files takes a tenth of a second.
    const changed = current === undefined ? undefined : changedFiles(current, text)
    const notInCurrent = changed?.map(({ after }) => after) ?? manifest.files
    return { manifest, textBytes: Buffer.byteLength(text), notInCurrent }
  } catch (error) {
    if (isErrno(error, 'ENOENT') || (error instanceof Failure && error.code === 'release_damaged')) return undefined
    throw error
  }
}

/** Undefined where nothing is current, or what is has none: then nothing is known of it. */
function currentText(layout: Layout, app: AppName): string | undefined {
  const id = currentRelease(layout, app)
  try {
    return id === null ? undefined : readReleaseText(layout, app, id)
  } catch (error) {
    if (error instanceof Failure) return undefined
    throw error
  }
}

/**
 * Before anything else is done: what was being deleted when the agent ended. Never throws: what cannot be deleted
 * stays where it is, in nobody's way, and is told.
 */
export async function finishRemovals(agent: Agent, app: AppName): Promise<void> {
  for (const id of removedOn(agent.layout, app)) {
    try {
      await finishRemoval(agent, app, id)
    } catch (err) {
      agent.log.error({ app, release: id, err }, 'a release that was removed could not be deleted')
    }
  }
}

function wordsOf({ objects, bytes }: Sweep): string {
  return `${objects} ${objects === 1 ? 'file' : 'files'}, ${prettyBytes(bytes)} freed`
}
