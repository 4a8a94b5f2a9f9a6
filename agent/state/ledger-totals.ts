import type { DatabaseSync } from 'node:sqlite'
import type { AppName, ServiceName } from '../../shared/names.ts'
import type { ChangeKind } from '../../shared/wire.ts'
import type { Row } from './ledger-row.ts'

// Everything counted together, for metrics: totals since the ledger began, so that they only rise.

/** What ended a process: its own exit, a signal, or the kernel for want of memory. */
export type ExitCause = 'exit' | 'signal' | 'oom'

export interface ExitTotal {
  app: AppName
  service: ServiceName
  cause: ExitCause
  count: number
}

export interface ChangeTotal {
  app: AppName
  kind: ChangeKind
  result: 'done' | 'failed' | 'interrupted'
  count: number
}

export interface TotalsLedger {
  exitTotals(): ExitTotal[]
  /** Changes that have ended. */
  changeTotals(): ChangeTotal[]
}

export function totalsLedger(db: DatabaseSync): TotalsLedger {
  const sql = {
    exits: db.prepare(
      "SELECT app, service, CASE WHEN oom = 1 THEN 'oom' WHEN signal IS NOT NULL THEN 'signal' ELSE 'exit' END AS cause, count(*) AS n FROM exits GROUP BY app, service, cause",
    ),
    changes: db.prepare(
      "SELECT app, kind, result, count(*) AS n FROM deploys WHERE result <> 'running' GROUP BY app, kind, result",
    ),
  }
  return {
    exitTotals: () => sql.exits.all().map(parseExitTotal),
    changeTotals: () => sql.changes.all().map(parseChangeTotal),
  }
}

function parseExitTotal(row: Row): ExitTotal {
  return {
    app: row.app as AppName,
    service: row.service as ServiceName,
    cause: row.cause as ExitCause,
    count: Number(row.n),
  }
}

function parseChangeTotal(row: Row): ChangeTotal {
  return {
    app: row.app as AppName,
    kind: row.kind as ChangeKind,
    result: row.result as ChangeTotal['result'],
    count: Number(row.n),
  }
}
