import { Failure } from '../../shared/failure.ts'
import type { AppName, ReleaseId } from '../../shared/names.ts'
import type { PruneAnswer } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import { bytesFreed, countOrphans, lookThrough, ORPHAN_GRACE_MS } from '../state/object-sweep.ts'
import { readHead, readRelease, releaseServed, releasesOn, straysOn } from '../state/release-store.ts'
import { heldOn } from './hold.ts'
import { brokenInvariants, type Kept, planRetention, type RetentionFacts, type Verdict } from './retention.ts'
import { diskOf, diskState } from './room.ts'

/** What would go and why. Made anew each time, of what the disk, init and the ledger say now. */
export interface PrunePlan {
  app: AppName
  /** Releases that both the disk and the ledger know. */
  releases: readonly Kept[]
  facts: RetentionFacts
  /** Newest first. */
  verdicts: readonly Verdict[]
  /** Oldest first: the order in which they go. */
  doomed: readonly ReleaseId[]
  strays: string[]
  /** How long a content that no release has stays. */
  graceMs: number
}

export async function planPrune(agent: Agent, app: AppName): Promise<PrunePlan> {
  const { config, layout, ledger, operations } = agent
  const ids = releasesOn(layout, app)
  const onDisk = new Set(ids)
  const releases = ledger.releases(app).filter(({ id }) => onDisk.has(id))
  const current = releaseServed(layout, app, ids)
  const inFlight = operations.of(app)?.release
  const pressure = diskState(await diskOf(config))
  const facts: RetentionFacts = {
    current,
    running: await runningReleases(agent, app),
    inFlight: new Set(inFlight ? [inFlight] : []),
    held: heldOn(layout, app, ids),
    keep: keepOf(agent, app, current ?? releases[0]?.id),
    pressure,
  }
  const verdicts = planRetention(releases, facts)
  return {
    app,
    releases,
    facts,
    verdicts,
    doomed: verdicts.flatMap(({ id, keep }) => (keep ? [] : [id])).reverse(),
    strays: straysOn(layout, app, new Set(releases.map(({ id }) => id))),
    // With the disk about to be full, room is worth more than an upload.
    graceMs: pressure === 'critical' ? 0 : ORPHAN_GRACE_MS,
  }
}

/** Whatever `current` says: a release that has a process is in use. */
async function runningReleases({ init }: Agent, app: AppName): Promise<Set<ReleaseId>> {
  const running = new Set<ReleaseId>()
  for (const unit of await init.installed(app)) {
    if (unit.release !== undefined && (await init.facts(unit)).pid !== undefined) running.add(unit.release)
  }
  return running
}

/** How many are kept is what the release that serves was signed with; with none serving, the newest. */
function keepOf({ layout }: Agent, app: AppName, id: ReleaseId | undefined): RetentionFacts['keep'] {
  return id === undefined ? { releases: 0, failed: 0 } : readHead(layout, app, id).keep
}

/** A plan that may be carried out; or, whatever is wrong with it, none of it is. Throws `prune_failed`. */
export function refuseBroken({ app, doomed, releases, facts }: PrunePlan): void {
  const broken = brokenInvariants(doomed, releases, facts)
  if (broken.length === 0) return
  throw new Failure(
    'prune_failed',
    `prune ${app}: nothing is removed, the plan would break a promise: ${broken.join('; ')}`,
    {
      hint: 'this is a bug of the agent: tarmac prune --explain shows the whole plan',
    },
  )
}

/** The plan for whoever asks, and what it would give back. */
export async function explainPrune(agent: Agent, app: AppName): Promise<PruneAnswer> {
  const { layout, ledger } = agent
  const plan = await planPrune(agent, app)
  const files = plan.doomed.map((id) => readRelease(layout, app, id).manifest.files)
  const freed = await bytesFreed(layout, app, files)
  const states = new Map(ledger.releases(app).map(({ id, state }) => [id, state]))
  return {
    pressure: plan.facts.pressure,
    releases: plan.verdicts.map(({ id, keep, why }) => {
      return { id, state: states.get(id) ?? 'assembled', keep, why, freesBytes: freed[plan.doomed.indexOf(id)] ?? 0 }
    }),
    orphans: await countOrphans(await lookThrough(layout, app), plan),
    strays: plan.strays,
  }
}
