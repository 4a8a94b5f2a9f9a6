import assert from 'node:assert/strict'
import { copyFileSync, writeFileSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { type TestContext, test } from 'node:test'
import fc from 'fast-check'
import { checkChain, type Head, hashOf, NO_LINK } from '../../agent/state/chain.ts'
import { type Layout, layoutAt } from '../../agent/state/layout.ts'
import { type Ledger, openLedger } from '../../agent/state/ledger.ts'
import { parseHead } from '../../agent/state/ledger-head.ts'
import type { Row } from '../../agent/state/ledger-row.ts'
import { MIGRATIONS } from '../../agent/state/ledger-schema.ts'
import type { LedgerReport } from '../../shared/ledger-report.ts'
import { type AppName, parseAppName } from '../../shared/names.ts'
import { tempDir } from '../helpers/ssh.ts'

// The pure part: rows as a ledger would have them.

const facts = fc.record({
  app: fc.constantFrom('shop', 'blog'),
  kind: fc.constantFrom('push', 'rollback', 'restart'),
  who: fc.string({ maxLength: 8 }),
  to_release: fc.option(fc.string({ maxLength: 8 })),
  result: fc.constantFrom('done', 'failed', 'interrupted'),
  seconds: fc.option(fc.double({ noNaN: true, noDefaultInfinity: true })),
  gap_ms: fc.option(fc.nat()),
  receipt: fc.option(fc.json({ maxDepth: 1 })),
})

function chained(history: readonly Row[]): Row[] {
  let prev = NO_LINK.hash
  return history.map((facts, index) => {
    const row: Row = { ...facts, id: index + 1, chain: index + 1 }
    row.prev = prev
    row.hash = hashOf(prev, row)
    prev = String(row.hash)
    return row
  })
}

function headOf(rows: readonly Row[]): Head {
  const last = rows.at(-1)
  return last === undefined ? NO_LINK : { number: Number(last.chain), deploy: Number(last.id), hash: String(last.hash) }
}

function checked(rows: readonly Row[], head: Head): LedgerReport {
  const check = checkChain()
  for (const row of rows) check.row(row)
  const at = typeof head === 'string' ? undefined : rows.find(({ chain }) => chain === head.number)?.hash
  return check.end({ unchained: [], head, atHead: at === undefined ? undefined : String(at) })
}

const found = ({ problems }: LedgerReport) => problems.map(({ problem, deploy }) => [problem, deploy])
const history = fc.array(facts, { minLength: 1, maxLength: 12 }).map(chained)
const historyAndRow = history.chain((rows) => fc.tuple(fc.constant(rows), fc.nat({ max: rows.length - 1 })))

test('a chain as it was written is ok, also when its head is behind by a crash', () => {
  fc.assert(
    fc.property(historyAndRow, ([rows, index]) => {
      assert.deepEqual(found(checked(rows, headOf(rows))), [])
      assert.equal(checked(rows, headOf(rows.slice(0, index))).ok, true)
      assert.deepEqual(checked(rows, headOf(rows)).head?.hash, rows.at(-1)?.hash)
    }),
  )
})

test('any column of any row that was edited shows, at that row', () => {
  fc.assert(
    fc.property(historyAndRow, fc.nat(), fc.oneof(fc.string(), fc.nat()), ([rows, index], column, value) => {
      const row = rows[index] ?? {}
      const names = Object.keys(row).filter((name) => name !== 'id' && name !== 'chain')
      const name = names[column % names.length] ?? ''
      fc.pre(row[name] !== value)
      const edited = rows.map((one) => (one === row ? { ...row, [name]: value } : one))
      const problems = found(checked(edited, headOf(rows)))
      // A hash that was edited is held against the row after it too, and against the head.
      assert.deepEqual(problems[0], ['edited', row.id])
      assert.ok(name === 'hash' || problems.length <= 2, JSON.stringify(problems))
    }),
  )
})

test('a row that was edited and given a fresh hash shows at the one after it, and the last one by the head', () => {
  fc.assert(
    fc.property(historyAndRow, ([rows, index]) => {
      const edited = rows.map((row, at) => {
        const fresh = { ...row, who: `${row.who}x` }
        return at === index ? { ...fresh, hash: hashOf(String(row.prev), fresh) } : row
      })
      const isLast = index === rows.length - 1
      assert.deepEqual(found(checked(edited, headOf(rows))), [isLast ? ['rewound', null] : ['edited', index + 2]])
    }),
  )
})

test('rows that were removed show: within the chain at the row after them, at its end by the head', () => {
  fc.assert(
    fc.property(historyAndRow, fc.integer({ min: 1, max: 3 }), ([rows, index], count) => {
      const left = rows.toSpliced(index, count)
      const after = rows[index + count]
      assert.deepEqual(found(checked(left, headOf(rows))), [after ? ['removed', after.id] : ['rewound', null]])
    }),
  )
})

test('without its head a chain is not called ok', () => {
  const rows = chained([{ app: 'shop', kind: 'push', result: 'done' }])
  for (const head of ['absent', 'unreadable'] as const) assert.deepEqual(found(checked(rows, head)), [['head', null]])
  assert.equal(checked([], 'absent').ok, true)
})

test('a column that a later schema adds changes no hash of a row that does not have it', () => {
  const row = { id: 1, app: 'shop', chain: 1 }
  assert.equal(hashOf('x', { ...row, env: null }), hashOf('x', row))
  assert.notEqual(hashOf('x', { ...row, env: 1 }), hashOf('x', row))
  assert.equal(hashOf('x', { chain: 1, app: 'shop', id: 1 }), hashOf('x', row))
})

test('a head is read as it was written, and nothing else is one', () => {
  const head = { number: 3, deploy: 4, hash: 'a'.repeat(64) }
  assert.deepEqual(parseHead(JSON.stringify({ format: 1, ...head })), head)
  const odd = [{ ...head }, { format: 1, ...head, number: -1 }, { format: 1, ...head, hash: 'A'.repeat(64) }, null, 3]
  for (const value of odd) assert.equal(parseHead(JSON.stringify(value)), undefined, JSON.stringify(value))
  assert.equal(parseHead('{"format":1,'), undefined)
})

// A real ledger.

const SHOP = parseAppName('shop')
const BLOG = parseAppName('blog')
const at = '2026-11-22T23:38:51.000Z'

function opened(t: TestContext): { layout: Layout; ledger: Ledger } {
  const layout = layoutAt(tempDir(t), '/none')
  return { layout, ledger: openLedger(layout, assert.fail) }
}

const begin = (ledger: Ledger, app: AppName) =>
  ledger.openDeploy({ app, kind: 'push', who: 'ann', key: 'SHA256:x', from: null, to: null, at })

function end(ledger: Ledger, id: number): void {
  const rest = { code: null, seconds: 1.25, probe: null, gapMs: 3, steps: [], receipt: null }
  ledger.closeDeploy(id, { to: null, result: 'done', ...rest, at })
}

function editing(layout: Layout, sql: string): void {
  const db = new DatabaseSync(layout.ledgerFile)
  db.exec(sql)
  db.close()
}

test('changes of two apps that interleave are one chain, in the order in which they ended; an open one is no link', async (t) => {
  const { layout, ledger } = opened(t)
  const [first, second, third] = [begin(ledger, SHOP), begin(ledger, BLOG), begin(ledger, SHOP)]
  end(ledger, third)
  end(ledger, first)
  const report = await ledger.verify()
  assert.deepEqual([report.ok, report.changes, report.head?.number], [true, 2, 2])
  ledger.close()
  const next = openLedger(layout, assert.fail)
  end(next, second)
  const after = await next.verify()
  assert.deepEqual([after.problems, after.changes], [[], 3])
  next.close()
})

test('an edited, a removed and an added row of a real ledger each show, while the agent runs', async (t) => {
  const { layout, ledger } = opened(t)
  for (let n = 0; n < 5; n++) end(ledger, begin(ledger, SHOP))
  editing(layout, "UPDATE deploys SET who = 'eve' WHERE id = 2; DELETE FROM deploys WHERE id = 4")
  editing(
    layout,
    "INSERT INTO deploys (app, kind, who, key, result, started_at) VALUES ('shop', 'push', 'eve', '', 'done', '')",
  )
  const { ok, problems } = await ledger.verify()
  assert.equal(ok, false)
  assert.deepEqual(
    problems.map(({ problem, deploy, app }) => [problem, deploy, app]),
    [
      ['edited', 2, SHOP],
      ['removed', 5, SHOP],
      ['added', 6, SHOP],
    ],
  )
  ledger.close()
})

test('an older copy that is put back shows, and so does another ledger', async (t) => {
  const { layout, ledger } = opened(t)
  end(ledger, begin(ledger, SHOP))
  ledger.close()
  const copy = `${layout.ledgerFile}.copy`
  copyFileSync(layout.ledgerFile, copy)
  const later = openLedger(layout, assert.fail)
  for (let n = 0; n < 2; n++) end(later, begin(later, SHOP))
  later.close()
  copyFileSync(copy, layout.ledgerFile)
  const rewound = openLedger(layout, assert.fail)
  const { problems } = await rewound.verify()
  assert.deepEqual([problems.length, problems[0]?.problem], [1, 'rewound'])
  assert.match(problems[0]?.text ?? '', /the last 2 changes are missing/)
  rewound.close()

  const other = opened(t)
  for (let n = 0; n < 4; n++) end(other.ledger, begin(other.ledger, BLOG))
  other.ledger.close()
  copyFileSync(other.layout.ledgerFile, layout.ledgerFile)
  const foreign = openLedger(layout, assert.fail)
  assert.deepEqual(
    (await foreign.verify()).problems.map(({ problem }) => problem),
    ['rewound'],
  )
  foreign.close()
})

test('a head that cannot be written is told, stays behind, and is no fault of the record', async (t) => {
  const { layout, ledger } = opened(t)
  end(ledger, begin(ledger, SHOP))
  ledger.close()
  const lost: string[] = []
  // A directory stands where the file would be written first.
  const { ledgerHeadFile } = layout
  const again = openLedger({ ...layout, ledgerHeadFile: `${ledgerHeadFile}/none/head` }, (what) => void lost.push(what))
  end(again, begin(again, SHOP))
  again.close()
  assert.deepEqual(lost, ['change 2 is the newest'])
  const next = openLedger(layout, assert.fail)
  assert.equal((await next.verify()).ok, true)
  writeFileSync(ledgerHeadFile, 'nonsense')
  assert.deepEqual(
    (await next.verify()).problems.map(({ problem }) => problem),
    ['head'],
  )
  next.close()
})

test('a ledger from before there was a chain is chained once; after that every change that has ended must be a link', async (t) => {
  const { layout, ledger } = opened(t)
  ledger.close()
  const file = `${layout.ledgerFile}.old`
  const old = new DatabaseSync(file)
  for (const step of MIGRATIONS.slice(0, 2)) old.exec(String(step))
  for (const result of ['done', 'failed', 'done', 'running']) {
    old
      .prepare(
        "INSERT INTO deploys (app, kind, who, key, result, started_at) VALUES ('shop', 'push', 'ann', '-', ?, '')",
      )
      .run(result)
  }
  old.exec('PRAGMA user_version = 2')
  old.close()
  const next = openLedger({ ...layout, ledgerFile: file, ledgerHeadFile: `${layout.ledgerHeadFile}.new` }, assert.fail)
  const { problems, changes } = await next.verify()
  assert.deepEqual([problems, changes], [[], 3])
  next.close()
})
