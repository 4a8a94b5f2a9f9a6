import { availableParallelism, loadavg } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { isErrno } from '../../shared/failure.ts'
import type { AppName } from '../../shared/names.ts'
import type { Agent } from '../agent.ts'
import { tidyRefused } from '../deploy/admit.ts'
import { markDamaged } from '../deploy/damage.ts'
import { isRight, quarantine } from '../state/object-check.ts'
import { objectsIn, removeIfOrphan, type StoredObject } from '../state/object-sweep.ts'
import { appsOn } from '../state/release-store.ts'

// Reads the whole store now and then, in nobody's way: a disk that rots says nothing by itself, and the day on which
// a rollback needs the file is a bad day to learn it.

/** Once a week: sooner than most releases are pruned, and 1 MB a second for a store of 500 GB. */
const ROUND_MS = 7 * 24 * 3_600_000
/** By the first two digits of their digests. */
const SHARDS = 256
/** After each mebibyte, and each object: 10 MB a second at the most, and a few percent of a core. */
const PACE_MS = 100
/** Processes that want to run, for each core: with more, somebody is waiting already. */
const BUSY_LOAD = 1
/** How often to look whether it is quiet again. */
const QUIET_POLL_MS = 5_000

export type Scrubbed = Pick<Agent, 'layout' | 'ledger' | 'log' | 'tell' | 'operations' | 'asked'>

export interface Pace {
  everyMs: number
  paceMs: number
  maxLoad: number
  pollMs: number
}

const SLOWLY: Pace = {
  everyMs: ROUND_MS / SHARDS,
  paceMs: PACE_MS,
  maxLoad: BUSY_LOAD * availableParallelism(),
  pollMs: QUIET_POLL_MS,
}

/**
 * A shard of each app every 40 minutes. It begins where the clock says, so that an agent that is started daily does not
 * always read the same; nothing is kept of how far it came.
 */
export function watchStore(agent: Scrubbed, pace: Pace = SLOWLY): { end(): void } {
  const ended = new AbortController()
  const { signal } = ended
  const run = async () => {
    for (let shard = Math.floor(Date.now() / pace.everyMs) % SHARDS; ; shard = (shard + 1) % SHARDS) {
      for (const app of appsOn(agent.layout)) await scrubShard(agent, { app, shard: hex(shard), pace, signal })
      await sleep(pace.everyMs, undefined, { signal, ref: false })
    }
  }
  run().catch((err: unknown) => {
    if (!signal.aborted) agent.log.error({ err }, 'the store is not looked through any more')
  })
  return { end: () => ended.abort() }
}

interface Part {
  app: AppName
  shard: string
  pace: Pace
  signal: AbortSignal
}

async function scrubShard(agent: Scrubbed, { app, shard, pace, signal }: Part): Promise<void> {
  const paced = () => sleep(pace.paceMs, undefined, { signal, ref: false })
  for (const object of objectsIn(agent.layout, app, shard)) {
    await quiet(agent, pace, signal)
    try {
      await scrub(agent, app, object, paced)
    } catch (err) {
      // Removed meanwhile; an unreadable directory is no reason to leave the rest unread.
      if (signal.aborted) throw err
      if (!isErrno(err, 'ENOENT')) agent.log.error({ app, object: object.sha256, err }, 'an object could not be read')
    }
    await paced()
  }
}

async function scrub(agent: Scrubbed, app: AppName, object: StoredObject, paced: () => Promise<void>): Promise<void> {
  const { layout, operations, asked } = agent
  // Not awaiting anything between the two: an upload that begins may count on it.
  if (operations.of(app) === undefined && removeIfOrphan(object.path)) {
    asked.void(app)
    return tidyRefused(layout, app)
  }
  if (await isRight(object.path, object, paced)) return
  quarantine(layout, app, object)
  markDamaged(agent, app, [object.sha256])
}

/** While a change runs, the disk is that change's; while the machine is busy, it is everybody else's. */
async function quiet({ operations }: Scrubbed, { maxLoad, pollMs }: Pace, signal: AbortSignal): Promise<void> {
  while (operations.all().length > 0 || (loadavg()[0] ?? 0) > maxLoad) {
    await sleep(pollMs, undefined, { signal, ref: false })
  }
}

function hex(shard: number): string {
  return shard.toString(16).padStart(2, '0')
}
