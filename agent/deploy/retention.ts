import type { ReleaseId } from '../../shared/names.ts'
import type { DiskState, ReleaseState } from '../../shared/wire.ts'

// What to keep and what to remove, and why; and, apart from that, what must never be removed. Pure: both are told
// everything and touch nothing.

/** Of the good ones a disk that gets low leaves so many at least: current, the previous good one, and one more. */
const LOW_KEEPS = 3

export interface Kept {
  id: ReleaseId
  /** The agent's own order, newest highest. */
  seq: number
  state: ReleaseState
  onceHealthy: boolean
  /** The ledger lost sight of it and took it from the disk: nobody knows whether it was ever healthy. */
  adopted?: boolean
}

export interface Keep {
  releases: number
  failed: number
}

export interface RetentionFacts {
  current: ReleaseId | null
  /** Releases that have a process, whatever `current` says. */
  running: ReadonlySet<ReleaseId>
  /** Releases a change is working with. */
  inFlight: ReadonlySet<ReleaseId>
  /** Releases that somebody wants kept, and who. */
  held: ReadonlyMap<ReleaseId, string>
  keep: Keep
  /** Of the file system: under pressure less is kept. */
  pressure: DiskState
}

export interface Verdict {
  id: ReleaseId
  keep: boolean
  why: string
}

/**
 * One verdict per release, newest first. Current, the previous good one, held ones and those in flight are never removed; the
 * quota of `keep.releases` counts only releases that were once healthy; failed ones have their own quota, so that
 * ten bad pushes in a row never push out the last good one. An adopted one may be good, and so has a good one's quota;
 * it may be bad, and so takes no place from any other: a row that is missing never costs a good release.
 */
export function planRetention(releases: readonly Kept[], facts: RetentionFacts): Verdict[] {
  const newestFirst = [...releases].sort((a, b) => b.seq - a.seq)
  const pinned = pinsOf(newestFirst, facts)
  const quotas = quotaOf(facts.keep, facts.pressure)
  let good = 0
  let failed = 0
  return newestFirst.map((release) => {
    // Counted before anything is pinned: current and previous take their places in the quota.
    const place = release.adopted ? good + 1 : release.onceHealthy ? ++good : ++failed
    const pin = pinned.get(release.id)
    if (pin !== undefined) return { id: release.id, keep: true, why: pin }
    const quota = release.adopted || release.onceHealthy ? quotas.releases : quotas.failed
    const keep = place <= quota
    const under = facts.pressure === 'ok' ? '' : `, while the disk is ${facts.pressure}`
    const why = keep ? `${place} of the ${quota} kept` : `beyond the ${quota} kept`
    return { id: release.id, keep, why: `${kindOf(release)}, ${why}${under}` }
  })
}

/** What the pressure leaves of the quotas; what is pinned stays whatever they say. */
export function quotaOf({ releases, failed }: Keep, pressure: DiskState): Keep {
  switch (pressure) {
    case 'ok':
      return { releases, failed }
    case 'low':
      return { releases: Math.min(releases, Math.max(LOW_KEEPS, Math.ceil(releases / 2))), failed: 0 }
    case 'critical':
      return { releases: 0, failed: 0 }
  }
}

function pinsOf(newestFirst: readonly Kept[], facts: RetentionFacts): Map<ReleaseId, string> {
  const pins = new Map<ReleaseId, string>()
  const previous = previousGood(newestFirst, facts.current)
  const isGood = newestFirst.some(({ id, onceHealthy }) => onceHealthy && id === facts.current)
  const last = newestFirst.find(({ onceHealthy }) => onceHealthy)?.id
  // An adopted one may turn out bad: one that was seen healthy stays beside it.
  const seen = newestFirst.filter(({ onceHealthy, adopted }) => onceHealthy && !adopted)
  const lastSeen = seen.some(({ id }) => id === facts.current || id === previous) ? undefined : seen[0]?.id
  // Marked bad or not: where nothing good serves and nothing else is good, it is all there is to start from.
  if (!isGood && previous === null && last !== undefined) pins.set(last, 'the last that was ever healthy')
  if (lastSeen !== undefined) pins.set(lastSeen, 'the last that was seen healthy')
  if (previous !== null) pins.set(previous, 'previous good: rollback goes here')
  for (const [id, who] of facts.held) pins.set(id, `held by ${who}`)
  for (const id of facts.running) pins.set(id, 'it runs, although it is not current')
  for (const id of facts.inFlight) pins.set(id, 'a change is working with it')
  if (facts.current !== null) pins.set(facts.current, 'current')
  return pins
}

function kindOf({ state, onceHealthy, adopted }: Kept): string {
  if (adopted) return 'of unknown health, found on the disk'
  if (!onceHealthy) return 'never healthy'
  if (state === 'bad') return 'once healthy, marked bad'
  return state === 'damaged' ? 'once healthy, damaged on disk' : 'once healthy'
}

/**
 * What must be true of a plan before the first file goes, said in other words than those it was made with, so that a
 * mistake there is found here: what would break, or nothing. A plan that breaks one is not carried out at all.
 */
export function brokenInvariants(
  doomed: readonly ReleaseId[],
  releases: readonly Kept[],
  facts: RetentionFacts,
): string[] {
  const known = new Map(releases.map((release) => [release.id, release]))
  const isLeft = ({ id }: Kept) => !doomed.includes(id)
  const proved = releases.filter(({ onceHealthy, adopted }) => onceHealthy && !adopted)
  const quota = quotaOf(facts.keep, facts.pressure).releases
  const broken = doomed.flatMap((id) => {
    const release = known.get(id)
    if (release === undefined) return [`${id} is not in the ledger`]
    const newer = proved.filter(({ seq }) => seq > release.seq).length
    return [
      ...(id === facts.current ? [`${id} is current`] : []),
      ...(id === previousGood(releases, facts.current) ? [`${id} is the previous good one`] : []),
      ...(facts.running.has(id) ? [`${id} runs`] : []),
      ...(facts.held.has(id) ? [`${id} is held`] : []),
      ...(facts.inFlight.has(id) ? [`a change is working with ${id}`] : []),
      ...(release.onceHealthy && newer < quota ? [`${id} is among the ${quota} newest that were healthy`] : []),
    ]
  })
  if (new Set(doomed).size < doomed.length) broken.push('a release is named twice')
  if (releases.some(({ onceHealthy }) => onceHealthy) && !releases.some((one) => one.onceHealthy && isLeft(one)))
    broken.push('none that was ever healthy would be left')
  return broken
}

/** One that failed when it was last tried would only fail again, and one that is damaged is not what was good. */
export const NO_WAY_BACK: ReadonlySet<ReleaseState> = new Set(['bad', 'failed', 'damaged'])

/**
 * Where a rollback without a name goes: the newest once-healthy release that is not bad and does not run now. An adopted
 * one only where none is known, and none that came after current: that was left, or never got there.
 */
export function previousGood(releases: readonly Kept[], current: ReleaseId | null): ReleaseId | null {
  const now = releases.find(({ id }) => id === current)
  let best: Kept | undefined
  for (const release of releases) {
    if (NO_WAY_BACK.has(release.state) || release.id === current) continue
    if (release.adopted ? now !== undefined && release.seq > now.seq : !release.onceHealthy) continue
    if (best === undefined || isBetter(release, best)) best = release
  }
  return best?.id ?? null
}

function isBetter(a: Kept, b: Kept): boolean {
  return !a.adopted === !b.adopted ? a.seq > b.seq : !a.adopted
}
