import { loadavg } from 'node:os'
import { mem } from 'systeminformation/lib/memory.js'
import type { AppName, ReleaseId } from '../../shared/names.ts'
import { version } from '../../shared/version.ts'
import type { AgentStatus, AppStatus, ServiceState, ServiceStatus } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import { previousGood } from '../deploy/retention.ts'
import { diskOf, diskState, scarceOf } from '../deploy/room.ts'
import { servicesOf } from '../deploy/unit.ts'
import type { InstalledUnit, UnitFacts } from '../init/init-system.ts'
import { newestRevision, revisionOf } from '../state/env-revisions.ts'
import { appsOn, currentRelease, readHead, releasesOn } from '../state/release-store.ts'
import { daysUntilFull, PUSHES_LOOKED_AT, pushesUntilFull } from './forecast.ts'
import { ledgerNotes } from './ledger-notes.ts'

// A question, not a memory: the disk, init and the ledger are asked each time, and nothing is kept.

const HOUR_MS = 3_600_000

export async function agentStatus(agent: Agent, app: AppName | undefined): Promise<AgentStatus> {
  const apps = appsOn(agent.layout).filter((name) => app === undefined || name === app)
  // At once: each waits for the turns of whatever else the agent does.
  const [disk, memory, statuses] = await Promise.all([
    diskOf(agent.config),
    mem(),
    Promise.all(apps.map((name) => appStatus(agent, name))),
  ])
  const [one = 0, five = 0, fifteen = 0] = loadavg()
  const { path, totalBytes, freeBytes, totalInodes, freeInodes } = disk
  const notes = ledgerNotes(agent.ledger, apps)
  return {
    agent: { version, init: agent.init.name, startedAt: agent.startedAt },
    disk: {
      path,
      totalBytes,
      freeBytes,
      totalInodes,
      freeInodes,
      state: diskState(disk),
      scarce: scarceOf(disk),
      daysUntilFull: daysUntilFull(agent.ledger.dailyLows(totalBytes), disk),
      pushesUntilFull: pushesUntilFull(agent.ledger.pushRooms(PUSHES_LOOKED_AT), disk),
    },
    memory: { totalBytes: memory.total, availableBytes: memory.available },
    load: [one, five, fifteen],
    apps: statuses,
    ...(notes.length === 0 ? {} : { notes }),
  }
}

async function appStatus(agent: Agent, app: AppName): Promise<AppStatus> {
  const { layout, ledger, init } = agent
  const { wanted, bytesOnDisk } = ledger.app(app)
  const current = currentRelease(layout, app)
  const onDisk = new Set(releasesOn(layout, app))
  const known = ledger.releases(app).filter(({ id }) => onDisk.has(id))
  // With nothing serving, what was wanted is what there is to report on.
  const shown = current ?? (wanted !== null && onDisk.has(wanted) ? wanted : null)
  const installed = await init.installed(app)
  const envRevision = current === null ? newestRevision(layout, app) : revisionOf(layout, app, current)
  // What failed with another environment is of the same release, and yet not what serves.
  const units = current === null ? installed : installed.filter((unit) => unit.envRevision === envRevision)
  const services = shown === null ? [] : await servicesStatus(agent, app, { shown, wanted, installed: units })
  const up = services.some(({ state }) => state === 'running' || state === 'starting' || state === 'degraded')
  return {
    app,
    wanted,
    running: up ? current : null,
    previousGood: previousGood(known, current),
    bytesOnDisk,
    releasesKept: onDisk.size,
    damaged: known.filter(({ state }) => state === 'damaged').map(({ id }) => id),
    envRevision,
    lastSwitch: ledger.lastSwitch(app),
    services,
  }
}

async function servicesStatus(
  { layout, ledger, init }: Agent,
  app: AppName,
  about: { shown: ReleaseId; wanted: ReleaseId | null; installed: InstalledUnit[] },
): Promise<ServiceStatus[]> {
  const head = readHead(layout, app, about.shown)
  const hourAgo = new Date(Date.now() - HOUR_MS).toISOString()
  return Promise.all(
    servicesOf(head).map(async ([name, spec]) => {
      const units = about.installed.filter((unit) => unit.service === name && unit.release === about.shown)
      const all = await Promise.all(units.map(async (unit) => ({ unit, facts: await init.facts(unit) })))
      const { unit, facts } =
        all.find(({ facts: { state } }) => state !== 'stopped' && state !== 'absent') ?? all[0] ?? {}
      const sinceSwitch = facts?.respawns ?? 0
      return {
        name,
        state: facts ? serviceState(facts, about.shown === about.wanted) : 'stopped',
        release: about.shown,
        slot: unit?.slot ?? null,
        pid: facts?.pid ?? null,
        since: facts?.since ?? null,
        respawns: {
          sinceSwitch,
          lastHour: ledger.exitsSince(app, name, hourAgo),
          limit: { attempts: spec.restart.attempts, withinSeconds: spec.restart.withinMs / 1000 },
        },
        lastExit: facts?.lastExit ?? ledger.lastExit(app, name, about.shown),
        memoryBytes: facts?.memoryBytes ?? null,
        port: spec.port ?? null,
      }
    }),
  )
}

/** Pure: init's word for it, in the words of `status`. */
export function serviceState({ state, respawns }: UnitFacts, isWanted: boolean): ServiceState {
  switch (state) {
    case 'running':
      return isWanted ? 'running' : 'degraded'
    case 'starting':
      return respawns > 0 ? 'crash-looping' : 'starting'
    case 'respawning':
    case 'gave-up':
      return 'crash-looping'
    case 'failed':
      return 'failed'
    case 'stopping':
    case 'stopped':
    case 'absent':
      return 'stopped'
  }
}
