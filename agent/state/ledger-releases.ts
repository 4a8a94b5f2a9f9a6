import type { DatabaseSync } from 'node:sqlite'
import type { AppName, ReleaseId } from '../../shared/names.ts'
import type { ReleaseState } from '../../shared/wire.ts'
import { type Note, notBegun, type Row } from './ledger-row.ts'

/** A release as the ledger knows it. `seq` is the agent's own order: names, mtimes and clients' clocks order nothing. */
export interface ReleaseRow {
  seq: number
  id: ReleaseId
  state: ReleaseState
  onceHealthy: boolean
  receivedAt: string
  signers: string[]
  bytes: number
}

export interface ReleaseLedger {
  /** A new release, or one that was here before: it moves to the end of the order. */
  received(app: AppName, release: { id: ReleaseId; signers: string[]; bytes: number; files: number }): void
  setState(app: AppName, id: ReleaseId, state: ReleaseState): void
  /** Newest first, pruned ones left out. */
  releases(app: AppName): ReleaseRow[]
}

export function releaseLedger(db: DatabaseSync, note: Note): ReleaseLedger {
  const sql = {
    received: db.prepare(
      "INSERT INTO releases (app, id, state, received_at, signers, bytes, files) VALUES (?, ?, 'received', ?, ?, ?, ?)",
    ),
    again: db.prepare('DELETE FROM releases WHERE app = ? AND id = ?'),
    wasHealthy: db.prepare('SELECT once_healthy FROM releases WHERE app = ? AND id = ?'),
    keepHealthy: db.prepare('UPDATE releases SET once_healthy = ? WHERE app = ? AND id = ?'),
    setState: db.prepare(
      "UPDATE releases SET state = ?, once_healthy = max(once_healthy, ? = 'healthy') WHERE app = ? AND id = ?",
    ),
    releases: db.prepare("SELECT * FROM releases WHERE app = ? AND state <> 'pruned' ORDER BY seq DESC"),
  }
  return {
    received(app, { id, signers, bytes, files }) {
      db.exec('BEGIN IMMEDIATE')
      try {
        const once = Number((sql.wasHealthy.get(app, id) as Row | undefined)?.once_healthy ?? 0)
        sql.again.run(app, id)
        sql.received.run(app, id, new Date().toISOString(), JSON.stringify(signers), bytes, files)
        sql.keepHealthy.run(once, app, id)
        db.exec('COMMIT')
      } catch (error) {
        // SQLite ends the transaction by itself after some errors (SQLITE_FULL): a second end would hide the first.
        if (db.isTransaction) db.exec('ROLLBACK')
        throw notBegun(app, error)
      }
    },
    setState: (app, id, state) => note(`${app} ${id} is ${state}`, () => sql.setState.run(state, state, app, id)),
    releases: (app) => sql.releases.all(app).map(parseReleaseRow),
  }
}

function parseReleaseRow(row: Row): ReleaseRow {
  return {
    seq: Number(row.seq),
    id: row.id as ReleaseId,
    state: row.state as ReleaseState,
    onceHealthy: row.once_healthy === 1,
    receivedAt: String(row.received_at),
    signers: JSON.parse(String(row.signers)) as string[],
    bytes: Number(row.bytes),
  }
}
