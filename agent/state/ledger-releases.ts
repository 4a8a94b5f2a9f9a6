import type { DatabaseSync } from 'node:sqlite'
import type { AppName, ReleaseId } from '../../shared/names.ts'
import type { ReleaseState } from '../../shared/wire.ts'
import { inTransaction, type Note, notBegun, parsedJson, type Row } from './ledger-row.ts'

/** A release as the ledger knows it. `seq` is the agent's own order: names, mtimes and clients' clocks order nothing. */
export interface ReleaseRow {
  seq: number
  id: ReleaseId
  state: ReleaseState
  /** True too for one that was adopted: what nobody knows must not cost a good release. */
  onceHealthy: boolean
  /** Found on the disk without a row, and not healthy since: nobody knows what it was before. */
  adopted: boolean
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
    before: db.prepare('SELECT once_healthy, adopted FROM releases WHERE app = ? AND id = ?'),
    keepHealth: db.prepare('UPDATE releases SET once_healthy = ?, adopted = ? WHERE app = ? AND id = ?'),
    setState: db.prepare(
      "UPDATE releases SET state = ?, once_healthy = max(once_healthy, ? = 'healthy'), adopted = min(adopted, ? <> 'healthy') WHERE app = ? AND id = ?",
    ),
    releases: db.prepare("SELECT * FROM releases WHERE app = ? AND state <> 'pruned' ORDER BY seq DESC"),
  }
  return {
    received(app, { id, signers, bytes, files }) {
      try {
        inTransaction(db, () => {
          const { once_healthy, adopted } = (sql.before.get(app, id) ?? {}) as Row
          sql.again.run(app, id)
          sql.received.run(app, id, new Date().toISOString(), JSON.stringify(signers), bytes, files)
          sql.keepHealth.run(Number(once_healthy ?? 0), Number(adopted ?? 0), app, id)
        })
      } catch (error) {
        throw notBegun(app, error)
      }
    },
    setState: (app, id, state) =>
      note(`${app} ${id} is ${state}`, () => sql.setState.run(state, state, state, app, id)),
    releases: (app) => sql.releases.all(app).map(parseReleaseRow),
  }
}

function parseReleaseRow(row: Row): ReleaseRow {
  return {
    seq: Number(row.seq),
    id: row.id as ReleaseId,
    state: row.state as ReleaseState,
    onceHealthy: row.once_healthy === 1,
    adopted: row.adopted === 1,
    receivedAt: String(row.received_at),
    signers: parsedJson(row.signers, []) as string[],
    bytes: Number(row.bytes),
  }
}
