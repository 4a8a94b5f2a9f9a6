import { Failure, reasonOf } from '../../shared/failure.ts'
import type { ReleaseId } from '../../shared/names.ts'
import type { Receipt } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import type { UnitSpec } from '../init/init-system.ts'
import { readEnvironment, revisionOf } from '../state/env-revisions.ts'
import { currentRelease, type Release, readRelease } from '../state/release-store.ts'
import { removeTree } from '../state/remove.ts'
import { withReserve } from '../state/reserve.ts'
import { type Change, ChangeFailed } from './change.ts'
import { receiptOf } from './failure-receipt.ts'
import { endOld, makeCurrent, openUp, type Progress, type Serving, startUnits } from './switch.ts'
import { unitsOf } from './unit.ts'

const PHASES: Record<string, string> = {
  gap: 'was switched to with a gap',
  gate: 'did not become healthy',
  start: 'was not started',
  switch: 'was not made current',
}

interface FailedSwitch {
  release: Release
  units: UnitSpec[]
  serving: Serving
  progress: Progress
  cause: unknown
}

/**
 * The way back: the failed release is stopped and the one before it started and gated again. Says how that ended
 * instead of throwing, so that a failed return never hides why it was needed.
 */
export async function goBack(agent: Agent, failed: FailedSwitch, change: Change): Promise<ChangeFailed> {
  const { release, serving, cause } = failed
  agent.reserve.giveBack()
  const receipt = await receiptOf(agent, failed, change)
  const what = `${change.kind} ${change.app}: ${release.id} ${PHASES[receipt.phase] ?? 'failed'}: ${receipt.reason}`
  change.step('unhealthy', { release: release.id, message: receipt.reason })
  // With another environment the release that serves may fail, and is still the good one.
  if (release.id !== serving.release) agent.ledger.setState(change.app, release.id, 'failed')
  const lost = await stopFailed(agent, failed, change)
  if (lost !== undefined) return down(receipt, what, `stopping it failed too: ${lost}`)
  await disarm(agent, failed, change)
  if (serving.release === null) {
    agent.ledger.setWanted(change.app, release.id)
    // It was so far that it was current; a boot, and the next start of the agent, would start it.
    if (currentRelease(agent.layout, change.app) === release.id)
      await orWarn(agent, change, 'make nothing current', () => removeTree(agent.layout.currentLink(change.app)))
    return down(receipt, what, 'there is no earlier release to go back to')
  }
  if (await isUntouched(agent, failed, serving.release))
    return untouched({ ...receipt, undone: undoneOf(change, release.id) }, what, serving.release)
  change.step('going-back', { release: serving.release })
  const notBack = await startAgain(agent, serving.release, failed, change)
  if (notBack !== undefined) return down(receipt, what, `going back to ${serving.release} failed too: ${notBack}`)
  change.step('gone-back', { release: serving.release })
  const hint =
    currentRelease(agent.layout, change.app) === serving.release
      ? `${serving.release} serves again; see why with: ${receipt.next[0]}`
      : `${serving.release} serves again, until the agent is started anew: current is ${release.id} still. Make room on the disk, and then: tarmac rollback ${serving.release}`
  const failure = new Failure('deploy_rolled_back', what, { hint, cause })
  return new ChangeFailed(failure, {
    ...receipt,
    running: serving.release,
    undone: [...undoneOf(change, release.id), `${serving.release} was started again and is healthy`],
  })
}

/** Nothing of what served was stopped, and it was not on the way to be: it is current still, with its environment. */
async function isUntouched(
  agent: Agent,
  { release, serving, progress }: FailedSwitch,
  before: ReleaseId,
): Promise<boolean> {
  const { app } = release.manifest
  if (progress.stopped.length > 0 || currentRelease(agent.layout, app) !== before) return false
  return revisionOf(agent.layout, app, before) === serving.envRevision && (await isUp(agent, serving))
}

/** Stopped by a person, or dead: a release that does not run cannot be said to serve on. */
async function isUp({ init }: Agent, { units }: Serving): Promise<boolean> {
  for (const unit of units) {
    const { state } = await init.facts(unit)
    if (state === 'stopped' || state === 'failed' || state === 'gave-up' || state === 'absent') return false
  }
  return units.length > 0
}

/** It failed beside the old release, which never noticed. */
function untouched(receipt: Receipt, what: string, running: ReleaseId): ChangeFailed {
  const failure = new Failure('deploy_failed', what, { hint: `${running} serves on; see why with: ${receipt.next[0]}` })
  return new ChangeFailed(failure, { ...receipt, running })
}

function undoneOf({ kind }: Change, release: ReleaseId): string[] {
  return [kind === 'env' ? 'the environment of before is in force' : `${release} was stopped`]
}

function down(receipt: Receipt, what: string, why: string): ChangeFailed {
  const failure = new Failure('deploy_down', `${what}; ${why}`, {
    hint: 'nothing serves now: push a fix, or tarmac rollback RELEASE',
  })
  return new ChangeFailed(failure, { ...receipt, running: null, undone: [why] })
}

/** A unit that gave up is left as it is: what init says of it (its respawns, its exit) is evidence. */
async function stopFailed({ init }: Agent, { units }: FailedSwitch, change: Change): Promise<string | undefined> {
  try {
    for (const unit of units) {
      const { state } = await init.facts(unit)
      if (state !== 'gave-up' && state !== 'failed' && state !== 'absent') await init.stop(unit)
      change.step('stopped', { release: unit.release, service: unit.service, slot: unit.slot })
    }
    return undefined
  } catch (error) {
    return reasonOf(error)
  }
}

async function disarm(agent: Agent, { units, progress }: FailedSwitch, change: Change): Promise<void> {
  const { init } = agent
  for (const unit of units) await orWarn(agent, change, 'disable what failed', () => init.disable(unit))
  // Nothing is behind a port that was opened for this release alone: callers are refused, not kept waiting.
  for (const service of progress.opened)
    await orWarn(agent, change, 'close what was opened for it', () => init.closePort(service))
}

/** For what must not end the way back: with it undone the release before can serve all the same. */
async function orWarn(agent: Agent, change: Change, what: string, work: () => Promise<void>): Promise<void> {
  try {
    await withReserve(agent.reserve, work)
  } catch (err) {
    agent.log.error({ app: change.app, change: change.id, err }, `on the way back: ${what}`)
    change.step('warning', { message: `${what}: ${reasonOf(err)}` })
  }
}

async function startAgain(
  agent: Agent,
  id: ReleaseId,
  { units, serving }: FailedSwitch,
  change: Change,
): Promise<string | undefined> {
  const { layout, init } = agent
  try {
    const before = readRelease(layout, change.app, id)
    const account = await init.ensureAccount(change.app)
    const slot = serving.slot ?? (units[0]?.slot === 'a' ? 'b' : 'a')
    const env = readEnvironment(layout, change.app, serving.envRevision)
    const old = unitsOf(before, { layout, account, env, slot })
    await withReserve(agent.reserve, async () => {
      // Written again when they are not there: with nothing of it installed there is nothing to start.
      if (serving.units.length < old.length) for (const unit of old) await init.install(unit)
      // Opened for the failed release, it would be answered by init and be taken from one that opens its port by itself.
      for (const unit of old) if (unit.handover === undefined) await init.closePort(unit)
      await openUp(init, old)
      await startUnits(agent, old, change)
    })
    await orWarn(agent, change, `make ${id} current again`, () => makeCurrent(agent, before, old))
    await endOld(agent, { units: old, old: [] }, change)
    return undefined
  } catch (error) {
    return reasonOf(error)
  }
}
