import prettyBytes from 'pretty-bytes'
import { reasonOf } from '../../shared/failure.ts'
import type { AppName, ReleaseId } from '../../shared/names.ts'
import type { Agent } from '../agent.ts'
import { removeTree, renameWhole } from '../state/disk.ts'
import { bytesOfObjects, collectObjects } from '../state/objects.ts'
import { currentRelease, readRelease, releasesOn } from '../state/release-store.ts'
import type { Change } from './change.ts'
import { planRetention, type Verdict } from './retention.ts'

/**
 * What would go and why: only releases that both the disk and the ledger know. How many are kept is what the release
 * that serves was signed with; with none serving, the newest.
 */
export function retentionOf(agent: Agent, app: AppName): Verdict[] {
  const onDisk = new Set(releasesOn(agent.layout, app))
  const known = agent.ledger.releases(app).filter(({ id }) => onDisk.has(id))
  const current = currentRelease(agent.layout, app)
  const decides = current ?? known[0]?.id
  if (decides === undefined) return []
  const inFlight = agent.operations.of(app)?.release
  return planRetention(known, {
    current,
    inFlight: new Set(inFlight ? [inFlight] : []),
    keep: readRelease(agent.layout, app, decides).manifest.keep,
  })
}

/**
 * After a push, also after a failed one, which made a release too. Its failure is a warning: what is live is live,
 * and saying otherwise would be a lie.
 */
export async function pruneApp(agent: Agent, change: Change): Promise<void> {
  const { layout, ledger } = agent
  try {
    const gone: ReleaseId[] = []
    for (const { id, keep } of retentionOf(agent, change.app)) {
      if (keep) continue
      await removeRelease(agent, change.app, id)
      gone.push(id)
    }
    const freed = await collectObjects(layout, change.app)
    ledger.setBytesOnDisk(change.app, await bytesOfObjects(layout, change.app))
    if (gone.length > 0 || freed > 0)
      change.step('pruned', {
        message: `${gone.length} ${gone.length === 1 ? 'release' : 'releases'}, ${prettyBytes(freed)} freed`,
      })
  } catch (error) {
    agent.log.warn({ err: error, app: change.app }, 'prune')
    change.step('warning', { message: `prune ${change.app}: ${reasonOf(error)}` })
  }
}

/** It disappears at once by a rename; the deleting, which takes longer, happens out of sight. */
async function removeRelease({ layout, ledger, init }: Agent, app: AppName, id: ReleaseId): Promise<void> {
  const doomed = layout.incoming(app, `${id}.removed`)
  // What an attempt before this one left there.
  await removeTree(doomed)
  await renameWhole(layout.releaseDir(app, id), doomed)
  ledger.setState(app, id, 'pruned')
  await removeTree(doomed)
  await init.forgetRelease(app, id)
}
