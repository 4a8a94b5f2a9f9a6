import type { AppName } from '../../shared/names.ts'
import type { Agent } from '../agent.ts'
import { removeTree } from '../state/disk.ts'
import { appsOn, currentRelease, readRelease } from '../state/release-store.ts'
import { makeCurrent, servingNow } from './switch.ts'
import { unitsOf } from './unit.ts'

/**
 * Run once before listening: what a killed agent left half done is undone, and every change that was open is closed
 * in the record. An app in whose change the agent was killed goes back to what `current` says; the others, and their
 * processes, are not touched.
 */
export async function recover(agent: Agent): Promise<void> {
  const { ledger, layout, log } = agent
  for (const app of appsOn(layout)) await removeTree(layout.stagingDir(app))
  for (const { id, app } of ledger.openDeploys()) {
    log.warn({ app, change: id }, 'the agent was stopped in the middle of this change')
    await backToCurrent(agent, app)
    const at = new Date().toISOString()
    ledger.closeDeploy(id, {
      to: currentRelease(layout, app),
      result: 'interrupted',
      code: null,
      seconds: null,
      gapMs: null,
      steps: [],
      receipt: null,
      at,
    })
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
  for (const unit of units) {
    if ((await init.facts(unit)).state !== 'running') await init.start(unit)
  }
  await makeCurrent(agent, release, units)
}
