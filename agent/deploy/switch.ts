import { lchownSync, lstatSync, mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { Failure } from '../../shared/failure.ts'
import type { AppName, ReleaseId, Slot } from '../../shared/names.ts'
import { parentsOf } from '../../shared/tree.ts'
import type { Account, InitSystem, InstalledUnit, ServiceKey, UnitKey, UnitSpec } from '../init/init-system.ts'
import { linkWhole } from '../state/disk.ts'
import type { Layout } from '../state/layout.ts'
import { currentRelease, type Release } from '../state/release-store.ts'
import type { Change } from './change.ts'
import { order } from './control-socket.ts'
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

/** How far a switch has come: what it must undo when it fails. */
export interface Progress {
  /** Units that served and were stopped. */
  stopped: UnitKey[]
  /** Services whose port was opened for this release, and for none before. */
  opened: ServiceKey[]
}

/**
 * Puts the new units in the place of the old ones; all services are one transaction. Those that hand traffic over are
 * started beside the old ones, and nobody notices until all have passed their gate; the others are stopped and started.
 */
export async function replaceUnits(
  { init }: Parts,
  { units, old, progress }: { units: UnitSpec[]; old: readonly UnitKey[]; progress: Progress },
  change: Change,
): Promise<void> {
  const [beside, alone] = await sortUnits(init, units, old)
  for (const unit of beside) {
    if (!old.some(({ service }) => service === unit.service)) progress.opened.push(unit)
    await init.openPort({ ...unit, port: unit.handover.port })
    await init.hold(unit)
  }
  await startUnits({ init }, beside, change)
  const inTheWay = old.filter(({ service }) => !beside.some((unit) => unit.service === service))
  if (inTheWay.length > 0) change.gapBegins()
  for (const unit of inTheWay) {
    await stopOld(init, unit, progress, change)
    await init.closePort(unit)
  }
  await openUp(init, alone)
  await startUnits({ init }, alone, change)
  for (const unit of beside) {
    await init.unhold(unit)
    if (unit.handover.style === 'preload') await order(init.privateSockets(unit).control, 'activate')
  }
  // The new ones take every connection by now. The old ones linger until theirs have ended.
  for (const unit of old) if (!inTheWay.includes(unit)) await stopOld(init, unit, progress, change)
}

type Handed = UnitSpec & { handover: NonNullable<UnitSpec['handover']> }

/** Beside the old one can start what is handed a port that is open, or that nobody has yet. */
async function sortUnits(
  init: InitSystem,
  units: UnitSpec[],
  old: readonly UnitKey[],
): Promise<[Handed[], UnitSpec[]]> {
  const beside: Handed[] = []
  const alone: UnitSpec[] = []
  for (const unit of units) {
    const { handover } = unit
    const open = (await init.openPorts(unit.app)).find(({ service }) => service === unit.service)
    const isFirst = !old.some(({ service }) => service === unit.service)
    if (handover && (isFirst || open?.port === handover.port)) beside.push({ ...unit, handover })
    else alone.push(unit)
  }
  return [beside, alone]
}

async function stopOld(init: InitSystem, unit: UnitKey, progress: Progress, change: Change): Promise<void> {
  progress.stopped.push(unit)
  await init.stop(unit)
  change.step('stopped', { service: unit.service, slot: unit.slot })
}

/** Readies units that start with nobody beside them: their ports are open, and they take connections at once. */
export async function openUp(init: InitSystem, units: readonly UnitSpec[]): Promise<void> {
  for (const unit of units) {
    if (unit.handover === undefined) continue
    await init.openPort({ ...unit, port: unit.handover.port })
    await init.unhold(unit)
  }
}

/** Starts units and waits until each is healthy. Throws NotHealthy, or the Failure of a unit that cannot be started. */
export async function startUnits(
  { init }: Pick<Parts, 'init'>,
  units: readonly UnitSpec[],
  change: Pick<Change, 'step' | 'gapEnds'>,
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
  await init.refresh()
  for (const port of await init.openPorts(app)) {
    if (!units.some(({ service, handover }) => service === port.service && handover)) await init.closePort(port)
  }
}

function isSame(a: UnitKey, b: UnitKey): boolean {
  return a.app === b.app && a.service === b.service && a.slot === b.slot
}
