import type { DatabaseSync } from 'node:sqlite'
import { setImmediate as breathe } from 'node:timers/promises'
import type { LedgerReport } from '../../shared/ledger-report.ts'
import { checkChain, type Head, hashOf, type Link, LOST, NO_LINK, REWOUND, troubleAtEnd } from './chain.ts'
import { inTransaction, type Note, type Row } from './ledger-row.ts'

/** Rows looked at before the event loop gets its turn: some milliseconds, with receipts of 40 lines. */
const ROWS_PER_TURN = 200

export interface ChainLedger {
  /** Holds every change that has ended against its hash, and the newest against the head that is kept beside. */
  verify(): Promise<LedgerReport>
  /** What the last `verify` gave; undefined before the first. */
  lastReport(): LedgerReport | undefined
  /** What was found when it was opened: that it is not the one which the agent wrote last. */
  readonly loss: Loss | undefined
}

export interface Loss {
  code: typeof LOST | typeof REWOUND
  reason: string
  /** As many changes are known to be missing; there may be more. */
  missing: number
}

/** Where the newest link is kept beside the ledger. */
export interface HeadFile {
  read(): Head
  write(link: Link): void
}

/** How a change becomes a link. Used by the parts that write the end of one. */
export interface Chain {
  /** Runs `work`, which writes the end of a change and gives its number, and makes that the newest link: both or neither. */
  append(work: () => number): void
}

/** Makes every change that has ended a link, in the order of their numbers: for a ledger from before there was a chain. */
export function chainEarlier(db: DatabaseSync): void {
  const ended = db.prepare("SELECT id FROM deploys WHERE result <> 'running' ORDER BY id")
  const link = linker(db)
  let last = NO_LINK
  for (const { id } of ended.all()) last = link(Number(id), last)
}

/** `why`: the ledger is a new one, because of this. */
export function chainLedger(
  db: DatabaseSync,
  of: { head: HeadFile; beginsChain: boolean; why: string | undefined; note: Note },
): { part: ChainLedger; chain: Chain } {
  const { head, note } = of
  const sql = {
    last: db.prepare('SELECT chain, id, hash FROM deploys WHERE chain IS NOT NULL ORDER BY chain DESC LIMIT 1'),
    after: db.prepare('SELECT * FROM deploys WHERE chain > ? ORDER BY chain LIMIT ?'),
    unchained: db.prepare("SELECT * FROM deploys WHERE chain IS NULL AND result <> 'running' ORDER BY id"),
    /** Where the ledger begins anew the link before it is known by the row after it alone. Node 24.6 binds no `?1`. */
    hashAt: db.prepare(
      'SELECT hash FROM deploys WHERE chain = ? UNION ALL SELECT prev FROM deploys WHERE chain = ? + 1 LIMIT 1',
    ),
  }
  const link = linker(db)
  const lastInLedger = (): Link => {
    const row = sql.last.get() as Row | undefined
    return row === undefined ? NO_LINK : { number: Number(row.chain), deploy: Number(row.id), hash: String(row.hash) }
  }
  const hashAt = (known: Head): string | undefined => {
    const row = typeof known === 'string' ? undefined : (sql.hashAt.get(known.number, known.number) as Row | undefined)
    return row === undefined ? undefined : String(row.hash)
  }

  const before = head.read()
  const loss = lossOf({ ...of, last: lastInLedger(), before, atHead: hashAt(before) })
  if (before === 'absent' && (of.beginsChain || lastInLedger() === NO_LINK))
    note('the head of a new ledger', () => head.write(lastInLedger()))
  if (typeof before !== 'string') beginNumbersAfter(db, before.deploy)

  function append(work: () => number): void {
    let newest = NO_LINK
    inTransaction(db, () => {
      newest = link(work(), laterOf(lastInLedger(), head.read()))
    })
    // A crash before this leaves a head that is one link behind, which is no harm.
    note(`change ${newest.deploy} is the newest`, () => head.write(newest))
  }

  let report: LedgerReport | undefined
  async function verify(): Promise<LedgerReport> {
    const check = checkChain()
    for (let number = Number.MIN_SAFE_INTEGER; ; ) {
      const rows: Row[] = sql.after.all(number, ROWS_PER_TURN)
      for (const row of rows) check.row(row)
      const last = rows.at(-1)
      // In one turn with the end: a change that ends in between would be in the head and not in the rows.
      if (last === undefined) break
      number = Number(last.chain)
      if (rows.length === ROWS_PER_TURN) await breathe()
    }
    const now = head.read()
    report = check.end({ unchained: sql.unchained.all(), head: now, atHead: hashAt(now) })
    return report
  }

  return { part: { verify, lastReport: () => report, loss }, chain: { append } }
}

function lossOf(of: {
  why: string | undefined
  beginsChain: boolean
  last: Link
  before: Head
  atHead: string | undefined
}): Loss | undefined {
  const { why, beginsChain, last, before, atHead } = of
  const missing = typeof before === 'string' ? 0 : Math.max(0, before.number - last.number)
  if (why !== undefined) return { code: LOST, reason: why, missing }
  if (beginsChain && before === 'absent') return undefined
  const trouble = troubleAtEnd({ last, head: before, atHead })
  if (trouble === undefined) return undefined
  return last === NO_LINK
    ? { code: LOST, reason: 'the ledger holds no change', missing }
    : { code: REWOUND, reason: trouble.text, missing }
}

/** After a ledger that was lost, or put back, the chain goes on from the newest link anything knows of. */
function laterOf(last: Link, head: Head): Link {
  return typeof head !== 'string' && head.number > last.number ? head : last
}

/** A number names one change for good, also one that nothing else is known of any more. */
function beginNumbersAfter(db: DatabaseSync, deploy: number): void {
  const { newest } = db.prepare("SELECT max(seq) AS newest FROM sqlite_sequence WHERE name = 'deploys'").get() as Row
  if (Number(newest ?? 0) >= deploy) return
  inTransaction(db, () => {
    db.exec("DELETE FROM sqlite_sequence WHERE name = 'deploys'")
    db.prepare("INSERT INTO sqlite_sequence (name, seq) VALUES ('deploys', ?)").run(deploy)
  })
}

function linker(db: DatabaseSync): (id: number, before: Link) => Link {
  const sql = {
    row: db.prepare('SELECT * FROM deploys WHERE id = ?'),
    number: db.prepare('UPDATE deploys SET chain = ? WHERE id = ?'),
    seal: db.prepare('UPDATE deploys SET prev = ?, hash = ? WHERE id = ?'),
  }
  return (id, before) => {
    const number = before.number + 1
    if (sql.number.run(number, id).changes !== 1) throw new Error(`the row of change ${id} is gone`)
    const hash = hashOf(before.hash, sql.row.get(id) as Row)
    sql.seal.run(before.hash, hash, id)
    return { number, deploy: id, hash }
  }
}
