import assert from 'node:assert/strict'
import { chmodSync, statSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { type TestContext, test } from 'node:test'
import { type Layout, layoutAt } from '../../agent/state/layout.ts'
import { type Ledger, openLedger } from '../../agent/state/ledger.ts'
import { Failure } from '../../shared/failure.ts'
import { parseAppName, parseReleaseId, parseServiceName } from '../../shared/names.ts'
import { tempDir } from '../helpers/ssh.ts'

const APP = parseAppName('shop')
const WEB = parseServiceName('web')
const [A, B, C] = ['a', 'b', 'c'].map((hex) => parseReleaseId(`20261122T233851Z-0000000${hex}`)) as [
  ReturnType<typeof parseReleaseId>,
  ReturnType<typeof parseReleaseId>,
  ReturnType<typeof parseReleaseId>,
]
const facts = { signers: ['ann'], bytes: 10, files: 1 }
const at = '2026-11-22T23:38:51.000Z'

function ledgerIn(t: TestContext): { ledger: Ledger; layout: Layout; file: string; lost: string[] } {
  const layout = layoutAt(tempDir(t), '/none')
  const lost: string[] = []
  return { ledger: openLedger(layout, (what) => void lost.push(what)), layout, file: layout.ledgerFile, lost }
}

test('a release that comes again moves to the end of the order and stays once healthy; a pruned one is gone', (t) => {
  const { ledger } = ledgerIn(t)
  for (const id of [A, B]) ledger.received(APP, { id, ...facts })
  ledger.setState(APP, A, 'healthy')
  ledger.setState(APP, A, 'bad')
  ledger.received(APP, { id: A, ...facts })
  assert.deepEqual(
    ledger.releases(APP).map(({ id, state, onceHealthy }) => [id, state, onceHealthy]),
    [
      [A, 'received', true],
      [B, 'received', false],
    ],
  )
  ledger.setState(APP, A, 'pruned')
  assert.deepEqual(
    ledger.releases(APP).map(({ id }) => id),
    [B],
  )
  ledger.close()
})

test('a release that is adopted takes its place among those known, and is of unknown health until it is healthy', (t) => {
  const { ledger, layout } = ledgerIn(t)
  for (const id of [A, C]) ledger.received(APP, { id, ...facts })
  const receipt = {
    ...{ app: APP, release: null, service: null, phase: 'rebuilt', reason: 'it was lost', exit: null },
    ...{ respawns: null, output: [], running: null, undone: [], next: [] },
  }
  const rebuilt = { wanted: undefined, code: null, receipt, at }
  const found = { id: B, isCurrent: false, receivedAt: at, signers: [], bytes: 1, files: 1 }
  ledger.rebuild(APP, { ...rebuilt, found: [found], order: [A, B, C] })
  const told = () => ledger.releases(APP).map(({ id, onceHealthy, adopted }) => [id, onceHealthy, adopted])
  assert.deepEqual(told(), [
    [C, false, false],
    [B, true, true],
    [A, false, false],
  ])
  ledger.setState(APP, B, 'failed')
  assert.deepEqual(told()[1], [B, true, true], 'it failed now; what it was before nobody knows')
  ledger.setState(APP, B, 'healthy')
  assert.deepEqual(told()[1], [B, true, false])
  ledger.received(APP, { id: A, ...facts })
  assert.deepEqual(
    told().map(([id]) => id),
    [A, C, B],
  )
  ledger.close()
  const next = openLedger(layout, assert.fail)
  next.rebuild(APP, { ...rebuilt, found: [{ ...found, id: C, isCurrent: true }], order: [B, A, C] })
  assert.deepEqual(
    next.releases(APP).map(({ id, state, adopted }) => [id, state, adopted]),
    [
      [C, 'healthy', false],
      [A, 'received', false],
      [B, 'healthy', false],
    ],
  )
  next.close()
})

test('a change that was open when the agent died is found open by the next one', (t) => {
  const { ledger, layout } = ledgerIn(t)
  const ask = { app: APP, who: 'ann', key: 'SHA256:x', from: A, to: B, at }
  const first = ledger.openDeploy({ ...ask, kind: 'push' })
  const second = ledger.openDeploy({ ...ask, kind: 'rollback', from: B, to: A })
  ledger.closeDeploy(first, {
    to: B,
    result: 'done',
    code: null,
    seconds: 1.5,
    gapMs: 20,
    probe: null,
    steps: [],
    receipt: null,
    at,
  })
  // No close: it was killed.
  const next = openLedger(layout, assert.fail)
  const { at: startedAt, ...asked } = ask
  assert.deepEqual(next.openDeploys(), [{ ...asked, id: second, kind: 'rollback', from: B, to: A, startedAt }])
  assert.deepEqual(
    next.deploys(APP, 10).map(({ id, kind, result, gapMs }) => [id, kind, result, gapMs]),
    [
      [second, 'rollback', 'running', null],
      [first, 'push', 'done', 20],
    ],
  )
  next.close()
})

test('exits are counted per service from a time on', (t) => {
  const { ledger } = ledgerIn(t)
  for (const minute of [10, 20, 30]) {
    const exit = { code: minute, signal: null, oom: false, at: `2026-11-22T23:${minute}:00.000Z` }
    ledger.recordExit({ app: APP, service: WEB, release: A, exit, run: null })
  }
  assert.equal(ledger.exitsSince(APP, WEB, '2026-11-22T23:20:00.000Z'), 2)
  assert.deepEqual(
    ledger
      .exitTimes(APP, WEB, { release: A, since: '2026-11-22T23:20:00.000Z' })
      .map((ms) => new Date(ms).getMinutes()),
    [30, 20],
  )
  assert.equal(ledger.exitsSince(APP, parseServiceName('worker'), at), 0)
  assert.equal(ledger.lastExit(APP, WEB, A)?.code, 30)
  assert.equal(ledger.lastExit(APP, WEB, B), null)
  ledger.close()
})

test('an exit that was heard of is not counted again when init is asked later, and what is older is no news', (t) => {
  const { ledger, layout } = ledgerIn(t)
  const exitAt = (minute: number, run: string) => ({
    ...{ app: APP, service: WEB, release: A, run },
    exit: { code: minute, signal: null, oom: false, at: `2026-11-22T23:${minute}:00.000Z` },
  })
  assert.equal(ledger.exitsReadTo(), null)
  ledger.recordExit(exitAt(30, 'c'))
  ledger.recordMissed([exitAt(10, 'a'), exitAt(20, 'b'), exitAt(30, 'c')], 'one')
  ledger.recordMissed([exitAt(20, 'b')], 'two')
  assert.equal(ledger.exitsSince(APP, WEB, at.slice(0, 10)), 3)
  assert.equal(ledger.lastExit(APP, WEB, A)?.code, 30)
  ledger.close()
  const next = openLedger(layout, assert.fail)
  assert.equal(next.exitsReadTo(), 'two')
  next.close()
})

test('the ledger and what SQLite puts beside it are for the agent alone, also one made before', (t) => {
  const { ledger, layout, file } = ledgerIn(t)
  ledger.setWanted(APP, A)
  for (const name of [file, `${file}-wal`, `${file}-shm`]) assert.equal(statSync(name).mode & 0o077, 0, name)
  ledger.close()
  chmodSync(file, 0o644)
  openLedger(layout, assert.fail).close()
  assert.equal(statSync(file).mode & 0o777, 0o600)
})

test('once the ledger takes nothing more, a change cannot begin, but one under way goes on and its loss is told', (t) => {
  const { ledger, lost } = ledgerIn(t)
  ledger.received(APP, { id: A, ...facts })
  const id = ledger.openDeploy({ app: APP, kind: 'push', who: 'ann', key: '', from: null, to: A, at })
  // Closed stands for a full disk: either way every write throws.
  ledger.close()
  assert.throws(() => ledger.openDeploy({ app: APP, kind: 'push', who: 'ann', key: '', from: null, to: B, at }))
  assert.throws(() => ledger.received(APP, { id: C, ...facts }))
  ledger.setState(APP, A, 'failed')
  ledger.setWanted(APP, A)
  ledger.setBytesOnDisk(APP, 1)
  const exit = { code: 1, signal: null, oom: false, at }
  ledger.recordExit({ app: APP, service: WEB, release: A, exit, run: null })
  const end = { to: A, result: 'failed', code: null, seconds: 1, gapMs: 1, probe: null } as const
  ledger.closeDeploy(id, { ...end, steps: [], receipt: null, at })
  assert.equal(lost.length, 5)
  assert.match(lost[0] ?? '', /shop 20261122T233851Z-0000000a is failed/)
})

test('a ledger that a newer agent wrote is left alone, and said so', (t) => {
  const { ledger, layout, file } = ledgerIn(t)
  ledger.close()
  const db = new DatabaseSync(file)
  db.exec('PRAGMA user_version = 999')
  db.close()
  assert.throws(
    () => openLedger(layout, assert.fail),
    (error) => error instanceof Failure && error.code === 'config_invalid' && /schema 999/.test(error.message),
  )
})

test('what may have moved current is told newest first: no failed push, but every automatic rollback', (t) => {
  const { ledger } = ledgerIn(t)
  const end = { code: null, seconds: 1, gapMs: null, probe: null, steps: [], receipt: null, at }
  const changes = [
    ['push', 'done', A],
    ['push', 'failed', B],
    ['push', 'interrupted', B],
    ['restart', 'done', A],
    ['auto-rollback', 'failed', A],
    ['stop', 'done', A],
  ] as const
  for (const [kind, result, to] of changes) {
    const id = ledger.openDeploy({ app: APP, kind, who: 'ann', key: '', from: null, to, at })
    ledger.closeDeploy(id, { ...end, to, result })
  }
  ledger.openDeploy({ app: APP, kind: 'push', who: 'ann', key: '', from: A, to: C, at })
  assert.deepEqual(
    ledger.switches(APP).map(({ kind, result, to }) => [kind, result, to]),
    [
      ['auto-rollback', 'failed', A],
      ['push', 'interrupted', B],
      ['push', 'done', A],
    ],
  )
  assert.equal(ledger.lastChangeOf(APP, A)?.kind, 'stop')
  assert.equal(ledger.lastChangeOf(APP, C), null, 'it has not ended')
  ledger.close()
})
