import type { DatabaseSync } from 'node:sqlite'
import type { AppName, ReleaseId, ServiceName } from '../../shared/names.ts'
import type { ExitFact } from '../../shared/wire.ts'
import { inTransaction, type Note, type Row } from './ledger-row.ts'

/** An exit nobody asked for. */
export interface Exit {
  app: AppName
  service: ServiceName
  release: ReleaseId | null
  exit: ExitFact
  /** Init's name for this run of the process, by which an exit that is known already is known again. */
  run: string | null
}

export interface ExitLedger {
  recordExit(exit: Exit): void
  /** What init wrote down meanwhile, but for those that are known; and how far it was read, with them or not at all. */
  recordMissed(exits: readonly Exit[], place: string): void
  /** How far init's own record was read. */
  exitsReadTo(): string | null
  lastExit(app: AppName, service: ServiceName, release: ReleaseId): ExitFact | null
  exitsSince(app: AppName, service: ServiceName, since: string): number
  exitsOf(app: AppName, service: ServiceName, of: { release: ReleaseId; since: string }): number
  /** When they were, ms since 1970, newest first: as many as say something of a loop. */
  exitTimes(app: AppName, service: ServiceName, of: { release: ReleaseId; since: string }): number[]
}

/** A loop of a process that dies at once, seen for a day by nobody; older ones do not change what is done. */
const MAX_TIMES = 10_000

export function exitLedger(db: DatabaseSync, note: Note): ExitLedger {
  const sql = {
    recordExit: db.prepare(
      'INSERT INTO exits (app, service, release, at, code, signal, oom, run) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING',
    ),
    readTo: db.prepare('SELECT place FROM exits_read'),
    setReadTo: db.prepare(
      'INSERT INTO exits_read (id, place) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET place = excluded.place',
    ),
    lastExit: db.prepare(
      'SELECT * FROM exits WHERE app = ? AND service = ? AND release = ? ORDER BY at DESC, id DESC LIMIT 1',
    ),
    exitsOf: db.prepare('SELECT count(*) AS n FROM exits WHERE app = ? AND service = ? AND release = ? AND at >= ?'),
    exitTimes: db.prepare(
      `SELECT at FROM exits WHERE app = ? AND service = ? AND release = ? AND at >= ? ORDER BY at DESC LIMIT ${MAX_TIMES}`,
    ),
    exitsSince: db.prepare('SELECT count(*) AS n FROM exits WHERE app = ? AND service = ? AND at >= ?'),
  }
  const record = ({ app, service, release, exit: { at, code, signal, oom }, run }: Exit) =>
    sql.recordExit.run(app, service, release, at, code, signal, oom ? 1 : 0, run)
  return {
    recordExit: (exit) => note(`${exit.app} ${exit.service} exited`, () => record(exit)),
    recordMissed: (exits, place) =>
      note(`${exits.length} exits in the agent's absence`, () =>
        inTransaction(db, () => {
          for (const exit of exits) record(exit)
          sql.setReadTo.run(place)
        }),
      ),
    exitsReadTo: () => (sql.readTo.get()?.place ?? null) as string | null,
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
    exitTimes: (app, service, { release, since }) =>
      sql.exitTimes.all(app, service, release, since).map(({ at }) => Date.parse(String(at))),
    exitsSince: (app, service, since) => Number((sql.exitsSince.get(app, service, since) as Row).n),
  }
}
