import { readdirSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure } from '../../shared/failure.ts'
import { run } from '../run.ts'
import { writeWhole } from '../state/disk.ts'
import { removeTemporaries, removeTree } from '../state/remove.ts'
import { ensureAccount } from './accounts.ts'
import { type InitSystem, type LogQuery, NO_UNIT, type UnitKey, type UnitSpec } from './init-system.ts'
import { readJournal } from './journal.ts'
import { exitsInJournal } from './journal-exits.ts'
import { journalLimit } from './journal-limit.ts'
import { connectSystemd, type Properties, type SystemdBus } from './systemd-bus.ts'
import { envText } from './systemd-escape.ts'
import { createExits } from './systemd-exits.ts'
import { factsOf, number, startFailure } from './systemd-facts.ts'
import { installedIn, ownerOf, readIfThere, unitsIn } from './systemd-files.ts'
import { withMemory } from './systemd-memory.ts'
import { privateName, privateSockets, slotSocketText } from './systemd-socket-unit.ts'
import { createPorts } from './systemd-sockets.ts'
import { OLDEST_SYSTEMD, parseUnitName, type UnitOwner, unitName, unitOwner, unitText } from './systemd-unit.ts'

/** Most take 10 ms; a daemon-reload on a host with a thousand units takes a second, on a swapping one many. */
const SYSTEMCTL_TIMEOUT_MS = 60_000
/** systemd's own DefaultTimeoutStartSec is 90 s; after it the start has failed. */
const START_TIMEOUT_MS = 100_000
/** What a stop may take beyond TimeoutStopSec: SIGKILL, and the same time once more if a process resists that. */
const STOP_MARGIN_MS = 30_000
/** `systemctl reset-failed` and `disable` of a unit that is not loaded, or not there: nothing to do. */
const OK_OR_NOTHING_TO_DO = [0, 1]
/** How often, 20 ms apart, to ask why a start failed: between two attempts systemd knows of no exit. */
const REASON_TRIES = 10
const REASON_WAIT_MS = 20

/** Throws `init_unsupported` when there is no systemd, or one older than 249. */
export async function createSystemd({
  unitDir = '/etc/systemd/system',
}: {
  unitDir?: string
} = {}): Promise<InitSystem> {
  const exits = createExits((unit) => ownerOf(unitDir, unit))
  const bus = await connectSystemd({
    onChange: (unit, changed) => {
      if (parseUnitName(unit) !== undefined) exits.changed(unit, changed)
    },
    onGap: () => void forEachUnit(exits.catchUp),
  })
  /** Fails only when the bus is gone again, and then its return comes here again. */
  const forEachUnit = async (each: (unit: string, properties: Properties) => void) => {
    for (const unit of unitsIn(unitDir)) {
      const properties = await bus.properties(unit).catch(() => undefined)
      if (properties !== undefined) each(unit, properties)
    }
  }
  if (!(bus.version >= OLDEST_SYSTEMD)) {
    await bus.close()
    throw new Failure(
      'init_unsupported',
      `use systemd ${bus.version}: tarmac needs ${OLDEST_SYSTEMD} or newer (Ubuntu 22.04)`,
    )
  }
  await removeTemporaries(unitDir, 'tarmac-')
  await forEachUnit(exits.seed)
  const ports = createPorts({ unitDir, systemctl })
  const slots = createSlots({ unitDir, bus, expectStop: exits.expectStop, forget: exits.forget })
  return {
    name: 'systemd',
    ensureAccount,
    ...slots,
    openPort: ports.openPort,
    closePort: ports.closePort,
    refusePort: ports.refusePort,
    openPorts: async (app) => ports.openPorts(app, readdirSync(unitDir)),
    privateSockets,
    hold: ports.hold,
    unhold: ports.unhold,
    // Until it reads the files again systemctl status calls a unit by the state that it had before.
    refresh: async () => {
      await systemctl(['daemon-reload'])
    },
    giveUp: async (key) => {
      await ports.noteGivenUp(key, await slots.facts(key))
      await slots.stop(key)
    },
    facts: async (key) => {
      const facts = await slots.facts(key)
      return facts.state === 'stopped' ? (ports.givenUp(key) ?? facts) : facts
    },
    start: async (key) => {
      await ports.forgetGivenUp(key)
      await slots.start(key)
    },
    remove: (key) => slots.remove(key).then(() => ports.forget(key)),
    onExit: exits.listen,
    onGaveUp: exits.listenToFailed,
    exitsSince: (place) => exitsInJournal(unitDir, place),
    logs: (query: LogQuery, signal: AbortSignal) => {
      const services = installedIn(unitDir, query.app).map(({ service }) => service)
      return readJournal(query, { services, signal })
    },
    logLimit: journalLimit,
    // journald has caps of its own and forgets the oldest first.
    forgetRelease: async () => {},
    close: () => bus.close(),
  }
}

interface Parts {
  unitDir: string
  bus: SystemdBus
  expectStop: (unit: string) => void
  forget: (unit: string) => void
}

type Slots = Pick<
  InitSystem,
  'install' | 'start' | 'stop' | 'enable' | 'disable' | 'isEnabled' | 'remove' | 'facts' | 'installed'
>

function createSlots({ unitDir, bus, expectStop, forget }: Parts): Slots {
  const fileOf = (unit: string) => join(unitDir, unit)
  /** Whether the unit is there, and ours: names can be ambiguous, and another app's unit is never touched. */
  const check = (key: UnitKey, verb: string): UnitOwner | undefined => {
    const unit = unitName(key)
    const text = readIfThere(fileOf(unit))
    if (text === undefined) return undefined
    const owner = unitOwner(text)
    if (owner !== undefined && owner.app === key.app && owner.service === key.service) return owner
    const whose =
      owner === undefined ? 'was not written by tarmac' : `belongs to service "${owner.service}" of app "${owner.app}"`
    throw new Failure('app_mismatch', `${verb} ${unit}: ${fileOf(unit)} ${whose}`, {
      hint: 'choose another name for the service',
    })
  }
  const checkThere = (key: UnitKey, verb: string): string => {
    const unit = unitName(key)
    if (check(key, verb) === undefined) throw new Failure('service_unknown', `${verb} ${unit}: there is no such unit`)
    return unit
  }

  async function install(spec: UnitSpec): Promise<void> {
    const unit = unitName(spec)
    const text = unitText(spec, { systemdVersion: bus.version })
    const env = envText(spec.env)
    check(spec, 'install')
    await mkdir(dirname(spec.envFile), { recursive: true, mode: 0o700 })
    // The unit file first, as it goes last: by it all that belongs to the unit is found.
    await writeWhole(fileOf(unit), text, { mode: 0o644 })
    await writeWhole(spec.envFile, env, { mode: 0o600 })
    const socket = spec.handover && slotSocketText(spec, spec.handover)
    if (socket === undefined) await removeTree(fileOf(privateName(spec)))
    else await writeWhole(fileOf(privateName(spec)), socket, { mode: 0o644 })
    await systemctl(['daemon-reload'])
    // daemon-reload answers 0 for a unit it cannot use, too.
    const { LoadState, LoadError } = await bus.properties(unit)
    if (LoadState === 'loaded') return
    await removeTree(fileOf(unit))
    await systemctl(['daemon-reload'])
    const why = Array.isArray(LoadError) ? String(LoadError[1]) : ''
    throw new Failure('command_refused', `install ${unit}: systemd calls the unit "${String(LoadState)}" ${why}`.trim())
  }

  async function start(key: UnitKey): Promise<void> {
    const unit = checkThere(key, 'start')
    await systemctl(['reset-failed', unit], { okExits: OK_OR_NOTHING_TO_DO })
    try {
      await systemctl(['start', unit], { timeoutMs: START_TIMEOUT_MS })
    } catch (cause) {
      if (!(cause instanceof Failure)) throw cause
      const reason = await reasonOfStart(unit)
      // Restart=always would go on trying behind the back of a caller who was told that it failed.
      await stop(key)
      throw new Failure('program_failed', `start ${unit}: ${reason}`, { hint: `systemctl status ${unit}`, cause })
    }
  }

  async function reasonOfStart(unit: string): Promise<string> {
    let properties = await bus.properties(unit)
    for (let tries = 1; tries < REASON_TRIES && number(properties, 'ExecMainCode') === 0; tries++) {
      await sleep(REASON_WAIT_MS)
      properties = await bus.properties(unit)
    }
    return startFailure(properties)
  }

  async function stop(key: UnitKey): Promise<void> {
    const unit = unitName(key)
    check(key, 'stop')
    const before = await bus.properties(unit)
    if (before.ActiveState === 'inactive' || before.ActiveState === 'failed') return
    expectStop(unit)
    const stopMs = number(before, 'TimeoutStopUSec') / 1000
    await systemctl(['stop', unit], { timeoutMs: 2 * stopMs + STOP_MARGIN_MS })
    // An app that answers SIGTERM with exit 1, or had to be killed, leaves the unit "failed": but it was told to stop.
    await systemctl(['reset-failed', unit], { okExits: OK_OR_NOTHING_TO_DO })
  }

  async function remove(key: UnitKey): Promise<void> {
    const unit = unitName(key)
    const owner = check(key, 'remove')
    await stop(key)
    if (owner === undefined) return
    await systemctl(['disable', '--no-reload', '--quiet', unit])
    // The unit file comes last: it alone knows where the env file is.
    if (owner.envFile !== undefined) await removeTree(owner.envFile)
    await removeTree(fileOf(privateName(key)))
    await removeTree(fileOf(unit))
    await systemctl(['daemon-reload'])
    await systemctl(['reset-failed', unit], { okExits: OK_OR_NOTHING_TO_DO })
    forget(unit)
  }

  return {
    install,
    start,
    stop,
    remove,
    // No reload: what a boot starts is read from the disk, by the boot.
    enable: async (key) => {
      await systemctl(['enable', '--no-reload', '--quiet', checkThere(key, 'enable')])
    },
    disable: async (key) => {
      if (check(key, 'disable') === undefined) return
      await systemctl(['disable', '--no-reload', '--quiet', unitName(key)])
    },
    isEnabled: async (key) => {
      if (check(key, 'ask about') === undefined) return false
      const { stdout } = await systemctl(['is-enabled', unitName(key)], { okExits: OK_OR_NOTHING_TO_DO })
      return stdout.trim() === 'enabled'
    },
    facts: async (key) => {
      const unit = unitName(key)
      const owner = ownerOf(unitDir, unit)
      if (owner === undefined || owner.app !== key.app || owner.service !== key.service) return NO_UNIT
      return withMemory(factsOf(await bus.properties(unit)))
    },
    installed: async (app) => installedIn(unitDir, app),
  }
}

function systemctl(args: string[], options: { timeoutMs?: number; okExits?: number[] } = {}) {
  return run(['systemctl', '--no-ask-password', ...args], { timeoutMs: SYSTEMCTL_TIMEOUT_MS, ...options })
}
