import { hash } from 'node:crypto'
import type { Code } from '../../shared/failure.ts'
import type { LedgerProblem, LedgerReport } from '../../shared/ledger-report.ts'
import type { AppName } from '../../shared/names.ts'
import { parsedJson, type Row } from './ledger-row.ts'

// Changes chained by hash, so that one that was edited or removed shows, and a ledger that was put back from an older
// copy. A change becomes a link when it ends, in the order in which changes end: those of two apps interleave, and what
// is still open has no facts to hold on to. Pure: rows in, findings out.

/** A link: its number in the chain, the change it is of, and its hash. */
export interface Link {
  number: number
  deploy: number
  hash: string
}

/** Before the first link. */
export const NO_LINK: Link = Object.freeze({ number: 0, deploy: 0, hash: '0'.repeat(64) })

/** Codes of a change of kind `rebuilt`, by which the agent says why there is a gap in front of it. */
export const LOST = 'ledger_lost' satisfies Code
export const REWOUND = 'ledger_rewound' satisfies Code

/** The columns that are not hashed: the result, and what stands in front of the facts anyway. */
const AROUND: ReadonlySet<string> = new Set(['prev', 'hash'])

/**
 * sha256 over the hash before, a newline, and the row's columns as canonical JSON: name and value by the bytes of the
 * name, those that are null left out. So a column that a later schema adds is in the hash of each row that has it, and
 * changes none that was written before; it must be null there.
 */
export function hashOf(prev: string, row: Row): string {
  const facts = Object.entries(row)
    .filter(([name, value]) => value !== null && !AROUND.has(name))
    .sort(([a], [b]) => (a < b ? -1 : 1))
  return hash('sha256', `${prev}\n${JSON.stringify(facts)}`, 'hex')
}

/** What `ledger.head` says: the newest link as far as the disk beside the ledger knows. */
export type Head = Link | 'absent' | 'unreadable'

/**
 * Takes the rows of the chain in its order, and then what is outside of it. A changed row is one finding, however many
 * follow it: each is held against the hash that stands in the row before.
 */
export function checkChain() {
  const problems: LedgerProblem[] = []
  const notes: string[] = []
  let last: Link | undefined
  let changes = 0
  const add = (problem: LedgerProblem['problem'], row: Row | undefined, text: string) =>
    void problems.push({
      problem,
      deploy: row === undefined ? null : Number(row.id),
      app: row === undefined ? null : (String(row.app) as AppName),
      text,
    })
  return {
    row(row: Row): void {
      changes++
      const [number, prev, own] = [Number(row.chain), String(row.prev), String(row.hash)]
      const isRebuilt = row.kind === 'rebuilt'
      const missing = number - (last?.number ?? 0) - 1
      if (missing < 0) add('added', row, `stands at ${number} of the chain, where another one stands`)
      else if (missing > 0 && !isExplained(row, last))
        add('removed', row, `${count(missing)} before it ${missing === 1 ? 'is' : 'are'} missing`)
      if (missing === 0 && prev !== (last ?? NO_LINK).hash) add('edited', row, 'does not follow on the one before it')
      if (own !== hashOf(prev, row)) add('edited', row, 'is not what the agent wrote')
      if (isRebuilt && row.code === REWOUND) add('rewound', row, reasonIn(row))
      else if (isRebuilt) notes.push(`${String(row.app)}: ${reasonIn(row)}`)
      last = { number, deploy: Number(row.id), hash: own }
    },
    /** `unchained`: changes that have ended and are no link. `atHead`: the hash that the ledger has at the head's number. */
    end({
      unchained,
      head,
      atHead,
    }: {
      unchained: readonly Row[]
      head: Head
      atHead: string | undefined
    }): LedgerReport {
      for (const row of unchained) add('added', row, 'is no link of the chain: the agent did not write its end')
      const atEnd = troubleAtEnd({ last: last ?? NO_LINK, head, atHead })
      if (atEnd !== undefined) add(atEnd.problem, undefined, atEnd.text)
      return {
        ok: problems.length === 0,
        changes,
        head: last === undefined ? null : { number: last.number, hash: last.hash },
        problems,
        notes,
      }
    },
  }
}

/** Whether the newest links are those that the agent wrote, as far as the head beside the ledger tells. */
export function troubleAtEnd({
  last,
  head,
  atHead,
}: {
  last: Link
  head: Head
  atHead: string | undefined
}): Pick<LedgerProblem, 'problem' | 'text'> | undefined {
  if (typeof head === 'string') {
    // Where nothing has ended yet there is nothing to miss.
    if (last.number === 0 && head === 'absent') return undefined
    const what = head === 'absent' ? 'is missing' : 'cannot be read'
    return { problem: 'head', text: `ledger.head ${what}: whether the newest changes are missing cannot be told` }
  }
  const missing = head.number - last.number
  if (missing > 0) {
    const text = `the last ${count(missing)} ${missing === 1 ? 'is' : 'are'} missing: an older copy was put back, or they were removed`
    return { problem: 'rewound', text }
  }
  if (head.number === 0 || head.hash === atHead) return undefined
  return {
    problem: 'rewound',
    text: `change ${head.deploy} is not the one that the agent wrote: another ledger was put here`,
  }
}

/** A gap that the agent found and wrote down itself: where an older copy was put back, or where the ledger begins anew. */
function isExplained({ kind, code }: Row, last: Link | undefined): boolean {
  return kind === 'rebuilt' && (code === REWOUND || (code === LOST && last === undefined))
}

function count(changes: number): string {
  return changes === 1 ? '1 change' : `${changes} changes`
}

/** A row that somebody edited may hold anything. */
function reasonIn(row: Row): string {
  const receipt = parsedJson(row.receipt, null)
  const isReceipt = typeof receipt === 'object' && receipt !== null && 'reason' in receipt
  return isReceipt ? String(receipt.reason) : 'the ledger was rebuilt'
}
