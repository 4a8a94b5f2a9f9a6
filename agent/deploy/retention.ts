import type { ReleaseId } from '../../shared/names.ts'
import type { ReleaseState } from '../../shared/wire.ts'

// What to keep and what to remove, and why. Pure: it is told everything and touches nothing.

export interface Kept {
  id: ReleaseId
  /** The agent's own order, newest highest. */
  seq: number
  state: ReleaseState
  onceHealthy: boolean
  /** The ledger lost sight of it and took it from the disk: nobody knows whether it was ever healthy. */
  adopted?: boolean
}

export interface RetentionFacts {
  current: ReleaseId | null
  /** Releases a change is working with. */
  inFlight: ReadonlySet<ReleaseId>
  keep: { releases: number; failed: number }
}

export interface Verdict {
  id: ReleaseId
  keep: boolean
  why: string
}

/**
 * One verdict per release, newest first. Current, the previous good one and those in flight are never removed; the
 * quota of `keep.releases` counts only releases that were once healthy; failed ones have their own quota, so that
 * ten bad pushes in a row never push out the last good one. An adopted one may be good, and so has a good one's quota;
 * it may be bad, and so takes no place from any other: a row that is missing never costs a good release.
 */
export function planRetention(releases: readonly Kept[], facts: RetentionFacts): Verdict[] {
  const newestFirst = [...releases].sort((a, b) => b.seq - a.seq)
  const previous = previousGood(newestFirst, facts.current)
  let good = 0
  let failed = 0
  return newestFirst.map(({ id, onceHealthy, state, adopted }) => {
    // Counted before anything is pinned: current and previous take their places in the quota.
    const place = adopted ? good + 1 : onceHealthy ? ++good : ++failed
    if (id === facts.current) return { id, keep: true, why: 'current' }
    if (facts.inFlight.has(id)) return { id, keep: true, why: 'a change is working with it' }
    if (id === previous) return { id, keep: true, why: 'previous good: rollback goes here' }
    const what = adopted
      ? 'of unknown health, found on the disk'
      : onceHealthy
        ? state === 'bad'
          ? 'once healthy, marked bad'
          : 'once healthy'
        : 'never healthy'
    const quota = adopted || onceHealthy ? facts.keep.releases : facts.keep.failed
    return { id, keep: place <= quota, why: `${what}, ${place} of the ${quota} kept` }
  })
}

/**
 * Where a rollback without a name goes: the newest once-healthy release that is not bad and does not run now. An adopted
 * one only where none is known, and none that came after current: that was left, or never got there.
 */
export function previousGood(releases: readonly Kept[], current: ReleaseId | null): ReleaseId | null {
  const now = releases.find(({ id }) => id === current)
  let best: Kept | undefined
  for (const release of releases) {
    // One that failed when it was last tried would only fail again.
    if (release.state === 'bad' || release.state === 'failed' || release.id === current) continue
    if (release.adopted ? now !== undefined && release.seq > now.seq : !release.onceHealthy) continue
    if (best === undefined || isBetter(release, best)) best = release
  }
  return best?.id ?? null
}

function isBetter(a: Kept, b: Kept): boolean {
  return !a.adopted === !b.adopted ? a.seq > b.seq : !a.adopted
}
