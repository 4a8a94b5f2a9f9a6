import { basename } from 'node:path'
import prettyBytes from 'pretty-bytes'
import { reasonOf } from '../../shared/failure.ts'
import { version } from '../../shared/version.ts'
import type { Check, DoctorAnswer, Finding } from '../../shared/wire-doctor.ts'
import type { Agent } from '../agent.ts'
import { diskOf, diskState } from '../deploy/room.ts'
import { damagedLedgers } from '../state/ledger-aside.ts'
import { appsOn, currentRelease, releasesOn } from '../state/release-store.ts'
import { readSigners } from '../state/signers.ts'
import { straysUnder } from '../state/strays.ts'

// Everything about a host that somebody should know before it matters, each looked at when it is asked about.

/** One line has room for these; there is `ls` for the rest. */
const NAMED = 3

const CHECKS: Record<string, (agent: Agent) => Finding | Promise<Finding>> = {
  init: initOf,
  signers: signersOf,
  disk: diskFinding,
  logs: ({ init }) => init.logLimit(),
  ledger: ledgerOf,
  apps: appsOf,
  files: filesOf,
}

/** Never throws: what cannot be looked at is a finding. */
export async function examine(agent: Agent): Promise<DoctorAnswer> {
  const checks: Check[] = []
  for (const [check, look] of Object.entries(CHECKS)) {
    try {
      checks.push({ check, ...(await look(agent)) })
    } catch (error) {
      agent.log.warn({ check, err: error }, 'doctor')
      const hint = 'the agent log says more: journalctl -u tarmac-agent'
      checks.push({ check, state: 'bad', what: `it could not be looked at: ${reasonOf(error)}`, hint })
    }
  }
  return { at: new Date().toISOString(), agent: { version, init: agent.init.name }, checks }
}

async function initOf({ init, layout }: Agent): Promise<Finding> {
  for (const app of appsOn(layout)) for (const unit of await init.installed(app)) await init.facts(unit)
  if (init.name !== 'embedded') return well(`${init.name} answers`)
  const hint = 'on a server with systemd: tarmac-agent run --init systemd'
  return { state: 'warn', what: 'services are children of the agent: they end with it, and no limit holds them', hint }
}

function signersOf({ layout }: Agent): Finding {
  const signers = readSigners(layout)
  const people = new Set(signers.map(({ principal }) => principal))
  const now = new Date()
  const expired = signers.filter(({ validBefore }) => validBefore !== undefined && validBefore < now)
  const hint = 'tarmac-agent signers list'
  if (signers.length === 0) return { state: 'bad', what: 'nobody is let in', hint: 'tarmac-agent signers add NAME KEY' }
  const what = count(people.size, 'person', 'people')
  if (expired.length === 0) return well(what)
  return {
    state: 'warn',
    what: `${what}; the key of ${named(expired.map(({ principal }) => principal))} has expired`,
    hint,
  }
}

async function diskFinding({ config }: Agent): Promise<Finding> {
  const disk = await diskOf(config)
  const state = diskState(disk)
  const inodes = disk.totalInodes === 0 ? '' : ` and ${disk.freeInodes} of ${disk.totalInodes} inodes`
  const what = `${state}: ${prettyBytes(disk.freeBytes)} of ${prettyBytes(disk.totalBytes)}${inodes} free at ${disk.path}`
  if (state === 'ok') return well(what)
  const hint = 'see what would go: tarmac prune --explain; keep fewer releases, or make room'
  return { state: state === 'low' ? 'warn' : 'bad', what, hint }
}

async function ledgerOf({ ledger, layout }: Agent): Promise<Finding> {
  const trouble = ledger.tryWriting()
  if (trouble !== undefined) {
    const hint = 'is the disk read-only or full? no change begins until it can be written'
    return { state: 'bad', what: `it cannot be written: ${trouble}`, hint }
  }
  const { ok, changes, problems } = await ledger.verify()
  if (!ok) {
    const what = `it is not what the agent wrote, in ${count(problems.length, 'place', 'places')}`
    return { state: 'bad', what, hint: 'see where: tarmac deploys --verify' }
  }
  const what = count(changes, 'change', 'changes')
  const kept = damagedLedgers(layout.ledgerFile)
  if (kept.length === 0) return well(what)
  const hint = `look at what is in there, then: rm ${layout.ledgerFile}.damaged-*`
  return {
    state: 'warn',
    what: `${what}; one before was damaged and is kept: ${named(kept.map((path) => basename(path)))}`,
    hint,
  }
}

function appsOf({ layout, ledger }: Agent): Finding {
  const apps = appsOn(layout)
  const lost = apps.filter((app) => {
    const current = currentRelease(layout, app)
    return current !== null && !releasesOn(layout, app).includes(current)
  })
  const releases = apps.reduce((sum, app) => sum + releasesOn(layout, app).length, 0)
  const damaged = apps.flatMap((app) =>
    ledger.releases(app).flatMap(({ id, state }) => (state === 'damaged' ? [`${app} ${id}`] : [])),
  )
  if (lost.length === 0 && damaged.length > 0) {
    return {
      state: 'bad',
      what: `damaged on disk: ${named(damaged)}`,
      hint: 'what is damaged is sent again: tarmac push',
    }
  }
  if (lost.length === 0) return well(`${count(apps.length, 'app', 'apps')}, ${count(releases, 'release', 'releases')}`)
  return { state: 'bad', what: `current of ${named(lost)} leads to no release`, hint: 'push it again: tarmac push' }
}

function filesOf({ layout }: Agent): Finding {
  const strays = straysUnder(layout)
  if (strays.length === 0) return well(`nothing but ours lies in ${layout.root}`)
  const hint = 'nothing of it is touched by the agent: look at it, and move it away'
  return { state: 'warn', what: `not ours: ${named(strays)}`, hint }
}

function well(what: string): Finding {
  return { state: 'ok', what, hint: null }
}

function named(names: readonly string[]): string {
  const more = names.length - NAMED
  return `${names.slice(0, NAMED).join(', ')}${more > 0 ? ` and ${more} more` : ''}`
}

function count(n: number, one: string, many: string): string {
  return `${n} ${n === 1 ? one : many}`
}
