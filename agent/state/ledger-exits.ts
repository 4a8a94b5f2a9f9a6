import type { DatabaseSync } from 'node:sqlite'
import type { AppName, ReleaseId, ServiceName } from '../../shared/names.ts'
import type { ExitFact } from '../../shared/wire.ts'
import type { Note, Row } from './ledger-row.ts'

export interface ExitLedger {
  recordExit(app: AppName, service: ServiceName, release: ReleaseId | null, exit: ExitFact): void
  lastExit(app: AppName, service: ServiceName, release: ReleaseId): ExitFact | null
  exitsSince(app: AppName, service: ServiceName, since: string): number
  exitsOf(app: AppName, service: ServiceName, of: { release: ReleaseId; since: string }): number
}

export function exitLedger(db: DatabaseSync, note: Note): ExitLedger {
  const sql = {
    recordExit: db.prepare(
      'INSERT INTO exits (app, service, release, at, code, signal, oom) VALUES (?, ?, ?, ?, ?, ?, ?)',
    ),
    lastExit: db.prepare('SELECT * FROM exits WHERE app = ? AND service = ? AND release = ? ORDER BY id DESC LIMIT 1'),
    exitsOf: db.prepare('SELECT count(*) AS n FROM exits WHERE app = ? AND service = ? AND release = ? AND at >= ?'),
    exitsSince: db.prepare('SELECT count(*) AS n FROM exits WHERE app = ? AND service = ? AND at >= ?'),
  }
  return {
    recordExit: (app, service, release, { at, code, signal, oom }) =>
      note(`${app} ${service} exited`, () => sql.recordExit.run(app, service, release, at, code, signal, oom ? 1 : 0)),
    lastExit(app, service, release) {
      const row = sql.lastExit.get(app, service, release) as Row | undefined
      if (!row) return null
      return {
        code: row.code as number | null,
        signal: row.signal as string | null,
        oom: row.oom === 1,
        at: String(row.at),
      }
    },
    exitsOf: (app, service, { release, since }) => Number((sql.exitsOf.get(app, service, release, since) as Row).n),
    exitsSince: (app, service, since) => Number((sql.exitsSince.get(app, service, since) as Row).n),
  }
}
