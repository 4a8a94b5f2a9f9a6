import { hash } from 'node:crypto'
import type { Code } from '../../shared/failure.ts'
import type { AppName } from '../../shared/names.ts'
import type { LedgerProblem, LedgerReport } from '../../shared/wire.ts'
import type { Row } from './ledger-row.ts'

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
      if (head === 'unreadable')
        add('head', undefined, 'ledger.head cannot be read: whether the ledger ends too early cannot be told')
      else if (head === 'absent') {
        if (last !== undefined)
          add('head', undefined, 'ledger.head is missing: whether the ledger ends too early cannot be told')
      } else if (head.number > (last?.number ?? 0)) {
        const missing = head.number - (last?.number ?? 0)
        add(
          'rewound',
          undefined,
          `the last ${count(missing)} ${missing === 1 ? 'is' : 'are'} missing: an older copy was put back, or they were removed`,
        )
      } else if (head.number > 0 && head.hash !== atHead) {
        add(
          'rewound',
          undefined,
          `change ${head.deploy} is another one than the agent wrote last: another ledger was put here`,
        )
      }
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

/** A gap that the agent found and wrote down itself: where an older copy was put back, or where the ledger begins anew. */
function isExplained({ kind, code }: Row, last: Link | undefined): boolean {
  return kind === 'rebuilt' && (code === REWOUND || (code === LOST && last === undefined))
}

function count(changes: number): string {
  return changes === 1 ? '1 change' : `${changes} changes`
}

/** A row that somebody edited may hold anything. */
function reasonIn(row: Row): string {
  try {
    const { reason } = JSON.parse(String(row.receipt)) as { reason: unknown }
    return String(reason)
  } catch {
    return 'the ledger was rebuilt'
  }
}
