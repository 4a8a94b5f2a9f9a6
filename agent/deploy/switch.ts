import { setTimeout as sleep } from 'node:timers/promises'
import { reasonOf } from '../../shared/failure.ts'
import type { AppName, ReleaseId, Slot } from '../../shared/names.ts'
import type { InitSystem, InstalledUnit, ServiceKey, UnitKey, UnitSpec } from '../init/init-system.ts'
import type { Log } from '../log.ts'
import { linkWhole } from '../state/disk.ts'
import { bindRevision, type Environment, revisionOf } from '../state/env-revisions.ts'
import type { Layout } from '../state/layout.ts'
import { currentRelease, type Release, readHead } from '../state/release-store.ts'
import type { Change } from './change.ts'
import { order } from './control-socket.ts'
import { awaitHealthy, refuseTakenPort } from './gate.ts'
import { rehearse } from './rehearse.ts'
import { makeShared } from './shared-dirs.ts'
import { isHanded, planSwitch } from './switch-plan.ts'
import type { ProbeTarget } from './switch-probe.ts'
import { servicesOf, unitsOf } from './unit.ts'

/**
 * The linger of our preload and a second more: by then whoever asks again is answered by the new release. A download
 * or a WebSocket that takes longer is not waited for.
 */
const DRAIN_WATCH_MS = 7_000

export interface Parts {
  layout: Layout
  init: InitSystem
}

/** What serves an app now, as the disk and init say it. */
export interface Serving {
  release: ReleaseId | null
  /** Of the environment it runs with. */
  envRevision: number
  slot: Slot | null
  units: InstalledUnit[]
}

/** What is to serve: a release, and the whole environment it gets. */
export interface Outfit {
  release: Release
  env: Environment
}

export async function servingNow({ layout, init }: Parts, app: AppName): Promise<Serving> {
  const release = currentRelease(layout, app)
  const envRevision = release === null ? 0 : revisionOf(layout, app, release)
  const units = (await init.installed(app)).filter(
    (unit) => unit.release === release && unit.envRevision === envRevision,
  )
  // Both slots hold the same after a rollback onto itself: the one that a boot would start is the one.
  const slots = new Set(units.map(({ slot }) => slot))
  const slot =
    slots.size > 1
      ? (await init.isEnabled({ ...(units[0] as InstalledUnit), slot: 'b' }))
        ? 'b'
        : 'a'
      : ([...slots][0] ?? null)
  return { release, envRevision, slot, units: units.filter((unit) => unit.slot === slot) }
}

/** A person stopped it, and a boot would not start it either. */
export async function isStopped({ init }: Pick<Parts, 'init'>, app: AppName): Promise<boolean> {
  // All of them: in the middle of a switch the old ones are enabled still, or the new ones already.
  const enabled = await Promise.all((await init.installed(app)).map((unit) => init.isEnabled(unit)))
  return enabled.length > 0 && !enabled.includes(true)
}

/** The environment that `start` will find: nothing is started, as whoever stopped the app wants nothing started. */
export async function prepareStopped(parts: Parts, outfit: Outfit): Promise<void> {
  const { release, env } = outfit
  const { app } = release.manifest
  await prepareUnits(parts, outfit, await servingNow(parts, app))
  await bindRevision(parts.layout, app, release.id, env.revision)
}

/** What answers now and will go on answering at the same port: where a switch can be noticed. */
export function probeTargets({ layout }: Parts, serving: Serving, { manifest }: Release): ProbeTarget[] {
  if (serving.release === null) return []
  const before = readHead(layout, manifest.app, serving.release).services
  return servicesOf(manifest).flatMap(([service, { port, health }]) => {
    const old = before[service]
    if (port === undefined || old?.port !== port) return []
    return [{ port, path: old.health.path === health.path ? health.path : undefined }]
  })
}

/** Units of a release written into the idle slot, ready to be started: so far nothing that serves was touched. */
export async function prepareUnits(
  { layout, init }: Parts,
  { release, env }: Outfit,
  serving: Serving,
): Promise<UnitSpec[]> {
  const { app, shared } = release.manifest
  const account = await init.ensureAccount(app)
  for (const path of shared) makeShared({ layout, app }, path, account)
  const units = unitsOf(release, { layout, account, env, slot: serving.slot === 'a' ? 'b' : 'a' })
  for (const unit of units) {
    // What the last change left there may still have a connection or two to end.
    await init.stop(unit)
    await init.install(unit)
  }
  return units
}

/** How far a switch has come: what it must undo when it fails. */
export interface Progress {
  /** Units that served and were stopped. */
  stopped: UnitKey[]
  /** Services whose port was opened for this release, and for none before. */
  opened: ServiceKey[]
}

/**
 * Puts the new units in the place of the old ones; all services are one transaction. Those that can are started beside
 * the old ones, and nobody notices until all have passed their gate; of the others the old one is stopped first. When
 * this returns the new ones take every connection; old ones that still run are left to `endOld`.
 */
export async function replaceUnits(
  { init }: Pick<Parts, 'init'>,
  { units, old, progress }: { units: UnitSpec[]; old: readonly UnitKey[]; progress: Progress },
  change: Change,
): Promise<void> {
  const { beside, alone, inTheWay } = planSwitch(units, old, await init.openPorts(change.app))
  const handed = beside.filter(isHanded)
  for (const unit of handed) {
    if (!old.some(({ service }) => service === unit.service)) progress.opened.push(unit)
    await init.openPort({ ...unit, port: unit.handover.port })
    await init.hold(unit)
  }
  const second = beside.filter(({ service }) => old.some((unit) => unit.service === service))
  for (const unit of second.filter(isHanded)) {
    if (unit.handover.style === 'inherited') await rehearse(init, unit, change)
  }
  await startUnits({ init }, beside, change, { second })
  if (inTheWay.some(({ service }) => units.some((unit) => unit.service === service && unit.spec.port))) {
    change.gapBegins()
  }
  for (const unit of inTheWay) {
    progress.stopped.push(unit)
    await stopOld(init, unit, change)
    await init.closePort(unit)
  }
  await openUp(init, alone)
  await startUnits({ init }, alone, change)
  for (const unit of handed) {
    await init.unhold(unit)
    if (unit.handover.style === 'preload') await order(init.privateSockets(unit).control, 'activate')
  }
}

/**
 * The old ones take no connection any more and linger until theirs have ended. The change waits for that a while,
 * and the next one of the app to its end (`prepareUnits`). What nothing belongs to any longer is cleared away. That one of them
 * does not end, or cannot be cleared, takes nothing from what serves: it is a warning.
 */
export async function endOld(
  { init, log }: Pick<Parts, 'init'> & { log: Log },
  { units, old }: { units: readonly UnitSpec[]; old: readonly UnitKey[] },
  change: Change,
): Promise<void> {
  const warn = (err: unknown) => {
    log.error({ app: change.app, change: change.id, err }, 'what served before could not be ended')
    return reasonOf(err)
  }
  const ends = old.map(async (unit) => ({ unit, trouble: await init.stop(unit).then(() => undefined, warn) }))
  const watched = sleep(DRAIN_WATCH_MS, undefined, { ref: false })
  for (const [index, unit] of old.entries()) {
    // A gap that is not allowed is looked for to the end.
    const end = await (change.maxGapMs === undefined ? Promise.race([ends[index], watched]) : ends[index])
    const { service, slot } = unit
    if (end === undefined) change.step('draining', { service, slot })
    else if (end.trouble === undefined) change.step('stopped', { service, slot })
    else change.step('warning', { service, slot, message: `end what served before: ${end.trouble}` })
  }
  await clearUnused(init, change.app, units).catch((err: unknown) =>
    change.step('warning', { message: `clear away what nothing uses: ${warn(err)}` }),
  )
}

/** Units of services that the release does not have, and ports that it takes from nobody. */
export async function clearUnused(init: InitSystem, app: AppName, units: readonly UnitSpec[]): Promise<void> {
  for (const other of await init.installed(app)) {
    if (!units.some(({ service }) => service === other.service)) await init.remove(other)
  }
  for (const port of await init.openPorts(app)) {
    if (!units.some(({ service, handover }) => service === port.service && handover)) await init.closePort(port)
  }
}

async function stopOld(init: InitSystem, unit: UnitKey, change: Change): Promise<void> {
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

/**
 * Starts units and waits until each is healthy; `second` are those beside which an old one serves. Throws NotHealthy, or
 * the Failure of a unit that cannot be started.
 */
export async function startUnits(
  { init }: Pick<Parts, 'init'>,
  units: readonly UnitSpec[],
  change: Pick<Change, 'step' | 'gapEnds'>,
  { second = [] }: { second?: readonly UnitSpec[] } = {},
): Promise<void> {
  for (const unit of units) await refuseTakenPort(init, unit, unit.spec)
  for (const unit of units) {
    await init.start(unit)
    change.step('started', { release: unit.release, service: unit.service, slot: unit.slot })
  }
  for (const unit of units) {
    await awaitHealthy(init, unit, unit.spec, { beside: second.includes(unit) })
    change.step('healthy', { release: unit.release, service: unit.service, slot: unit.slot })
  }
  change.gapEnds()
}

/** Makes a healthy release the one that serves: its environment, `current`, and what a boot starts. */
export async function makeCurrent(
  { layout, init }: Parts,
  release: Release,
  units: readonly UnitSpec[],
): Promise<void> {
  const { app } = release.manifest
  // Before `current`: whichever of the two a kill leaves last, what it names ran healthy.
  await bindRevision(layout, app, release.id, units[0]?.envRevision ?? 0)
  await linkWhole(layout.currentLink(app), `releases/${release.id}`)
  for (const unit of units) await init.enable(unit)
  for (const other of await init.installed(app)) {
    if (!units.some((unit) => isSame(unit, other))) await init.disable(other)
  }
  await init.refresh()
}

function isSame(a: UnitKey, b: UnitKey): boolean {
  return a.app === b.app && a.service === b.service && a.slot === b.slot
}
