import { lchownSync, lstatSync, mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { Failure } from '../../shared/failure.ts'
import type { AppName, ReleaseId, Slot } from '../../shared/names.ts'
import { parentsOf } from '../../shared/tree.ts'
import type { Account, InitSystem, InstalledUnit, UnitKey, UnitSpec } from '../init/init-system.ts'
import { linkWhole } from '../state/disk.ts'
import type { Layout } from '../state/layout.ts'
import { currentRelease, type Release } from '../state/release-store.ts'
import type { Change } from './change.ts'
import { awaitHealthy, refuseTakenPort } from './gate.ts'
import { unitsOf } from './unit.ts'

export interface Parts {
  layout: Layout
  init: InitSystem
}

/** What serves an app now, as the disk and init say it. */
export interface Serving {
  release: ReleaseId | null
  slot: Slot | null
  units: InstalledUnit[]
}

export async function servingNow({ layout, init }: Parts, app: AppName): Promise<Serving> {
  const release = currentRelease(layout, app)
  const units = (await init.installed(app)).filter((unit) => unit.release === release)
  // Both slots hold the same release after a restart onto itself: the one that a boot would start is the one.
  const slots = new Set(units.map(({ slot }) => slot))
  const slot =
    slots.size > 1
      ? (await init.isEnabled({ ...(units[0] as InstalledUnit), slot: 'b' }))
        ? 'b'
        : 'a'
      : ([...slots][0] ?? null)
  return { release, slot, units: units.filter((unit) => unit.slot === slot) }
}

/** Units of a release written into the idle slot, ready to be started: so far nothing that serves was touched. */
export async function prepareUnits({ layout, init }: Parts, release: Release, serving: Serving): Promise<UnitSpec[]> {
  const { app, shared } = release.manifest
  const account = await init.ensureAccount(app)
  for (const path of shared) makeShared({ layout, app }, path, account)
  const units = unitsOf(release, { layout, account, slot: serving.slot === 'a' ? 'b' : 'a' })
  for (const unit of units) await init.install(unit)
  return units
}

/**
 * A shared directory belongs to the app's user; what lies above it does not, so that the app can replace nothing we
 * use. Only this one inode is given away: nothing below it is ever looked at. What stands in its place is left as it
 * is, a link to another disk too: above it all is the agent's, so that only an admin could have put it there.
 */
function makeShared(of: { layout: Layout; app: AppName }, path: string, { uid, gid }: Account): void {
  const at = of.layout.sharedPath(of.app, path)
  for (const parent of [...parentsOf(path)].reverse()) refuseGivenAway(of.layout.sharedPath(of.app, parent))
  if (lstatSync(at, { throwIfNoEntry: false }) !== undefined) return
  mkdirSync(dirname(at), { recursive: true, mode: 0o755 })
  mkdirSync(at, { mode: 0o750 })
  if (uid !== undefined && gid !== undefined) lchownSync(at, uid, gid)
}

/**
 * A release that shares `data/x` after one that shared `data` would have us make `x` where the app may put a link to
 * /etc, and give it away there. Throws `path_refused`.
 */
function refuseGivenAway(dir: string): void {
  const stats = lstatSync(dir, { throwIfNoEntry: false })
  if (stats === undefined || (stats.isDirectory() && stats.uid === process.getuid?.())) return
  throw new Failure('path_refused', `share ${JSON.stringify(dir)}: it is no directory of the agent's own`, {
    hint: 'an app can put a link into a directory that was shared before: share that one itself',
  })
}

/** Stops what serves, starts the new units and waits until each is healthy. All services are one transaction. */
export async function replaceUnits(
  { init }: Parts,
  units: UnitSpec[],
  old: readonly UnitKey[],
  change: Change,
): Promise<void> {
  if (old.length > 0) change.gapBegins()
  for (const unit of old) {
    await init.stop(unit)
    change.step('stopped', { service: unit.service, slot: unit.slot })
  }
  await startUnits({ init }, units, change)
}

/** Starts units and waits until each is healthy. Throws NotHealthy, or the Failure of a unit that cannot be started. */
export async function startUnits(
  { init }: Pick<Parts, 'init'>,
  units: readonly UnitSpec[],
  change: Change,
): Promise<void> {
  for (const unit of units) await refuseTakenPort(init, unit, unit.spec)
  for (const unit of units) {
    await init.start(unit)
    change.step('started', { release: unit.release, service: unit.service, slot: unit.slot })
  }
  for (const unit of units) {
    await awaitHealthy(init, unit, unit.spec)
    change.step('healthy', { release: unit.release, service: unit.service, slot: unit.slot })
  }
  change.gapEnds()
}

/** Makes a healthy release the one that serves: `current`, and what a boot starts. */
export async function makeCurrent(
  { layout, init }: Parts,
  release: Release,
  units: readonly UnitSpec[],
): Promise<void> {
  const { app } = release.manifest
  await linkWhole(layout.currentLink(app), `releases/${release.id}`)
  for (const unit of units) await init.enable(unit)
  for (const other of await init.installed(app)) {
    if (units.some((unit) => isSame(unit, other))) continue
    await init.disable(other)
    if (!units.some(({ service }) => service === other.service)) await init.remove(other)
  }
}

function isSame(a: UnitKey, b: UnitKey): boolean {
  return a.app === b.app && a.service === b.service && a.slot === b.slot
}
