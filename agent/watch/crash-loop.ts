import type { ReleaseId, ServiceName } from '../../shared/names.ts'
import type { Loop } from '../deploy/looping.ts'
import { type Kept, previousGood } from '../deploy/retention.ts'
import type { UnitFacts } from '../init/init-system.ts'
import type { Switch } from '../state/ledger-deploys.ts'

// Whether what serves is in a crash loop, and what the agent does about it. Pure: it is told everything.

/** One that was cut off by the agent's own end is tried once more; one that ends the agent each time is not. */
const MAX_TRIES = 2

export interface LoopLimits {
  /** As many unasked exits within `withinMs` are a loop, however long it was up between them. */
  exits: number
  withinMs: number
  probationMs: number
}

export interface ServiceFacts {
  service: ServiceName
  state: UnitFacts['state']
  respawns: number
  /** When the current release ended unasked, since somebody last changed it: ms since 1970, newest first. */
  exits: readonly number[]
  /** The last that init or the ledger knows of. */
  lastExitAt: number | undefined
}

export interface LoopFacts {
  current: ReleaseId
  services: readonly ServiceFacts[]
  /** Newest first. */
  switches: readonly Switch[]
  /** Those that lie on the disk. */
  releases: readonly Kept[]
  now: number
}

export type Verdict = { act: 'nothing' } | Looping

export type Looping = { act: 'go-back'; loops: Loops; to: ReleaseId } | StayDown

/** No way back is open: what still respawns is stopped. */
export interface StayDown {
  act: 'stay-down'
  loops: Loops
  why: string
}

export type Loops = readonly [Loop, ...Loop[]]

/**
 * A loop of a release in probation goes back once: to the newest release that was once healthy and is not bad. All
 * that says no ends in "stay down", with the reason.
 */
export function planLoop(facts: LoopFacts, limits: LoopLimits): Verdict {
  const [first, ...more] = facts.services.flatMap((service) => loopOf(service, facts.now, limits))
  if (first === undefined) return { act: 'nothing' }
  const loops: Loops = [first, ...more]
  const { landed, tries } = lastSwitch(facts)
  if (isSpent(tries, facts.current)) {
    return { act: 'stay-down', loops, why: 'it was rolled back once since the last push: that is not repeated' }
  }
  const since = Math.min(...loops.map(({ since }) => since ?? facts.now))
  if (landed?.to !== facts.current || since - Date.parse(landed.endedAt) > limits.probationMs) {
    return { act: 'stay-down', loops, why: 'its probation is over: only a person can say what is better' }
  }
  const to = previousGood(facts.releases, facts.current)
  if (to === null) return { act: 'stay-down', loops, why: 'there is no good release to go back to' }
  return { act: 'go-back', loops, to }
}

/** Whether a service of them has ended since the last time such a verdict was written down: one loop is told once. */
export function isNewLoop(loops: Loops, lastGaveUp: string | null): boolean {
  return lastGaveUp === null || loops.some(({ at }) => at !== undefined && at > Date.parse(lastGaveUp))
}

function loopOf(
  { service, state, respawns, exits, lastExitAt }: ServiceFacts,
  now: number,
  limits: LoopLimits,
): Loop[] {
  const loop = { service, at: lastExitAt }
  if (state === 'gave-up') {
    return [{ ...loop, since: lastExitAt, why: `was given up in a crash loop, after ${respawns} respawns` }]
  }
  // What was stopped loops no more, whoever stopped it.
  const isAlive = state === 'running' || state === 'starting' || state === 'respawning'
  const recent = exits.filter((at) => at >= now - limits.withinMs).length
  if (!isAlive || recent < limits.exits) return []
  const why = `is in a crash loop: ${recent} exits within ${limits.withinMs / 1000} s`
  return [{ ...loop, since: loopingSince(exits, limits), why }]
}

/**
 * When the exits that go on until now became a loop. Seen as they happen that is the newest of them; one that went on
 * while nobody looked may have begun long before.
 */
function loopingSince(exits: readonly number[], limits: LoopLimits): number | undefined {
  let since = exits[0]
  for (const [index, at] of exits.entries()) {
    const first = exits[index + limits.exits - 1]
    if (first === undefined || at - first > limits.withinMs) break
    since = at
  }
  return since
}

/** The last switch a person asked for that came to its end, and what the agent did by itself since. */
function lastSwitch({ switches, current }: LoopFacts): { landed: Switch | undefined; tries: Switch[] } {
  const tries: Switch[] = []
  for (const one of switches) {
    if (one.kind === 'auto-rollback') tries.push(one)
    // One that was cut off, but only after `current` had moved, counts as finished.
    else if (one.result === 'done' || one.to === current) return { landed: one, tries }
  }
  return { landed: undefined, tries }
}

function isSpent(tries: readonly Switch[], current: ReleaseId): boolean {
  return tries.length >= MAX_TRIES || tries.some(({ result, to }) => result !== 'interrupted' || to === current)
}
