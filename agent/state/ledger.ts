import { type Code, Failure, reasonOf } from '../../shared/failure.ts'
import type { AppName, ReleaseId, ServiceName } from '../../shared/names.ts'
import type { ChangeKind, DeployEntry, ExitFact, Receipt, ReleaseState, StepLine } from '../../shared/wire.ts'
import { openDatabase } from './ledger-schema.ts'

// The record of what happened. What lies on the disk and what init says stay the truth of what is: nothing is ever
// deleted or started because a row is missing here. And nothing is left undone because a row cannot be written: on a
// full disk a release that failed must still be gone back from, and old ones be removed. So a change that cannot be
// noted does not begin (`openDeploy`, `received` throw); what it does afterwards goes on, and `lost` is told.

/** https://www.sqlite.org/rescode.html#full */
const SQLITE_FULL = 13

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

/** A change that has ended, in short. */
export interface Switch {
  kind: ChangeKind
  to: ReleaseId | null
  result: 'done' | 'failed' | 'interrupted'
  endedAt: string
}

export interface Ledger {
  /** A new release, or one that was here before: it moves to the end of the order. */
  received(app: AppName, release: { id: ReleaseId; signers: string[]; bytes: number; files: number }): void
  setState(app: AppName, id: ReleaseId, state: ReleaseState): void
  /** Newest first, pruned ones left out. */
  releases(app: AppName): ReleaseRow[]
  openDeploy(deploy: {
    app: AppName
    kind: ChangeKind
    who: string
    key: string
    from: ReleaseId | null
    to: ReleaseId | null
    at: string
  }): number
  closeDeploy(
    id: number,
    end: {
      to: ReleaseId | null
      result: 'done' | 'failed' | 'interrupted'
      code: Code | null
      seconds: number | null
      gapMs: number | null
      steps: StepLine[]
      receipt: Receipt | null
      at: string
    },
  ): void
  /** Newest first. */
  deploys(app: AppName, limit: number): DeployEntry[]
  /** Changes that were open when the agent last stopped. */
  openDeploys(): { id: number; app: AppName; kind: ChangeKind; from: ReleaseId | null; to: ReleaseId | null }[]
  /**
   * What may have moved `current`, newest first: pushes and rollbacks that came to their end or were cut off, and every
   * automatic rollback. A few, since only what followed the last push matters.
   */
  switches(app: AppName): Switch[]
  /** What was last done with this release: what it did before says nothing of it now. */
  lastChangeOf(app: AppName, id: ReleaseId): Switch | null
  recordExit(app: AppName, service: ServiceName, release: ReleaseId | null, exit: ExitFact): void
  lastExit(app: AppName, service: ServiceName, release: ReleaseId): ExitFact | null
  exitsSince(app: AppName, service: ServiceName, since: string): number
  exitsOf(app: AppName, service: ServiceName, of: { release: ReleaseId; since: string }): number
  setWanted(app: AppName, id: ReleaseId | null): void
  setBytesOnDisk(app: AppName, bytes: number): void
  app(app: AppName): { wanted: ReleaseId | null; bytesOnDisk: number }
  close(): void
}

type Row = Record<string, unknown>

/** Takes what could not be written, and why. Must not throw. */
export type Lost = (what: string, error: unknown) => void

export function openLedger(file: string, lost: Lost): Ledger {
  const db = openDatabase(file)
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
    openDeploy: db.prepare(
      "INSERT INTO deploys (app, kind, who, key, from_release, to_release, result, started_at) VALUES (?, ?, ?, ?, ?, ?, 'running', ?)",
    ),
    closeDeploy: db.prepare(
      'UPDATE deploys SET to_release = ?, result = ?, code = ?, seconds = ?, gap_ms = ?, steps = ?, receipt = ?, ended_at = ? WHERE id = ?',
    ),
    deploys: db.prepare('SELECT * FROM deploys WHERE app = ? ORDER BY id DESC LIMIT ?'),
    openDeploys: db.prepare("SELECT * FROM deploys WHERE result = 'running'"),
    switches: db.prepare(
      "SELECT * FROM deploys WHERE app = ? AND (kind = 'auto-rollback' OR (kind IN ('push', 'rollback') AND result <> 'failed')) AND ended_at IS NOT NULL ORDER BY id DESC LIMIT 20",
    ),
    lastChangeOf: db.prepare(
      'SELECT * FROM deploys WHERE app = ? AND to_release = ? AND ended_at IS NOT NULL ORDER BY id DESC LIMIT 1',
    ),
    recordExit: db.prepare(
      'INSERT INTO exits (app, service, release, at, code, signal, oom) VALUES (?, ?, ?, ?, ?, ?, ?)',
    ),
    lastExit: db.prepare('SELECT * FROM exits WHERE app = ? AND service = ? AND release = ? ORDER BY id DESC LIMIT 1'),
    exitsOf: db.prepare('SELECT count(*) AS n FROM exits WHERE app = ? AND service = ? AND release = ? AND at >= ?'),
    exitsSince: db.prepare('SELECT count(*) AS n FROM exits WHERE app = ? AND service = ? AND at >= ?'),
    setWanted: db.prepare(
      'INSERT INTO apps (app, wanted) VALUES (?, ?) ON CONFLICT (app) DO UPDATE SET wanted = excluded.wanted',
    ),
    setBytes: db.prepare(
      'INSERT INTO apps (app, bytes_on_disk) VALUES (?, ?) ON CONFLICT (app) DO UPDATE SET bytes_on_disk = excluded.bytes_on_disk',
    ),
    app: db.prepare('SELECT wanted, bytes_on_disk FROM apps WHERE app = ?'),
  }
  const note = (what: string, write: () => unknown): void => {
    try {
      write()
    } catch (error) {
      lost(what, error)
    }
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
    openDeploy(d) {
      try {
        return Number(sql.openDeploy.run(d.app, d.kind, d.who, d.key, d.from, d.to, d.at).lastInsertRowid)
      } catch (error) {
        throw notBegun(d.app, error)
      }
    },
    closeDeploy(id, end) {
      const { to, result, code, seconds, gapMs, at } = end
      const [steps, receipt] = [JSON.stringify(end.steps), end.receipt && JSON.stringify(end.receipt)]
      note(`change ${id} ended: ${result}`, () =>
        sql.closeDeploy.run(to, result, code, seconds, gapMs, steps, receipt, at, id),
      )
    },
    deploys: (app, limit) => sql.deploys.all(app, limit).map(parseDeployRow),
    openDeploys: () => sql.openDeploys.all().map(parseOpenDeploy),
    switches: (app) => sql.switches.all(app).map(parseSwitch),
    lastChangeOf: (app, id) => sql.lastChangeOf.all(app, id).map(parseSwitch)[0] ?? null,
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
    setWanted: (app, id) => note(`${app} wants ${id}`, () => sql.setWanted.run(app, id)),
    setBytesOnDisk: (app, bytes) => note(`${app} has ${bytes} bytes`, () => sql.setBytes.run(app, bytes)),
    app(app) {
      const row = sql.app.get(app) as Row | undefined
      return { wanted: (row?.wanted ?? null) as ReleaseId | null, bytesOnDisk: Number(row?.bytes_on_disk ?? 0) }
    },
    close: () => db.close(),
  }
}

function notBegun(app: AppName, cause: unknown): unknown {
  if (!(cause instanceof Error && 'errcode' in cause && cause.errcode === SQLITE_FULL)) return cause
  return new Failure('disk_full', `change ${app}: it cannot be written down: ${reasonOf(cause)}`, {
    hint: 'what runs goes on; make room on the host',
    cause,
  })
}

function parseOpenDeploy(row: Row): ReturnType<Ledger['openDeploys']>[number] {
  return {
    id: Number(row.id),
    app: row.app as AppName,
    kind: row.kind as ChangeKind,
    from: row.from_release as ReleaseId | null,
    to: row.to_release as ReleaseId | null,
  }
}

function parseSwitch(row: Row): Switch {
  return {
    kind: row.kind as ChangeKind,
    to: row.to_release as ReleaseId | null,
    result: row.result as Switch['result'],
    endedAt: String(row.ended_at),
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

function parseDeployRow(row: Row): DeployEntry {
  return {
    id: Number(row.id),
    kind: row.kind as ChangeKind,
    who: String(row.who),
    key: String(row.key),
    from: row.from_release as ReleaseId | null,
    to: row.to_release as ReleaseId | null,
    result: row.result as DeployEntry['result'],
    code: row.code as Code | null,
    startedAt: String(row.started_at),
    seconds: row.seconds as number | null,
    gapMs: row.gap_ms as number | null,
    steps: JSON.parse(String(row.steps)) as StepLine[],
    receipt: row.receipt === null ? null : (JSON.parse(String(row.receipt)) as Receipt),
  }
}
