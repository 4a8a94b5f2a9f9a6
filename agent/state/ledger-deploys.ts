import type { DatabaseSync } from 'node:sqlite'
import type { Code } from '../../shared/failure.ts'
import type { AppName, ReleaseId } from '../../shared/names.ts'
import type { ChangeKind, DeployEntry, LastSwitch, Receipt, StepLine, SwitchProbe } from '../../shared/wire.ts'
import type { Chain } from './ledger-chain.ts'
import { type Note, notBegun, parsedJson, type Row } from './ledger-row.ts'

/** A change that has ended, in short. */
export interface Switch {
  kind: ChangeKind
  to: ReleaseId | null
  result: 'done' | 'failed' | 'interrupted'
  endedAt: string
}

/** A change that is under way, or was when the agent last stopped. */
export interface OpenDeploy {
  id: number
  app: AppName
  kind: ChangeKind
  who: string
  key: string
  from: ReleaseId | null
  to: ReleaseId | null
  startedAt: string
}

/** How a change ended. */
export interface DeployEnd {
  to: ReleaseId | null
  result: 'done' | 'failed' | 'interrupted'
  code: Code | null
  seconds: number | null
  gapMs: number | null
  probe: SwitchProbe | null
  steps: StepLine[]
  receipt: Receipt | null
  at: string
}

export interface DeployLedger {
  openDeploy(deploy: {
    app: AppName
    kind: ChangeKind
    who: string
    key: string
    from: ReleaseId | null
    to: ReleaseId | null
    at: string
  }): number
  /** The change is one more link of the chain from here on, and is not changed again. */
  closeDeploy(id: number, end: DeployEnd): void
  /** Newest first. */
  deploys(app: AppName, limit: number): DeployEntry[]
  /** Oldest first. */
  openDeploys(): OpenDeploy[]
  /**
   * What may have moved `current`, newest first: pushes and rollbacks that came to their end or were cut off, and every
   * automatic rollback. A few, since only what followed the last push matters.
   */
  switches(app: AppName): Switch[]
  /** The last change that moved traffic, as it ended. */
  lastSwitch(app: AppName): LastSwitch | null
  /** What was last done with this release: what it did before says nothing of it now. */
  lastChangeOf(app: AppName, id: ReleaseId): Switch | null
  /** When a loop of this release was last left as it is. */
  lastGaveUp(app: AppName, id: ReleaseId): string | null
}

export function deployLedger(db: DatabaseSync, { note, chain }: { note: Note; chain: Chain }): DeployLedger {
  const sql = {
    openDeploy: db.prepare(
      "INSERT INTO deploys (app, kind, who, key, from_release, to_release, result, started_at) VALUES (?, ?, ?, ?, ?, ?, 'running', ?)",
    ),
    closeDeploy: db.prepare(
      'UPDATE deploys SET to_release = ?, result = ?, code = ?, seconds = ?, gap_ms = ?, probe = ?, steps = ?, receipt = ?, ended_at = ? WHERE id = ?',
    ),
    deploys: db.prepare('SELECT * FROM deploys WHERE app = ? ORDER BY id DESC LIMIT ?'),
    openDeploys: db.prepare("SELECT * FROM deploys WHERE result = 'running' ORDER BY id"),
    switches: db.prepare(
      "SELECT * FROM deploys WHERE app = ? AND (kind = 'auto-rollback' OR (kind IN ('push', 'rollback') AND result <> 'failed')) AND ended_at IS NOT NULL ORDER BY id DESC LIMIT 20",
    ),
    lastSwitch: db.prepare(
      "SELECT * FROM deploys WHERE app = ? AND kind IN ('push', 'rollback', 'auto-rollback', 'restart', 'env') AND to_release IS NOT NULL AND result = 'done' ORDER BY id DESC LIMIT 1",
    ),
    lastChangeOf: db.prepare(
      'SELECT * FROM deploys WHERE app = ? AND to_release = ? AND ended_at IS NOT NULL ORDER BY id DESC LIMIT 1',
    ),
    lastGaveUp: db.prepare(
      "SELECT ended_at FROM deploys WHERE app = ? AND from_release = ? AND kind = 'gave-up' AND result = 'failed' ORDER BY id DESC LIMIT 1",
    ),
  }
  return {
    openDeploy(d) {
      try {
        return Number(sql.openDeploy.run(d.app, d.kind, d.who, d.key, d.from, d.to, d.at).lastInsertRowid)
      } catch (error) {
        throw notBegun(d.app, error)
      }
    },
    closeDeploy(id, end) {
      const { to, result, code, seconds, gapMs, at } = end
      const probe = end.probe && JSON.stringify(end.probe)
      const [steps, receipt] = [JSON.stringify(end.steps), end.receipt && JSON.stringify(end.receipt)]
      note(`change ${id} ended: ${result}`, () =>
        chain.append(() => {
          sql.closeDeploy.run(to, result, code, seconds, gapMs, probe, steps, receipt, at, id)
          return id
        }),
      )
    },
    deploys: (app, limit) => sql.deploys.all(app, limit).map(parseDeployRow),
    openDeploys: () => sql.openDeploys.all().map(parseOpenDeploy),
    switches: (app) => sql.switches.all(app).map(parseSwitch),
    lastSwitch: (app) => sql.lastSwitch.all(app).map(parseLastSwitch)[0] ?? null,
    lastChangeOf: (app, id) => sql.lastChangeOf.all(app, id).map(parseSwitch)[0] ?? null,
    lastGaveUp: (app, id) => (sql.lastGaveUp.get(app, id)?.ended_at ?? null) as string | null,
  }
}

function parseOpenDeploy(row: Row): OpenDeploy {
  return {
    id: Number(row.id),
    app: row.app as AppName,
    kind: row.kind as ChangeKind,
    who: String(row.who),
    key: String(row.key),
    from: row.from_release as ReleaseId | null,
    to: row.to_release as ReleaseId | null,
    startedAt: String(row.started_at),
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

function parseLastSwitch(row: Row): LastSwitch {
  const { gapMs, probe } = parseDeployRow(row)
  return { at: String(row.ended_at), gapMs, probe }
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
    probe: parsedJson(row.probe, null) as SwitchProbe | null,
    steps: parsedJson(row.steps, []) as StepLine[],
    receipt: parsedJson(row.receipt, null) as Receipt | null,
  }
}
