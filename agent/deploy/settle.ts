import type { AppName } from '../../shared/names.ts'
import type { InstalledUnit, UnitKey, UnitSpec } from '../init/init-system.ts'
import { environmentOfRelease } from '../state/env-revisions.ts'
import { readHead } from '../state/release-store.ts'
import type { Change } from './change.ts'
import { openUp, type Parts, type Serving, servingNow, startUnits } from './switch.ts'
import { unitsOf } from './unit.ts'

/** Who hears what is started here; nobody, when it belongs to no change. */
type Told = Pick<Change, 'step' | 'gapEnds'>
const NOBODY: Told = { step() {}, gapEnds() {} }

/**
 * Whatever is there, afterwards the units of `current` are the only ones of the app, enabled and healthy, or all of them
 * stopped and disabled when that was asked for. Units that serve already are not touched. Throws what keeps them from
 * being healthy, with the rest in order nevertheless.
 */
export async function settle(agent: Parts, app: AppName, to: 'running' | 'stopped', told = NOBODY): Promise<void> {
  const { init } = agent
  const { units, others } = await unitsNow(agent, app)
  try {
    // One that opens its port by itself must find it free.
    for (const other of others) if (!isHandedOver(units, other)) await init.stop(other)
    if (to === 'running') {
      await openUp(init, units)
      await startUnits(agent, units, told)
    }
  } finally {
    for (const unit of units) {
      if ((await init.isEnabled(unit)) === (to === 'running')) continue
      await (to === 'running' ? init.enable(unit) : init.disable(unit))
    }
    for (const other of others) await init.remove(other)
    if (to === 'stopped') for (const unit of units) await init.stop(unit)
    for (const port of await init.openPorts(app)) {
      if (to === 'stopped' || !isHandedOver(units, port)) await init.closePort(port)
    }
    await init.refresh()
  }
}

/** Whether units are about that `current` does not need: enabled, or with a process. */
export async function hasStrays(agent: Parts, app: AppName): Promise<boolean> {
  const serving = await servingNow(agent, app)
  for (const unit of await agent.init.installed(app)) {
    if (serving.units.some((one) => isSame(one, unit))) continue
    const { state, pid } = await agent.init.facts(unit)
    // One that is stopping was told so, and has a connection or two to end.
    if ((pid !== undefined && state !== 'stopping') || (await agent.init.isEnabled(unit))) return true
  }
  return false
}

async function unitsNow(agent: Parts, app: AppName): Promise<{ units: UnitSpec[]; others: InstalledUnit[] }> {
  const { init } = agent
  const serving = await servingNow(agent, app)
  const installed = await init.installed(app)
  const units = await unitsServing(agent, { app, serving, installed })
  if (serving.units.length < units.length) for (const unit of units) await init.install(unit)
  return { units, others: installed.filter((other) => !units.some((unit) => isSame(unit, other))) }
}

async function unitsServing(
  { layout, init }: Parts,
  { app, serving, installed }: { app: AppName; serving: Serving; installed: readonly UnitKey[] },
): Promise<UnitSpec[]> {
  if (serving.release === null) return []
  const free = installed.some(({ slot }) => slot === 'a') ? 'b' : 'a'
  const account = await init.ensureAccount(app)
  const env = environmentOfRelease(layout, app, serving.release)
  const release = { id: serving.release, manifest: readHead(layout, app, serving.release) }
  return unitsOf(release, { layout, account, env, slot: serving.slot ?? free })
}

function isHandedOver(units: readonly UnitSpec[], { service }: { service: string }): boolean {
  return units.some((unit) => unit.service === service && unit.handover !== undefined)
}

function isSame(a: UnitKey, b: UnitKey): boolean {
  return a.service === b.service && a.slot === b.slot
}
