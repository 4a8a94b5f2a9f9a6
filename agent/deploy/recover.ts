import { Failure, reasonOf } from '../../shared/failure.ts'
import type { AppName, ReleaseId } from '../../shared/names.ts'
import type { ChangeKind, Receipt } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import { highestRevision, newestRevision, setNewestRevision } from '../state/env-revisions.ts'
import { makeAppDirs } from '../state/objects.ts'
import { appsOn, currentRelease, releasesOn } from '../state/release-store.ts'
import { removeTemporaries, removeTree } from '../state/remove.ts'
import { tidyRefused } from './admit.ts'
import { type Change, changeOf, noteUnproved, runChange, runningNow } from './change.ts'
import type { Operation } from './operations.ts'
import { carryOut, finishRemovals, pruneApp } from './prune.ts'
import { hasStrays, settle } from './settle.ts'
import { isStopped } from './switch.ts'

/** Changes that give a release a new state in the ledger. */
const MOVES: ReadonlySet<ChangeKind> = new Set(['push', 'rollback', 'auto-rollback'])

/** Before listening: what no release and no change needs. Files without their name, and rows of what is gone. */
export async function sweep(agent: Agent): Promise<void> {
  const { layout, ledger, init } = agent
  for (const app of appsOn(layout)) {
    await finishRemovals(agent, app)
    await emptyStaging(agent, app)
    makeAppDirs(layout, app)
    for (const dir of [layout.appDir(app), layout.envDir(app)]) await removeTemporaries(dir)
    const onDisk = new Set(releasesOn(layout, app))
    for (const { id } of ledger.releases(app)) {
      if (onDisk.has(id)) continue
      ledger.setState(app, id, 'pruned')
      await init.forgetRelease(app, id)
    }
    tidyRefused(layout, app)
  }
}

/** What cannot be deleted (an admin made it immutable) is in nobody's way, and no reason not to start. */
async function emptyStaging({ layout, log }: Agent, app: AppName): Promise<void> {
  try {
    await removeTree(layout.stagingDir(app))
  } catch (err) {
    log.error({ app, err }, 'what lies in staging could not be deleted')
  }
}

/**
 * As soon as the agent listens: what a killed agent, or a power cut, left half done is finished or undone, and every
 * change that was open is closed in the record. An app is busy until it is in order. Never rejects: what one app makes
 * impossible is told in the log, and in the record of its change.
 */
export async function recover(agent: Agent): Promise<void> {
  const open = Map.groupBy(agent.ledger.openDeploys(), ({ app }) => app)
  const others = appsOn(agent.layout).filter((app) => !open.has(app))
  await Promise.all([
    ...[...open].map(([app, changes]) =>
      exclusively(agent, app, async (operation) => {
        // More than one only when the end of one could not be written down: what it moved is long settled.
        for (const one of changes) {
          agent.log.warn({ app, change: one.id }, 'the agent was stopped in the middle of this change')
          agent.reserve.giveBack()
          await resolve(agent, changeOf(one, { operation, report: () => {} }, agent.ledger))
        }
      }),
    ),
    ...others.map((app) => removeStrays(agent, app)),
  ])
}

/** A ledger that was lost knows of no change, and yet one may have been cut off. */
async function removeStrays(agent: Agent, app: AppName): Promise<void> {
  try {
    if (agent.operations.of(app) !== undefined || !(await hasStrays(agent, app))) return
    agent.log.warn({ app }, 'there are units that its current release does not need')
    await exclusively(agent, app, () => settle(agent, app, 'running'))
  } catch (err) {
    agent.log.error({ app, err }, 'what runs of the app could not be found out')
  }
}

async function exclusively(agent: Agent, app: AppName, work: (operation: Operation) => Promise<void>): Promise<void> {
  const { operation, end } = agent.operations.begin({ app, kind: 'recovery', who: 'tarmac' })
  try {
    await work(operation)
  } catch (err) {
    agent.log.error({ app, err }, 'the app could not be brought in order')
  } finally {
    end()
  }
}

/**
 * `current` moves only to what passed its gate: a change that got so far is finished, and one that moves no release too,
 * as nothing speaks against what was asked for. Any other is undone: what `current` says serves.
 */
async function resolve(agent: Agent, change: Change): Promise<void> {
  const { app, kind, to } = change
  if (kind === 'prune') return goOnPruning(agent, change)
  const isFinished = cameInForce(agent, change)
  const how = isFinished ? 'going on to its end' : 'going back'
  change.step('warning', { message: `the agent was stopped in the middle of this: ${how}` })
  let trouble: string | undefined
  try {
    const isOff = kind === 'stop' || (kind === 'env' && (await isStopped(agent, app)))
    // What was given up is not started by the agent's own end.
    if (kind !== 'gave-up') await settle(agent, app, isOff ? 'stopped' : 'running', change)
    if (kind === 'env' && isFinished) await setNewestRevision(agent.layout, app, newestRevision(agent.layout, app))
  } catch (err) {
    trouble = reasonOf(err)
    agent.log.error({ app, change: change.id, err }, 'the app could not be brought to its current release')
  }
  if (MOVES.has(kind)) note(agent, change, isFinished)
  if (isFinished) await pruneApp(agent, change)
  if (isFinished && trouble === undefined) {
    change.done({ release: to, previous: change.from })
    agent.changeEnded(change)
    return
  }
  const ended = interruption(change, { isFinished, trouble, running: await runningNow(agent, app) })
  change.interrupted(ended.failure, ended.receipt)
  agent.changeEnded(change, ended)
}

/** It moves no release and no process: what is decided anew of what is there now is what was left to do. */
async function goOnPruning(agent: Agent, change: Change): Promise<void> {
  change.step('warning', { message: 'the agent was stopped in the middle of this: going on to its end' })
  await runChange(agent, change, () => carryOut(agent, change))
}

/** An environment makes its revision before the change of it is opened, and links it when the release is healthy. */
function cameInForce({ layout }: Agent, { app, kind, to }: Change): boolean {
  if (kind === 'env') return newestRevision(layout, app) === highestRevision(layout, app)
  return to !== null && to === currentRelease(layout, app)
}

function note(agent: Agent, { app, kind, from, to }: Change, isFinished: boolean): void {
  const { ledger } = agent
  if (to === null) return
  if (isFinished) {
    ledger.setState(app, to, 'healthy')
    if (kind !== 'auto-rollback') ledger.setWanted(app, to)
    if (kind === 'rollback' && from !== null && from !== to) ledger.setState(app, from, 'bad')
  } else if (kind === 'push') {
    noteUnproved(agent, app, to)
  } else if (kind === 'auto-rollback' && from !== null) {
    // It was marked before the switch; should it still loop, it is left once more.
    ledger.setState(app, from, 'healthy')
  }
}

function undoneOf({ kind, to }: Change): string[] {
  if (kind === 'env') return ['the environment of before is in force']
  return to === null ? [] : [`${to} was stopped`]
}

function interruption(
  change: Change,
  seen: { isFinished: boolean; trouble: string | undefined; running: ReleaseId | null },
): { failure: Failure; receipt: Receipt } {
  const { app, kind, to } = change
  const { isFinished, trouble, running } = seen
  const reason = `the agent was stopped in the middle of it${trouble === undefined ? '' : `, and then: ${trouble}`}`
  const again =
    kind === 'push' ? ['push it again: tarmac push'] : kind === 'env' ? ['set it again: tarmac env set'] : []
  const next = ['tarmac status', ...(isFinished ? [] : again)]
  const code = running === null ? 'deploy_down' : isFinished ? 'deploy_failed' : 'deploy_rolled_back'
  const failure = new Failure(code, `${kind} ${app}: ${reason}`, { hint: next.at(-1) ?? '' })
  return {
    failure,
    receipt: {
      app,
      release: to,
      service: null,
      phase: 'interrupted',
      reason,
      exit: null,
      respawns: null,
      output: [],
      running,
      undone: isFinished ? [] : undoneOf(change),
      next,
    },
  }
}
