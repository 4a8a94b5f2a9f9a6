import type { DatabaseSync } from 'node:sqlite'
import type { AppName, ReleaseId } from '../../shared/names.ts'
import type { Receipt } from '../../shared/wire.ts'
import type { LOST, REWOUND } from './chain.ts'
import type { Chain } from './ledger-chain.ts'

/** What the disk says of a release. */
export interface FoundRelease {
  id: ReleaseId
  /** The one that serves passed its gate; of the others nothing is known. */
  isCurrent: boolean
  receivedAt: string
  signers: string[]
  bytes: number
  files: number
}

/** What the ledger did not know of an app, as the disk says it. */
export interface Rebuilt {
  found: readonly FoundRelease[]
  /** All releases of the app, oldest first: those found among those known. */
  order: readonly ReleaseId[]
  /** Undefined: what stands there stays. */
  wanted: ReleaseId | null | undefined
  /** Null: only rows were missing, of a ledger that is otherwise the one the agent wrote. */
  code: typeof LOST | typeof REWOUND | null
  /** Says what happened, and what is not known. */
  receipt: Receipt
  at: string
}

export interface RebuildLedger {
  /**
   * Takes in what was found, and writes down as a change of kind `rebuilt` that it did: all of it or nothing. Throws
   * when it cannot be written; then everything stays as it is, on the disk.
   */
  rebuild(app: AppName, rebuilt: Rebuilt): void
}

export function rebuildLedger(db: DatabaseSync, chain: Chain): RebuildLedger {
  const sql = {
    forget: db.prepare('DELETE FROM releases WHERE app = ? AND id = ?'),
    adopt: db.prepare(
      'INSERT INTO releases (app, id, state, once_healthy, adopted, received_at, signers, bytes, files) VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?)',
    ),
    toEnd: db.prepare('UPDATE releases SET seq = (SELECT max(seq) + 1 FROM releases) WHERE app = ? AND id = ?'),
    want: db.prepare(
      'INSERT INTO apps (app, wanted) VALUES (?, ?) ON CONFLICT (app) DO UPDATE SET wanted = excluded.wanted',
    ),
    note: db.prepare(
      "INSERT INTO deploys (app, kind, who, key, result, code, started_at, ended_at, receipt) VALUES (?, 'rebuilt', 'tarmac', '-', ?, ?, ?, ?, ?)",
    ),
  }
  return {
    rebuild(app, { found, order, wanted, code, receipt, at }) {
      chain.append(() => {
        for (const { id, isCurrent, receivedAt, signers, bytes, files } of found) {
          sql.forget.run(app, id)
          const [state, adopted] = isCurrent ? ['healthy', 0] : ['assembled', 1]
          sql.adopt.run(app, id, state, adopted, receivedAt, JSON.stringify(signers), bytes, files)
        }
        // Each in turn to the end: that is the order, and no number is used twice.
        for (const id of order) sql.toEnd.run(app, id)
        if (wanted !== undefined) sql.want.run(app, wanted)
        const result = code === null ? 'done' : 'failed'
        return Number(sql.note.run(app, result, code, at, at, JSON.stringify(receipt)).lastInsertRowid)
      })
    },
  }
}
