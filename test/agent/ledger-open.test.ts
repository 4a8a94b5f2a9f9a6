import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { type TestContext, test } from 'node:test'
import { type Layout, layoutAt } from '../../agent/state/layout.ts'
import { type Ledger, openLedger } from '../../agent/state/ledger.ts'
import { damagedLedgers, setAside } from '../../agent/state/ledger-aside.ts'
import { MIGRATIONS } from '../../agent/state/ledger-schema.ts'
import { Failure } from '../../shared/failure.ts'
import { parseAppName, parseReleaseId } from '../../shared/names.ts'
import { tempDir } from '../helpers/ssh.ts'

// Whatever lies where the ledger was, the agent gets one that works, and what was there is kept.

const APP = parseAppName('shop')
const RELEASE = parseReleaseId('20261122T233851Z-0000000a')
const at = '2026-11-22T23:38:51.000Z'

/** A ledger with a history, closed. */
function ledgerWith(t: TestContext, changes: number): { layout: Layout; dir: string } {
  const dir = tempDir(t)
  const layout = layoutAt(dir, '/none')
  const ledger = openLedger(layout, assert.fail)
  change(ledger, changes)
  ledger.received(APP, { id: RELEASE, signers: ['ann'], bytes: 1, files: 1 })
  ledger.close()
  return { layout, dir }
}

function change(ledger: Ledger, times = 1): number {
  let id = 0
  for (let n = 0; n < times; n++) {
    id = ledger.openDeploy({ app: APP, kind: 'push', who: 'ann', key: 'x'.repeat(500), from: null, to: null, at })
    const rest = { code: null, seconds: 1, probe: null, gapMs: 1, steps: [], receipt: null }
    ledger.closeDeploy(id, { to: null, result: 'done', ...rest, at })
  }
  return id
}

test('a ledger cut at any byte is whole, or begins anew after the last change known, with the cut one kept', async (t) => {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31))
  t.diagnostic(`SEED=${seed}`)
  const { layout, dir } = ledgerWith(t, 40)
  const whole = readFileSync(layout.ledgerFile)
  const head = readFileSync(layout.ledgerHeadFile)
  const places = Array.from({ length: 40 }, (_, n) => 1 + ((seed * 7919 + n * 104_729) % (whole.length - 1)))
  for (const cut of [0, 1, 15, 99, 100, 511, 4095, 4096, 4097, whole.length - 1, ...places]) {
    writeFileSync(layout.ledgerFile, whole.subarray(0, cut))
    writeFileSync(layout.ledgerHeadFile, head)
    const ledger = openLedger(layout, assert.fail)
    if (ledger.loss === undefined) {
      // Cut within its last page SQLite takes what is missing for zeros; where a row stood there, its hash tells.
      const { ok, problems } = await ledger.verify()
      assert.equal(ledger.deploys(APP, 100).length, 40, `cut at ${cut}`)
      assert.ok(ok || problems.every(({ problem }) => problem === 'edited'), `cut at ${cut}`)
      assert.ok(cut > whole.length - 4096, `cut at ${cut}`)
    } else {
      assert.deepEqual([ledger.loss.code, ledger.loss.missing], ['ledger_lost', 40], `cut at ${cut}`)
      assert.equal(change(ledger), 41, 'a number names one change for good')
      assert.equal(damagedLedgers(layout.ledgerFile).length > 0, cut > 0)
    }
    ledger.close()
    for (const name of readdirSync(dir)) if (name.includes('.damaged-')) rmSync(`${dir}/${name}`)
  }
})

test('what is no ledger of ours is set aside: another file, another database, one without a table', (t) => {
  const odd: Record<string, (file: string) => void> = {
    'not a database': (file) => writeFileSync(file, 'x'.repeat(9000)),
    'no table releases, deploys, exits, apps': (file) => {
      rmSync(file)
      new DatabaseSync(file).exec(`PRAGMA user_version = ${MIGRATIONS.length}; CREATE TABLE other (a)`)
    },
    'no table exits': (file) => new DatabaseSync(file).exec('DROP TABLE exits'),
    'already exists': (file) => new DatabaseSync(file).exec('PRAGMA user_version = 0'),
    'returns error code 11': (file) => {
      const bytes = readFileSync(file)
      bytes.fill(0xff, 4096 * 2, 4096 * 3)
      writeFileSync(file, bytes)
    },
  }
  for (const [why, damage] of Object.entries(odd)) {
    const { layout } = ledgerWith(t, 20)
    damage(layout.ledgerFile)
    const bytes = readFileSync(layout.ledgerFile)
    const ledger = openLedger(layout, assert.fail)
    assert.match(
      ledger.loss?.reason ?? '',
      new RegExp(`^ledger.db was damaged \\(.*${why}.*\\) and is kept as ledger.db.damaged-\\d{8}T\\d{6}Z$`),
    )
    assert.equal(ledger.trouble, undefined)
    assert.deepEqual(ledger.releases(APP), [])
    const [kept = ''] = damagedLedgers(layout.ledgerFile)
    if (/^(not a|returns)/.test(why)) assert.deepEqual(readFileSync(kept), bytes, 'to the byte')
    ledger.close()
  }
})

test('a ledger that is gone is made again, and the rows that were in its -wal alone are kept', (t) => {
  const { layout } = ledgerWith(t, 1)
  const running = openLedger(layout, assert.fail)
  change(running, 3)
  const wal = readFileSync(`${layout.ledgerFile}-wal`)
  rmSync(layout.ledgerFile)
  const ledger = openLedger(layout, assert.fail)
  assert.deepEqual([ledger.loss?.reason, ledger.loss?.missing], ['ledger.db was missing or empty', 4])
  const [kept = ''] = damagedLedgers(layout.ledgerFile)
  assert.deepEqual(readFileSync(`${kept}-wal`), wal)
  ledger.close()
  running.close()
})

test('of damaged ledgers the oldest and the newest two are kept', (t) => {
  const dir = tempDir(t)
  const file = layoutAt(dir, '/none').ledgerFile
  for (let n = 1; n <= 5; n++) {
    writeFileSync(file, String(n))
    writeFileSync(`${file}-wal`, String(n))
    setAside(file, new Date(Date.UTC(2026, 10, n)))
  }
  const kept = damagedLedgers(file)
  assert.deepEqual(
    kept.map((name) => readFileSync(name, 'utf8')),
    ['1', '4', '5'],
  )
  assert.deepEqual(
    kept.map((name) => readFileSync(`${name}-wal`, 'utf8')),
    ['1', '4', '5'],
  )
  writeFileSync(file, 'same')
  assert.equal(setAside(file, new Date(Date.UTC(2026, 10, 5))), `${kept[2]}-2`)
  assert.equal(readdirSync(dir).length, 5)
})

test('where no ledger can be written the agent has one in memory; changes are refused until it can be, and then begin', (t) => {
  const { layout } = ledgerWith(t, 1)
  rmSync(layout.ledgerFile)
  mkdirSync(layout.ledgerFile)
  const lost: string[] = []
  const ledger = openLedger(layout, (what) => void lost.push(what))
  assert.match(ledger.trouble ?? '', /EISDIR/)
  assert.deepEqual(lost, ['all that happens until the ledger can be written'])
  ledger.setWanted(APP, RELEASE)
  assert.equal(ledger.app(APP).wanted, RELEASE)
  const refused = (error: unknown) => error instanceof Failure && error.code === 'ledger_unwritable' && error.exit === 3
  assert.throws(() => change(ledger), refused)
  assert.throws(() => ledger.received(APP, { id: RELEASE, signers: [], bytes: 1, files: 1 }), refused)
  assert.match(ledger.tryWriting() ?? '', /EISDIR/)
  rmSync(layout.ledgerFile, { recursive: true })
  assert.equal(change(ledger), 2)
  assert.deepEqual([ledger.trouble, ledger.tryWriting()], [undefined, undefined])
  ledger.close()
  const next = openLedger(layout, assert.fail)
  assert.deepEqual([next.deploys(APP, 9).length, next.app(APP).wanted, next.loss], [1, RELEASE, undefined])
  next.close()
})

test('on a file system that is read-only the ledger is read all the same', { skip: cannotMount() }, async (t) => {
  const mounts: string[] = []
  // Before the directories below them are removed.
  t.after(() => mounts.forEach((mount) => void execFileSync('umount', ['--lazy', mount])))
  for (const isKilled of [false, true]) {
    const { layout, dir } = ledgerWith(t, 3)
    const mount = `${tempDir(t)}/mount`
    mkdirSync(mount)
    execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', mount])
    mounts.push(mount)
    const running = isKilled ? openLedger(layout, assert.fail) : undefined
    if (running) change(running)
    for (const name of readdirSync(dir)) copyFileSync(`${dir}/${name}`, `${mount}/${name}`)
    running?.close()
    execFileSync('mount', ['-o', 'remount,ro', mount])
    const there = layoutAt(mount, '/none')
    const lost: string[] = []
    const ledger = openLedger(there, (what) => void lost.push(what))
    assert.notEqual(ledger.trouble, undefined)
    assert.equal(ledger.loss, undefined, 'its rows are those that were written')
    assert.equal(ledger.deploys(APP, 9).length, isKilled ? 4 : 3)
    assert.equal((await ledger.verify()).changes, isKilled ? 4 : 3)
    assert.throws(() => change(ledger), Failure)
    execFileSync('mount', ['-o', 'remount,rw', mount])
    assert.equal(change(ledger), isKilled ? 5 : 4)
    assert.equal((await ledger.verify()).ok, true)
    ledger.close()
  }
})

function cannotMount(): string | false {
  return process.getuid?.() === 0 ? false : 'only root can mount'
}
