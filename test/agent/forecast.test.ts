import assert from 'node:assert/strict'
import { test } from 'node:test'
import { scarceOf } from '../../agent/deploy/room.ts'
import type { DailyLow, PushRoom } from '../../agent/state/ledger-disk.ts'
import { daysUntilFull, pushesUntilFull } from '../../agent/watch/forecast.ts'

const DISK = {
  ...{ path: '/', blockBytes: 4096, totalBytes: 100_000, totalInodes: 10_000 },
  ...{ freeBytes: 40_000, freeInodes: 5_000, reserveBytes: 10_000, reserveInodes: 1_000 },
}

function lows(free: (day: number) => [bytes: number, inodes: number], days: number): DailyLow[] {
  return Array.from({ length: days }, (_, day) => {
    const [freeBytes, freeInodes] = free(day)
    return { day: new Date(Date.UTC(2026, 10, 1 + day)).toISOString().slice(0, 10), freeBytes, freeInodes }
  })
}

function pushes(count: number, added: [number, number], freed: [number, number]): PushRoom[] {
  const amount = ([bytes, inodes]: [number, number]) => ({ bytes, inodes })
  return Array.from({ length: count }, () => ({ added: amount(added), freed: amount(freed) }))
}

test('days are counted down to the reserve, by what runs out first', () => {
  assert.equal(
    daysUntilFull(
      lows((day) => [60_000 - 1_000 * day, 5_000], 20),
      DISK,
    ),
    30,
  )
  assert.equal(
    daysUntilFull(
      lows((day) => [60_000 - 1_000 * day, 9_000 - 200 * day], 20),
      DISK,
    ),
    20,
  )
  assert.equal(daysUntilFull([], { ...DISK, freeBytes: 9_999 }), 0, 'what is full now needs no trend')
})

test('one night of temporary files, or one that was cleaned up, does not move the forecast', () => {
  const growth = (day: number): [number, number] => [60_000 - 1_000 * day - (day === 7 ? 40_000 : 0), 5_000]
  assert.equal(daysUntilFull(lows(growth, 20), DISK), 30)
  const missing = lows(growth, 20).filter((_, day) => day < 4 || day > 9)
  assert.equal(daysUntilFull(missing, DISK), 30, 'nor do days in which the host was off')
})

test('no trend is no forecast: too few days, room that stays or grows, a year and more', () => {
  assert.equal(
    daysUntilFull(
      lows((day) => [60_000 - 1_000 * day, 5_000], 2),
      DISK,
    ),
    null,
  )
  assert.equal(
    daysUntilFull(
      lows(() => [40_000, 5_000], 20),
      DISK,
    ),
    null,
  )
  assert.equal(
    daysUntilFull(
      lows((day) => [20_000 + 1_000 * day, 5_000], 20),
      DISK,
    ),
    null,
  )
  assert.equal(
    daysUntilFull(
      lows((day) => [40_000 - day, 5_000], 20),
      DISK,
    ),
    null,
  )
  const uncounted = { ...DISK, totalInodes: 0, freeInodes: 0 }
  assert.equal(
    daysUntilFull(
      lows(() => [40_000, 0], 20),
      uncounted,
    ),
    null,
    'inodes that nobody counts run out never',
  )
})

test('pushes: each needs what it adds, and leaves less by what it adds beyond what was removed after it', () => {
  assert.equal(pushesUntilFull(pushes(5, [3_000, 100], [0, 0]), DISK), 10)
  assert.equal(pushesUntilFull(pushes(5, [3_000, 1_000], [0, 0]), DISK), 4, 'inodes first')
  assert.equal(pushesUntilFull(pushes(5, [3_000, 100], [2_000, 50]), DISK), 28)
  assert.equal(pushesUntilFull(pushes(5, [3_000, 100], [3_000, 100]), DISK), null, 'the quota is reached')
  assert.equal(pushesUntilFull(pushes(5, [30_001, 100], [30_001, 100]), DISK), 0, 'yet the next one finds no room')
  assert.equal(pushesUntilFull([...pushes(4, [3_000, 1], [0, 0]), ...pushes(1, [90_000, 1], [0, 0])], DISK), 10)
  assert.equal(pushesUntilFull(pushes(2, [3_000, 100], [0, 0]), DISK), null, 'two have no usual size')
})

test('what there is least of is said, and nothing when there is enough', () => {
  assert.equal(scarceOf(DISK), null)
  assert.equal(scarceOf({ ...DISK, freeInodes: 2_900 }), 'inodes')
  assert.equal(scarceOf({ ...DISK, freeBytes: 5_000, freeInodes: 2_900 }), 'bytes')
})
