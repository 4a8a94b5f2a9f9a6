import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { brokenInvariants, type Kept, planRetention, previousGood } from '../../agent/deploy/retention.ts'
import type { ReleaseId } from '../../shared/names.ts'
import type { DiskState, ReleaseState } from '../../shared/wire.ts'

// Whatever happens to an app over the years, as a model of its disk and its ledger: pushes good and bad, rollbacks,
// crashes at the wrong moment, clocks that jump, a ledger that is lost. After each event the app is pruned, and what must
// hold is asked of the model, in other words than the planner's.

const HISTORIES = 100_000
const MAX_EVENTS = 16
const APPS = ['shop', 'shop-web'] as const
const NONE: ReadonlySet<ReleaseId> = new Set()

interface Row extends Kept {
  onDisk: boolean
  adopted: boolean
}

interface App {
  rows: Row[]
  current: ReleaseId | null
  keep: { releases: number; failed: number }
  held: Map<ReleaseId, string>
  strays: number
  clock: number
}

/** Directories of all apps, as they lie on one disk: what is removed for one of them is removed here. */
type Disk = Set<string>

const KINDS = ['good', 'good', 'good', 'bad', 'bad', 'rollback', 'named', 'loop', 'cut-push', 'again', 'hold'] as const
const RARE = ['clock', 'stray', 'lost-ledger', 'damage', 'keep', 'nothing-serves', 'low', 'critical'] as const
const EVENTS = [...KINDS, ...KINDS, ...RARE]

/** One number says which event it is, of which app, and how it goes. */
const history = fc.array(fc.nat({ max: 2 ** 24 - 1 }), { minLength: 4, maxLength: MAX_EVENTS })

test(`${HISTORIES} histories of pushes, rollbacks, holds, loops, crashes, clock jumps, stray files and lost ledgers: what is needed stays`, (t) => {
  const began = performance.now()
  let events = 0
  fc.assert(
    fc.property(history, (numbers) => {
      const disk: Disk = new Set()
      const apps = APPS.map(
        (): App => ({
          rows: [],
          current: null,
          keep: { releases: 3, failed: 1 },
          held: new Map(),
          strays: 0,
          clock: 0,
        }),
      )
      let seq = 0
      for (const number of numbers) {
        const which = number & 1
        const app = apps[which] as App
        const other = ownedBy(disk, APPS[1 - which])
        const kind = EVENTS[(number >> 1) % EVENTS.length] as (typeof EVENTS)[number]
        const pressure: DiskState = kind === 'low' || kind === 'critical' ? kind : 'ok'
        const pick = number >> 8
        happen(app, { kind, pick, seq: ++seq })
        sync(disk, APPS[which] as string, app)
        prune(app, { pressure, pick }, disk, APPS[which] as string)
        assert.equal(ownedBy(disk, APPS[1 - which]), other, 'the app of the like name')
        events += 1
      }
    }),
    { numRuns: HISTORIES },
  )
  t.diagnostic(`${events} events in ${((performance.now() - began) / 1000).toFixed(1)} s`)
})

function happen(app: App, { kind, pick, seq }: { kind: (typeof EVENTS)[number]; pick: number; seq: number }): void {
  const there = app.rows.filter(({ onDisk }) => onDisk)
  const current = there.find(({ id }) => id === app.current)
  const any = there[pick % Math.max(1, there.length)]
  switch (kind) {
    case 'good':
      push(app, 'healthy', seq)
      break
    case 'bad':
      push(app, 'failed', seq)
      break
    case 'cut-push':
      push(app, (['received', 'assembled', 'started'] as const)[pick % 3] ?? 'received', seq)
      break
    case 'rollback':
    case 'loop': {
      const target = there.find(({ id }) => id === previousGood(there, app.current))
      if (target !== undefined) switchTo(app, { from: current, target, isGood: pick % 4 > 0 })
      break
    }
    case 'named':
      if (any !== undefined && any !== current) switchTo(app, { from: current, target: any, isGood: pick % 4 > 0 })
      break
    case 'again':
      // The same bundle once more: it moves to the end of the order, and may fail now.
      if (any === undefined) break
      app.rows = [...app.rows.filter((row) => row !== any), { ...any, seq, state: 'received' }]
      land(app, app.rows.at(-1) as Row, pick % 2 > 0 ? 'healthy' : 'failed')
      break
    case 'hold':
      if (any === undefined) break
      if (!app.held.delete(any.id)) app.held.set(any.id, 'ann')
      break
    case 'clock':
      app.clock = (pick % 7) * 1000
      break
    case 'stray':
      app.strays += 1
      break
    case 'lost-ledger':
      // Found on the disk again, in the order of their names, which is that of the clients' clocks.
      app.rows = there
        .sort((a, b) => (a.id < b.id ? -1 : 1))
        .map((row, index) => ({ ...row, seq: seq - 1 + index / 100, ...adopted(row.id === app.current) }))
      break
    case 'damage':
      if (any !== undefined && any.state === 'healthy') any.state = 'damaged'
      break
    case 'keep':
      app.keep = { releases: 2 + (pick % 4), failed: pick % 3 }
      break
    case 'nothing-serves':
      if (pick % 4 === 0) app.current = null
      break
  }
}

function adopted(isCurrent: boolean): Pick<Row, 'state' | 'adopted' | 'onceHealthy'> {
  return { state: isCurrent ? 'healthy' : 'assembled', adopted: !isCurrent, onceHealthy: true }
}

/** Its name begins with a clock that may be anywhere: names order nothing. */
function push(app: App, state: ReleaseState, seq: number): void {
  const id = `${String(9000 - app.clock).padStart(5, '0')}-${seq}` as ReleaseId
  const row: Row = { id, seq, state: 'received', onceHealthy: false, adopted: false, onDisk: true }
  app.rows.push(row)
  land(app, row, state)
}

function land(app: App, row: Row, state: ReleaseState): void {
  row.state = state
  if (state !== 'healthy') return
  row.onceHealthy = true
  row.adopted = false
  app.current = row.id
}

function switchTo(app: App, of: { from: Row | undefined; target: Row; isGood: boolean }): void {
  land(app, of.target, of.isGood ? 'healthy' : 'failed')
  if (of.isGood && of.from !== undefined) of.from.state = 'bad'
}

/** What the agent does; a crash in the middle leaves what was still to be renamed. */
function prune(app: App, { pressure, pick }: { pressure: DiskState; pick: number }, disk: Disk, name: string): void {
  const there = app.rows.filter(({ onDisk }) => onDisk)
  const running = new Set(there.length > 0 && pick % 8 === 0 ? [(there[pick % there.length] as Row).id] : [])
  const facts = { current: app.current, running, inFlight: NONE, held: app.held, keep: app.keep, pressure }
  const doomed = planRetention(there, facts).flatMap(({ id, keep }) => (keep ? [] : [id]))
  if (brokenInvariants(doomed, there, facts).length > 0) assert.fail(brokenInvariants(doomed, there, facts).join())
  const cutAfter = pick % 16 === 1 ? pick % (doomed.length + 1) : doomed.length
  const gone = new Set(doomed.slice(0, cutAfter))
  for (const row of there) if (gone.has(row.id)) row.onDisk = false
  for (const id of gone) disk.delete(`${name}/${id}`)
  const before = shapeOf(there, app.current)
  const left = there.filter(({ onDisk }) => onDisk)
  const after = shapeOf(left, app.current)
  const isThere = (id: ReleaseId | null) => id === null || left.some((row) => row.id === id)
  if (there.some(({ id }) => id === app.current)) assert.ok(isThere(app.current), 'current')
  for (const id of [...running, ...app.held.keys()]) assert.ok(isThere(id), 'what runs or is held')
  assert.equal(after.wayBack, before.wayBack, 'where a rollback goes')
  if (before.good > 0) assert.ok(after.good > 0, 'one that was good')
  if (pressure === 'ok') {
    assert.ok(after.good >= Math.min(before.good, app.keep.releases), 'as many good ones as were asked for')
    assert.deepEqual(after.newestGood.slice(0, app.keep.releases), before.newestGood.slice(0, app.keep.releases))
    const pins = 2 + running.size + app.held.size
    if (cutAfter === doomed.length) assert.ok(after.failed <= app.keep.failed + pins, 'failed ones beyond their quota')
  }
  assert.equal([...disk].filter((path) => path.startsWith(`${name}/stray`)).length, app.strays, 'what is not ours')
}

function shapeOf(rows: readonly Row[], current: ReleaseId | null) {
  const good = rows.filter(({ onceHealthy, adopted }) => onceHealthy && !adopted).sort((a, b) => b.seq - a.seq)
  return {
    good: good.length,
    newestGood: good.map(({ id }) => id),
    failed: rows.filter(({ onceHealthy }) => !onceHealthy).length,
    wayBack: previousGood(rows, current),
  }
}

function sync(disk: Disk, name: string, { rows, strays }: App): void {
  for (const { id, onDisk } of rows) if (onDisk) disk.add(`${name}/${id}`)
  for (let stray = 0; stray < strays; stray++) disk.add(`${name}/stray-${stray}.bak`)
}

function ownedBy(disk: Disk, name: string | undefined): number {
  let count = 0
  for (const path of disk) if (path.startsWith(`${name}/`)) count += 1
  return count
}
