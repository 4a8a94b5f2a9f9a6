import type { DatabaseSync } from 'node:sqlite'
import { setImmediate as breathe } from 'node:timers/promises'
import type { LedgerReport } from '../../shared/wire.ts'
import { checkChain, type Head, hashOf, type Link, NO_LINK } from './chain.ts'
import { readHead, writeHead } from './ledger-head.ts'
import { inTransaction, type Note, type Row } from './ledger-row.ts'

/** Rows looked at before the event loop gets its turn: some milliseconds, with receipts of 40 lines. */
const ROWS_PER_TURN = 200

export interface ChainLedger {
  /** Holds every change that has ended against its hash, and the newest against the head that is kept beside. */
  verify(): Promise<LedgerReport>
}

/** How a change becomes a link. Used by the parts that close one. */
export interface Chain {
  /** Runs `close`, which ends change `id` in its row, and makes that row the newest link: both or neither. */
  append(id: number, close: () => void): void
}

/** Makes every change that has ended a link, in the order of their numbers: for a ledger from before there was a chain. */
export function chainEarlier(db: DatabaseSync): void {
  const ended = db.prepare("SELECT id FROM deploys WHERE result <> 'running' ORDER BY id")
  const link = linker(db)
  let last = NO_LINK
  for (const { id } of ended.all()) last = link(Number(id), last)
}

export function chainLedger(
  db: DatabaseSync,
  { headFile, beginsChain, note }: { headFile: string; beginsChain: boolean; note: Note },
): { part: ChainLedger; chain: Chain } {
  const sql = {
    last: db.prepare('SELECT chain, id, hash FROM deploys WHERE chain IS NOT NULL ORDER BY chain DESC LIMIT 1'),
    after: db.prepare('SELECT * FROM deploys WHERE chain > ? ORDER BY chain LIMIT ?'),
    unchained: db.prepare("SELECT * FROM deploys WHERE chain IS NULL AND result <> 'running' ORDER BY id"),
    /** Where the ledger begins anew the link before it is known by the row after it alone. */
    hashAt: db.prepare(
      'SELECT hash FROM deploys WHERE chain = ?1 UNION ALL SELECT prev FROM deploys WHERE chain = ?1 + 1 LIMIT 1',
    ),
  }
  const link = linker(db)
  const lastInLedger = (): Link => {
    const row = sql.last.get() as Row | undefined
    return row === undefined ? NO_LINK : { number: Number(row.chain), deploy: Number(row.id), hash: String(row.hash) }
  }
  if (beginsChain && readHead(headFile) === 'absent') {
    note('the head of a new ledger', () => writeHead(headFile, lastInLedger()))
  }

  function append(id: number, close: () => void): void {
    let newest = NO_LINK
    inTransaction(db, () => {
      close()
      newest = link(id, laterOf(lastInLedger(), readHead(headFile)))
    })
    // A crash before this leaves a head that is one link behind, which is no harm.
    note(`change ${newest.deploy} is the newest`, () => writeHead(headFile, newest))
  }

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
    const head = readHead(headFile)
    const at = typeof head === 'string' ? undefined : (sql.hashAt.get(head.number) as Row | undefined)
    return check.end({ unchained: sql.unchained.all(), head, atHead: at === undefined ? undefined : String(at.hash) })
  }

  return { part: { verify }, chain: { append } }
}

/** After a ledger that was lost, or put back, the chain goes on from the newest link anything knows of. */
function laterOf(last: Link, head: Head): Link {
  return typeof head !== 'string' && head.number > last.number ? head : last
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
