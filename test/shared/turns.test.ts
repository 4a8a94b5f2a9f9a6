import assert from 'node:assert/strict'
import { test } from 'node:test'
import { drained, ENTRIES_PER_TURN, inTurns, pacedBy, whenDue } from '../../shared/turns.ts'

function busyFor(ms: number): void {
  for (const until = performance.now() + ms; performance.now() < until; );
}

test('slow pieces of work give others a turn after each, quick ones seldom, and a failing turn ends the work', async () => {
  let turns = 0
  const due = whenDue(async () => {
    turns++
    busyFor(20)
  })
  for (let piece = 0; piece < 3; piece++) {
    busyFor(10)
    await due()
  }
  assert.equal(turns, 3)
  // What others took is not counted: the next piece is quick again.
  assert.equal(due(), undefined)

  const failing = whenDue(() => Promise.reject(new Error('a change has begun')))
  assert.equal(failing(), undefined)
  busyFor(10)
  await assert.rejects(async () => failing(), /a change has begun/)
})

test('each of many entries is visited once, in order, with turns in between', async () => {
  const items = Array.from({ length: 2 * ENTRIES_PER_TURN + 1 }, (_, index) => index)
  const seen: number[] = []
  let turns = 0
  const visit = () => inTurns(items, (item, index) => seen.push(item === index ? item : -1))
  await pacedBy(async () => turns++, visit())
  assert.deepEqual([seen, turns], [items, 2])
  seen.length = 0
  drained(visit())
  assert.deepEqual(seen, items)
})
