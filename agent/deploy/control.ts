import { Failure, reasonOf } from '../../shared/failure.ts'
import type { AppName } from '../../shared/names.ts'
import type { Agent } from '../agent.ts'
import type { UnitSpec } from '../init/init-system.ts'
import { environmentOfRelease } from '../state/env-revisions.ts'
import { currentRelease, type Release, readRelease } from '../state/release-store.ts'
import { withReserve } from '../state/reserve.ts'
import { type Change, ChangeFailed, openChange, runChange } from './change.ts'
import type { Ask } from './deploy.ts'
import { receiptOf } from './failure-receipt.ts'
import { openUp, servingNow, startUnits } from './switch.ts'
import { unitsOf } from './unit.ts'

// Changes that move no release: what runs is stopped, started, or both, each with the gate.

export async function restart(agent: Agent, ask: Ask): Promise<void> {
  await withCurrent(agent, ask, async (release, units, change) => {
    // It may have been stopped, and disabled with that.
    await enableAll(agent, units)
    change.gapBegins()
    await stopAll(agent, units, change)
    await startAll(agent, { release, units }, change)
  })
}

/** A boot does not start it again either, until someone says start, restart, push or rollback. */
export async function stop(agent: Agent, ask: Ask): Promise<void> {
  await withCurrent(agent, ask, async (_release, units, change) => {
    for (const unit of units) await agent.init.disable(unit)
    await agent.init.refresh()
    await stopAll(agent, units, change)
    // With the port open callers would wait for an answer that nobody is going to give.
    for (const unit of units) if (unit.handover) await agent.init.closePort(unit)
  })
}

export async function start(agent: Agent, ask: Ask): Promise<void> {
  await withCurrent(agent, ask, async (release, units, change) => {
    await enableAll(agent, units)
    await startAll(agent, { release, units }, change)
  })
}

async function enableAll({ init }: Agent, units: UnitSpec[]): Promise<void> {
  for (const unit of units) await init.enable(unit)
  await init.refresh()
}

async function withCurrent(
  agent: Agent,
  ask: Ask,
  work: (release: Release, units: UnitSpec[], change: Change) => Promise<void>,
): Promise<void> {
  const release = readRelease(agent.layout, ask.app, currentOf(agent, ask.app))
  const change = openChange(ask, agent, release.id)
  await runChange(agent, change, async () => {
    const { slot, units: installed } = await servingNow(agent, ask.app)
    const account = await agent.init.ensureAccount(ask.app)
    const env = environmentOfRelease(agent.layout, ask.app, release.id)
    const units = unitsOf(release, { layout: agent.layout, account, env, slot: slot ?? 'a' })
    if (installed.length < units.length) for (const unit of units) await agent.init.install(unit)
    await work(release, units, change)
  })
}

async function stopAll({ init }: Agent, units: UnitSpec[], change: Change): Promise<void> {
  for (const unit of units) {
    await init.stop(unit)
    change.step('stopped', { service: unit.service, slot: unit.slot })
  }
}

async function startAll(
  agent: Agent,
  { release, units }: { release: Release; units: UnitSpec[] },
  change: Change,
): Promise<void> {
  try {
    await withReserve(agent.reserve, async () => {
      await openUp(agent.init, units)
      await startUnits(agent, units, change)
    })
  } catch (cause) {
    const receipt = await receiptOf(agent, { release, units, cause }, change)
    // What a person asked to run, and runs, is left running; but it is said for what it is.
    const states = await Promise.all(units.map(async (unit) => (await agent.init.facts(unit)).state))
    const running = states.every((state) => state === 'running') ? release.id : null
    const code = running === null ? 'deploy_down' : 'deploy_failed'
    const failure = new Failure(code, `${change.kind} ${change.app}: ${release.id}: ${receipt.reason}`, {
      hint: `go back: tarmac rollback; or see why: ${receipt.next[0] ?? reasonOf(cause)}`,
      cause,
    })
    throw new ChangeFailed(failure, { ...receipt, running })
  }
}

export function currentOf(agent: Agent, app: AppName) {
  const id = currentRelease(agent.layout, app)
  if (id !== null) return id
  throw new Failure('app_unknown', `find ${app}: no release of it serves on this host`, {
    hint: 'push one: tarmac push',
  })
}
