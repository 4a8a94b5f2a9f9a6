import { reasonOf } from '../../shared/failure.ts'
import type { AppName, ReleaseId } from '../../shared/names.ts'
import type { ChangeKind, Receipt } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import { removeTree } from '../state/disk.ts'
import { makeAppDirs } from '../state/objects.ts'
import { appsOn, currentRelease, readRelease } from '../state/release-store.ts'
import { makeCurrent, openUp, servingNow } from './switch.ts'
import { unitsOf } from './unit.ts'

/**
 * Run once before listening: what a killed agent left half done is undone, and every change that was open is closed
 * in the record. An app in whose change the agent was killed goes back to what `current` says; the others, and their
 * processes, are not touched. What one app makes impossible is told in the log and in its record: an agent that does
 * not listen could not be asked about any of them.
 */
export async function recover(agent: Agent): Promise<void> {
  const { ledger, layout, log } = agent
  for (const app of appsOn(layout)) {
    await removeTree(layout.stagingDir(app))
    makeAppDirs(layout, app)
  }
  for (const { id, app, kind, to } of ledger.openDeploys()) {
    log.warn({ app, change: id }, 'the agent was stopped in the middle of this change')
    let trouble: string | undefined
    try {
      await backToCurrent(agent, app)
    } catch (err) {
      trouble = reasonOf(err)
      log.error({ app, change: id, err }, 'the app could not be brought back to its current release')
    }
    ledger.closeDeploy(id, {
      to,
      result: 'interrupted',
      code: null,
      seconds: null,
      gapMs: null,
      steps: [],
      receipt: settled(agent, { app, kind, to, trouble }),
      at: new Date().toISOString(),
    })
  }
}

/** `current` moves only to what passed its gate: a change that got so far is finished, any other is undone. */
function settled(
  { ledger, layout }: Agent,
  { app, kind, to, trouble }: { app: AppName; kind: ChangeKind; to: ReleaseId | null; trouble: string | undefined },
): Receipt {
  const current = currentRelease(layout, app)
  const isFinished = to !== null && to === current
  if (isFinished) {
    ledger.setState(app, to, 'healthy')
    if (kind !== 'auto-rollback') ledger.setWanted(app, to)
  } else if (to !== null) {
    // The agent goes back to what was good, and nothing was seen of it that says otherwise: it may be tried again.
    ledger.setState(app, to, kind === 'auto-rollback' ? 'healthy' : 'failed')
  }
  return {
    app,
    release: to,
    service: null,
    phase: 'interrupted',
    reason: trouble ?? 'the agent was stopped in the middle of it',
    exit: null,
    respawns: null,
    output: [],
    running: trouble === undefined ? current : null,
    undone: isFinished || to === null ? [] : [`${to} was stopped`],
    next: ['tarmac status', ...(isFinished ? [] : ['push it again: tarmac push'])],
  }
}

async function backToCurrent(agent: Agent, app: AppName): Promise<void> {
  const { layout, init } = agent
  const serving = await servingNow(agent, app)
  for (const unit of await init.installed(app)) {
    if (!serving.units.some(({ service, slot }) => service === unit.service && slot === unit.slot))
      await init.stop(unit)
  }
  if (serving.release === null || serving.slot === null) return
  const release = readRelease(layout, app, serving.release)
  const units = unitsOf(release, { layout, account: await init.ensureAccount(app), slot: serving.slot })
  await openUp(init, units)
  for (const unit of units) {
    if ((await init.facts(unit)).state !== 'running') await init.start(unit)
  }
  await makeCurrent(agent, release, units)
}
