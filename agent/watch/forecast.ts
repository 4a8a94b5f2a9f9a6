import type { Disk } from '../deploy/room.ts'
import type { DailyLow, PushRoom } from '../state/ledger-disk.ts'

// When a disk will be full: when what must stay free is all that is left, and pushes are refused. Pure.

/** Fewer days are no trend: one weekend's backup would be one. */
const MIN_DAYS = 3
/** What is further away than a year is no forecast, and nobody would act on it. */
const MAX_DAYS_AHEAD = 365
/** Fewer pushes have no usual size: the first one of an app brings everything. */
const MIN_PUSHES = 3
/** As many as tell what is usual now. */
export const PUSHES_LOOKED_AT = 20
const DAY_MS = 24 * 3_600_000

/**
 * Whole days until bytes or inodes run out, by the slope between the lowest points of the days: the median over all
 * pairs of days (Theil–Sen), which one night of temporary files does not move. Null when nothing gets less, or within
 * a year not enough.
 */
export function daysUntilFull(lows: readonly DailyLow[], disk: Disk): number | null {
  const days = lows.map(({ day }) => Date.parse(day) / DAY_MS)
  const left = amountsLeft(disk).map(({ kind, left }) => {
    if (left <= 0) return 0
    const free = lows.map((low) => (kind === 'bytes' ? low.freeBytes : low.freeInodes))
    const perDay = lows.length < MIN_DAYS ? 0 : -slopeOf(days, free)
    return perDay > 0 ? left / perDay : Number.POSITIVE_INFINITY
  })
  const soonest = Math.floor(Math.min(...left))
  return soonest <= MAX_DAYS_AHEAD ? soonest : null
}

/**
 * How many more pushes of the usual size fit. Each must find the room it takes before old releases are removed; what it
 * takes for good is what it adds less what it lets go. Null when pushes let go as much as they add.
 */
export function pushesUntilFull(pushes: readonly PushRoom[], disk: Disk): number | null {
  if (pushes.length < MIN_PUSHES) return null
  const counts = amountsLeft(disk).map(({ kind, left }) => {
    const added = median(pushes.map((push) => push.added[kind]))
    const net = median(pushes.map((push) => push.added[kind] - push.freed[kind]))
    if (left < added) return 0
    return net > 0 ? 1 + Math.floor((left - added) / net) : Number.POSITIVE_INFINITY
  })
  const least = Math.min(...counts)
  return Number.isFinite(least) ? least : null
}

/** A file system that counts no inodes cannot run out of them. */
function amountsLeft(disk: Disk): { kind: 'bytes' | 'inodes'; left: number }[] {
  const bytes = { kind: 'bytes', left: disk.freeBytes - disk.reserveBytes } as const
  return disk.totalInodes === 0 ? [bytes] : [bytes, { kind: 'inodes', left: disk.freeInodes - disk.reserveInodes }]
}

function slopeOf(days: readonly number[], values: readonly number[]): number {
  const slopes: number[] = []
  for (const [later, day] of days.entries()) {
    for (let earlier = 0; earlier < later; earlier++) {
      slopes.push(((values[later] ?? 0) - (values[earlier] ?? 0)) / (day - (days[earlier] ?? 0)))
    }
  }
  return median(slopes)
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? 0
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? 0) + upper) / 2
}
