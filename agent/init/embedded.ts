import { mkdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import prettyBytes from 'pretty-bytes'
import * as v from 'valibot'
import { Failure, isErrno, reasonOf } from '../../shared/failure.ts'
import type { AppName, ReleaseId } from '../../shared/names.ts'
import type { Log } from '../log.ts'
import { writeWhole } from '../state/disk.ts'
import { ensureAccount } from './accounts.ts'
import { callerAccount } from './embedded-environment.ts'
import { createLogBook, MAX_LOG_BYTES } from './embedded-log.ts'
import { readLogs } from './embedded-log-read.ts'
import { killFamily, leftoverOf, membersOf, stampOf } from './embedded-process.ts'
import { type Records, readEnvironment, recordsAt, writeEnvironment } from './embedded-record.ts'
import { createSockets } from './embedded-sockets.ts'
import { createUnit, type Unit } from './embedded-unit.ts'
import { type InitSystem, NO_UNIT, type UnitExit, type UnitKey } from './init-system.ts'

const claim = v.object({ pid: v.number(), stamp: v.string() })

/**
 * An init system without an init: the agent runs the services as its own children, with systemd's respawn limit, stop
 * and answers. For trials, containers and laptops; Linux and macOS. It differs from systemd in this:
 *
 * - Services end with the agent: `close` stops them, and what an agent that was killed left is ended here, before
 *   anything starts. Then enabled units are started, as a boot would.
 * - There is no sandbox, and memory and task limits are not held.
 * - Without root services run as the caller.
 *
 * `dir` holds records and logs and is for one agent at a time: throws `busy` when a living one has it.
 */
export async function createEmbedded({ dir, log }: { dir: string; log: Log }): Promise<InitSystem> {
  await mkdir(dir, { recursive: true, mode: 0o700 })
  const claimFile = join(dir, 'agent.json')
  await claimDir(claimFile)
  const records = recordsAt(dir)
  await records.sweep()
  await endLeftovers(records, log)

  const book = createLogBook(join(dir, 'logs'), log)
  const sockets = createSockets(join(dir, 'sockets'))
  const units = new Map<string, Unit>()
  const turns = new Map<string, Promise<unknown>>()
  const listeners: ((exit: UnitExit) => void)[] = []
  const ofGivenUp: ((unit: UnitKey) => void)[] = []
  const closing = new AbortController()
  let closed: Promise<void> | undefined

  /** The unit of a record that is there. */
  function unitOf(key: UnitKey): Unit {
    const { app, service, slot } = key
    const file = records.fileOf(key)
    const unit =
      units.get(file) ??
      createUnit({
        name: nameOf(key),
        async read() {
          const { unit } = await recordOf(key)
          return { ...unit, env: await readEnvironment(unit.envFile) }
        },
        noteRun: (run) => records.update(key, (before) => ({ ...known(before, key), run })),
        report: (exit, respawns) => {
          for (const listener of listeners) listener({ app, service, slot, exit, respawns, run: null })
        },
        gaveUp: () => {
          for (const listener of ofGivenUp) listener({ app, service, slot })
        },
        async socketsOf(unit) {
          if (unit.handover === undefined) return undefined
          // After a restart of the agent nobody has opened the port yet.
          if (unit.handover.rehearsalPort === undefined) await sockets.openPort({ ...key, port: unit.handover.port })
          return { inherited: await sockets.inheritedBy(key, unit.handover), isHeld: sockets.isHeld(key) }
        },
        book,
        pipeFile: `${file}.pipe`,
        log,
      })
    units.set(file, unit)
    return unit
  }

  async function recordOf(key: UnitKey) {
    return known(await records.read(key), key)
  }

  /** Two changes of one unit never overlap: a `stop` that came first is done before the `start` after it begins. */
  function inTurn<T>(key: UnitKey, work: () => Promise<T>): Promise<T> {
    const file = records.fileOf(key)
    const turn = (turns.get(file) ?? Promise.resolve()).then(work)
    turns.set(
      file,
      turn.catch(() => {}),
    )
    return turn
  }

  async function start(key: UnitKey): Promise<void> {
    if (closing.signal.aborted) throw new Failure('agent_stopping', `start ${nameOf(key)}: the agent is stopping`)
    await recordOf(key)
    await unitOf(key).start()
  }

  async function shutDown(): Promise<void> {
    closing.abort()
    // After the changes under way, so that no start slips in behind us.
    await Promise.all(turns.values())
    const ends = await Promise.allSettled([...units.values()].map((unit) => unit.stop()))
    listeners.length = 0
    sockets.close()
    await rm(claimFile, { force: true })
    const failed = ends.find((end) => end.status === 'rejected')
    if (failed) throw failed.reason
  }

  /** Nothing is written for what is so already: on a full disk that would fail. */
  const setEnabled = async (key: UnitKey, enabled: boolean) => {
    if ((await recordOf(key)).enabled === enabled) return
    await records.update(key, (before) => ({ ...known(before, key), enabled }))
  }

  for (const key of await records.keys()) {
    if (!(await recordOf(key)).enabled) continue
    // As at a boot: one that does not start is no reason for the others not to.
    await start(key).catch((error: unknown) =>
      log.error({ unit: nameOf(key), reason: reasonOf(error) }, 'start at boot'),
    )
  }

  return {
    name: 'embedded',
    ensureAccount: async (app) => (process.getuid?.() === 0 ? ensureAccount(app) : callerAccount()),
    install: (unit) =>
      inTurn(unit, async () => {
        const { env, ...rest } = unit
        if (unit.spec.limits !== undefined)
          log.warn({ unit: nameOf(unit) }, 'the embedded init holds no memory or task limits')
        // The record first, as it goes last: by it the environment is found.
        await records.update(unit, (before) => ({ enabled: false, ...before, unit: rest }))
        await writeEnvironment(unit.envFile, env)
      }),
    start: (key) => inTurn(key, () => start(key)),
    stop: (key) => inTurn(key, async () => units.get(records.fileOf(key))?.stop()),
    enable: (key) => setEnabled(key, true),
    disable: async (key) => {
      if ((await records.read(key)) !== undefined) await setEnabled(key, false)
    },
    refresh: async () => {},
    isEnabled: async (key) => (await records.read(key))?.enabled ?? false,
    remove: (key) =>
      inTurn(key, async () => {
        await units.get(records.fileOf(key))?.stop()
        units.delete(records.fileOf(key))
        sockets.unhold(key)
        const record = await records.read(key)
        if (record === undefined) return
        await rm(record.unit.envFile, { force: true })
        await records.remove(key)
      }),
    openPort: sockets.openPort,
    closePort: async (service) => sockets.closePort(service),
    refusePort: async (service) => sockets.closePort(service),
    openPorts: async (app) => sockets.openPorts(app),
    privateSockets: sockets.privateSockets,
    hold: async (key) => sockets.hold(key),
    unhold: async (key) => sockets.unhold(key),
    giveUp: (key) => inTurn(key, async () => units.get(records.fileOf(key))?.giveUp()),
    async facts(key) {
      return (await records.read(key)) === undefined ? NO_UNIT : unitOf(key).facts()
    },
    async installed(app) {
      const keys = await records.keysOf(app)
      return Promise.all(
        keys.map(async (key) => {
          const { release, envRevision = 0 } = (await records.read(key))?.unit ?? {}
          return { ...key, release, envRevision }
        }),
      )
    },
    onExit(listener) {
      listeners.push(listener)
    },
    onGaveUp(listener) {
      ofGivenUp.push(listener)
    },
    exitsSince: async () => null,
    logs: (query, signal) => readLogs(book, query, AbortSignal.any([signal, closing.signal])),
    logLimit: async () => ({
      state: 'ok',
      what: `the agent keeps ${prettyBytes(MAX_LOG_BYTES)} of each service of a release`,
      hint: null,
    }),
    forgetRelease: (app: AppName, release: ReleaseId) => book.forget(app, release),
    close() {
      closed ??= shutDown()
      return closed
    },
  }
}

function known<T>(record: T | undefined, key: UnitKey): T {
  if (record === undefined) throw new Failure('service_unknown', `unit ${nameOf(key)}: there is none`)
  return record
}

function nameOf({ app, service, slot }: UnitKey): string {
  return `${app}/${service}@${slot}`
}

/** A second agent on one directory would take the first one's services for leftovers, and end them. */
async function claimDir(claimFile: string): Promise<void> {
  const other = await readFile(claimFile, 'utf8').catch((error: unknown) => {
    if (isErrno(error, 'ENOENT')) return undefined
    throw error
  })
  if (other !== undefined) {
    const { pid, stamp } = v.parse(claim, JSON.parse(other))
    if (pid !== process.pid && (await stampOf(pid)) === stamp) {
      throw new Failure('busy', `open ${claimFile}: the agent with pid ${pid} runs its services there`, {
        hint: `stop that one first: kill ${pid}`,
      })
    }
  }
  const mine = { pid: process.pid, stamp: (await stampOf(process.pid)) ?? '' }
  await writeWhole(claimFile, JSON.stringify(mine), { mode: 0o600 })
}

async function endLeftovers(records: Records, log: Log): Promise<void> {
  for (const key of await records.keys()) {
    const run = (await records.read(key))?.run
    if (run === undefined) continue
    const family = await leftoverOf(run)
    const pids = membersOf(family)
    if (pids.length === 0) continue
    log.warn({ unit: nameOf(key), pids }, 'ending what an agent before this one left running')
    // At once: nobody reads what they say any more, and their ports are about to be needed.
    if (!(await killFamily(family))) {
      throw new Failure(
        'program_failed',
        `end what was left of ${nameOf(key)}: process ${pids.join(', ')} outlived SIGKILL`,
      )
    }
  }
}
