import type { Change } from './change.ts'

/** It was switched to and is healthy, but callers noticed: more than was allowed. */
export class GapTooLong extends Error {}

/** Throws GapTooLong when there was a gap, and the push said how long one may be. */
export function refuseGap({ gap, maxGapMs }: Change): void {
  if (gap === null || maxGapMs === undefined || gap.ms <= maxGapMs) return
  throw new GapTooLong(`its switch had a gap of ${gap.ms} ms, and ${maxGapMs} ms were allowed`)
}
