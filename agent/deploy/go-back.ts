import { Failure, reasonOf } from '../../shared/failure.ts'
import type { ReleaseId, ServiceName } from '../../shared/names.ts'
import type { Receipt } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import type { UnitFacts, UnitKey, UnitSpec } from '../init/init-system.ts'
import { readEnvironment } from '../state/env-revisions.ts'
import { type Release, readRelease } from '../state/release-store.ts'
import { troubleWords } from '../state/trouble.ts'
import { type Change, ChangeFailed } from './change.ts'
import { NotHealthy } from './gate.ts'
import { endOld, makeCurrent, openUp, type Progress, type Serving, startUnits } from './switch.ts'
import { unitsOf } from './unit.ts'

/** As many lines as fit one screen beside the rest of the receipt. */
const OUTPUT_LINES = 40
/** Longer than a line of any stack. An app that ends with megabytes on one line must not make a receipt of megabytes. */
const OUTPUT_LINE_CHARS = 2_000
/** The journal lags behind the exit by up to half a second (measured on systemd 255). */
const OUTPUT_LAG_MS = 600

/** "Address already in use" is all that such a program says, and nothing in it names the line of tarmac.toml. */
const INHERITED_HINT =
  'switch = "slots": a command that does not begin with node must take its socket from systemd (LISTEN_FDS); if it cannot: "restart"'

/** It was switched to and is healthy, but callers noticed: more than was allowed. */
export class GapTooLong extends Error {}

/** Throws GapTooLong when there was a gap, and the push said how long one may be. */
export function refuseGap({ gap, maxGapMs }: Change): void {
  if (gap === null || maxGapMs === undefined || gap.ms <= maxGapMs) return
  throw new GapTooLong(`its switch had a gap of ${gap.ms} ms, and ${maxGapMs} ms were allowed`)
}

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
    return down(receipt, what, 'there is no earlier release to go back to')
  }
  const isUntouched = failed.progress.stopped.length === 0 && (await isUp(agent, serving))
  if (isUntouched) return untouched({ ...receipt, undone: undoneOf(change, release.id) }, what, serving.release)
  change.step('going-back', { release: serving.release })
  const notBack = await startAgain(agent, serving.release, failed, change)
  if (notBack !== undefined) return down(receipt, what, `going back to ${serving.release} failed too: ${notBack}`)
  change.step('gone-back', { release: serving.release })
  const failure = new Failure('deploy_rolled_back', what, {
    hint: `${serving.release} serves again; see why with: ${receipt.next[0]}`,
    cause,
  })
  return new ChangeFailed(failure, {
    ...receipt,
    running: serving.release,
    undone: [...undoneOf(change, release.id), `${serving.release} was started again and is healthy`],
  })
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
  const { init, reserve } = agent
  // Another program may have filled the disk since the way back began.
  reserve.giveBack()
  for (const unit of units) await orWarn(agent, change, 'disable what failed', () => init.disable(unit))
  // Nothing is behind a port that was opened for this release alone: callers are refused, not kept waiting.
  for (const service of progress.opened)
    await orWarn(agent, change, 'close what was opened for it', () => init.closePort(service))
}

/** For what must not end the way back: with it undone the release before can serve all the same. */
async function orWarn({ log }: Agent, change: Change, what: string, work: () => Promise<void>): Promise<void> {
  try {
    await work()
  } catch (err) {
    log.error({ app: change.app, change: change.id, err }, `on the way back: ${what}`)
    change.step('warning', { message: `${what}: ${reasonOf(err)}` })
  }
}

async function startAgain(
  agent: Agent,
  id: ReleaseId,
  { units, serving }: FailedSwitch,
  change: Change,
): Promise<string | undefined> {
  try {
    const before = readRelease(agent.layout, change.app, id)
    const account = await agent.init.ensureAccount(change.app)
    const slot = serving.slot ?? (units[0]?.slot === 'a' ? 'b' : 'a')
    const env = readEnvironment(agent.layout, change.app, serving.envRevision)
    const old = unitsOf(before, { layout: agent.layout, account, env, slot })
    // Written again when they are not there: with nothing of it installed there is nothing to start.
    if (serving.units.length < old.length) for (const unit of old) await agent.init.install(unit)
    // Opened for the failed release, it would be answered by init and be taken from one that opens its port by itself.
    for (const unit of old) if (unit.handover === undefined) await agent.init.closePort(unit)
    await openUp(agent.init, old)
    await startUnits(agent, old, change)
    await orWarn(agent, change, `make ${id} current again`, () => makeCurrent(agent, before, old))
    await endOld(agent, { units: old, old: [] }, change)
    return undefined
  } catch (error) {
    return reasonOf(error)
  }
}

export async function receiptOf(
  agent: Agent,
  { release, units, cause }: Pick<FailedSwitch, 'release' | 'units' | 'cause'>,
  change: Pick<Change, 'app' | 'kind' | 'phase'>,
): Promise<Receipt> {
  const sick: UnitKey | undefined =
    cause instanceof NotHealthy ? cause.unit : units.find(({ service }) => reasonOf(cause).includes(service))
  const service: ServiceName | null = sick?.service ?? null
  const facts: UnitFacts | undefined = cause instanceof NotHealthy ? cause.facts : undefined
  const exit = facts?.lastExit ?? null
  const how =
    exit === null
      ? ''
      : ` (${exit.oom ? 'out of memory' : exit.signal === null ? `exit code ${exit.code}` : `signal ${exit.signal}`})`
  return {
    app: change.app,
    release: release.id,
    service,
    // After all were healthy only making it current was left to do.
    phase:
      cause instanceof GapTooLong
        ? 'gap'
        : cause instanceof NotHealthy
          ? 'gate'
          : change.phase === 'healthy'
            ? 'switch'
            : 'start',
    reason: `${service === null ? '' : `${service} `}${troubleWords(cause, agent.layout.root)}${how}`,
    exit,
    respawns: facts?.respawns ?? null,
    output: await outputOf(agent, release, service),
    running: null,
    undone: [],
    next: [
      `tarmac logs${service === null ? '' : ` ${service}`} --release ${release.id}`,
      ...(units.find((unit) => unit.service === service)?.handover?.style === 'inherited' ? [INHERITED_HINT] : []),
      ...(cause instanceof Failure && cause.hint !== undefined ? [cause.hint] : []),
      'tarmac status',
      change.kind === 'env' ? 'set it again: tarmac env set' : 'fix it and push again: tarmac push',
    ],
  }
}

async function outputOf({ init }: Agent, release: Release, service: ServiceName | null): Promise<string[]> {
  const lines: string[] = []
  try {
    await new Promise((resolve) => setTimeout(resolve, OUTPUT_LAG_MS))
    const query = {
      app: release.manifest.app,
      release: release.id,
      lines: OUTPUT_LINES,
      ...(service === null ? {} : { service }),
    }
    for await (const line of init.logs(query, AbortSignal.timeout(5_000))) lines.push(clipped(line.message))
  } catch (error) {
    // The receipt is worth having without its output; what went wrong reading it stands in its place.
    lines.push(`(its output could not be read: ${reasonOf(error)})`)
  }
  return lines
}

function clipped(text: string): string {
  return text.length > OUTPUT_LINE_CHARS ? `${text.slice(0, OUTPUT_LINE_CHARS).toWellFormed()}…` : text
}
