import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure, reasonOf } from '../../shared/failure.ts'
import type { ServiceSpec } from '../../shared/manifest.ts'
import type { ExitFact } from '../../shared/wire.ts'
import type { Log } from '../log.ts'
import type { LogBook } from './embedded-log.ts'
import {
  awaitGone,
  awaitReaped,
  killFamily,
  membersOf,
  type Run,
  residentBytes,
  sendSignal,
  signalFamily,
} from './embedded-process.ts'
import { type Running, type Start, startProcess } from './embedded-start.ts'
import type { UnitFacts, UnitSpec } from './init-system.ts'

// One unit's life, as systemd leads it with Restart=always: from a start by hand, through respawns, to the stop by hand
// or the respawn limit.

/** systemd's EXIT_EXEC, systemd.exec(5): the program could not be executed. */
const EXIT_EXEC = 203

export interface UnitContext {
  /** How messages call it. */
  name: string
  /** As it is written now: a respawn takes what was installed meanwhile. Throws when it is gone. */
  read(): Promise<UnitSpec>
  /** Notes what was started, for an agent that finds it left over. */
  noteRun(run: Run): Promise<void>
  report(exit: ExitFact, respawns: number): void
  /** The limit was reached. */
  gaveUp(): void
  /** What this start of the unit inherits. */
  socketsOf(unit: UnitSpec): Promise<Start['sockets']>
  book: LogBook
  pipeFile: string
  log: Log
}

export interface Unit {
  /** Returns when the program was executed; forgets earlier failures. Throws `program_failed`. Not to be called twice at a time. */
  start(): Promise<void>
  /** Returns when no process is left. Throws `program_failed` when some outlived SIGKILL. */
  stop(): Promise<void>
  /** Stops it in the middle of a crash loop; what it did stays in its facts. */
  giveUp(): Promise<void>
  facts(): UnitFacts
}

/** From one start by hand to its end. */
interface Life {
  invocation: string
  lastPid?: number
  isEnding: boolean
  /** Ends the wait before a respawn. */
  hurry: AbortController
  over: Promise<void>
}

export function createUnit(context: UnitContext): Unit {
  const { name, log } = context
  let state: UnitFacts['state'] = 'stopped'
  let respawns = 0
  let lastExit: ExitFact | undefined
  let startTimes: number[] = []
  let running: Running | undefined
  let life: Life | undefined

  async function launch(invocation: string): Promise<Running> {
    startTimes.push(performance.now())
    const unit = await context.read()
    const { book, pipeFile } = context
    const sockets = await context.socketsOf(unit)
    const started = await startProcess({ unit, invocation, book, pipeFile, sockets })
    const { pid, stamp } = started
    // A full disk must not keep a service from coming back. Its mark was noted before and finds it too.
    await context
      .noteRun({ invocation, pid, ...(stamp === undefined ? {} : { stamp }) })
      .catch((error: unknown) => log.warn({ unit: name, reason: reasonOf(error) }, 'the pid could not be noted'))
    return started
  }

  /** Until it is stopped or given up. */
  async function live(own: Life, first: Running): Promise<void> {
    let now: Running | undefined = first
    for (;;) {
      if (now) await outlive(own, now)
      const { restart } = (await context.read()).spec
      if (!own.isEnding) await sleep(restart.delayMs, undefined, { signal: own.hurry.signal }).catch(() => {})
      if (own.isEnding) {
        state = 'stopped'
        return
      }
      // Counted before the limit refuses it, as systemd does: five starts and no more are five respawns at give-up.
      respawns++
      const earliest = performance.now() - restart.withinMs
      startTimes = startTimes.filter((at) => at > earliest)
      if (startTimes.length >= restart.attempts) {
        state = 'gave-up'
        log.warn({ unit: name, respawns }, 'gave up: it started too often')
        context.gaveUp()
        return
      }
      now = await launch(own.invocation).catch((error: unknown) => {
        log.warn({ unit: name, reason: reasonOf(error) }, 'respawn')
        ended({ code: EXIT_EXEC, signal: null })
        return undefined
      })
    }
  }

  /** One process, from its start to the end of all it left behind. */
  async function outlive(own: Life, started: Running): Promise<void> {
    running = started
    own.lastPid = started.pid
    state = 'running'
    if (own.isEnding) ask(started)
    const exit = await started.exit
    running = undefined
    if (own.isEnding) state = 'stopping'
    ended(exit, own)
    await endRest(started)
    await started.output.finish()
  }

  function ended(exit: { code: number | null; signal: string | null }, own = life): void {
    lastExit = { code: exit.code, signal: exit.signal, oom: false, at: new Date().toISOString() }
    if (own?.isEnding) return
    state = 'respawning'
    context.report(lastExit, respawns)
  }

  function ask(started: Running): void {
    state = 'stopping'
    const { pid, family, spec } = started
    // systemd's KillMode: `mixed` for a program, which tells its own children; `control-group` for a shell, which does not.
    if (isShell(spec)) signalFamily(family, 'SIGTERM')
    else sendSignal(pid, 'SIGTERM')
    const timer = setTimeout(() => signalFamily(family, 'SIGKILL'), spec.stopTimeoutMs)
    void started.exit.then(() => clearTimeout(timer))
  }

  async function endRest({ family, spec }: Running): Promise<void> {
    if (isShell(spec) && membersOf(family).length > 0) {
      signalFamily(family, 'SIGTERM')
      if (await awaitGone(family, spec.stopTimeoutMs)) return
    }
    if (!(await killFamily(family))) log.error({ unit: name, pids: membersOf(family) }, 'processes outlived SIGKILL')
  }

  async function stop(): Promise<void> {
    if (life === undefined) return
    const own = life
    if (!own.isEnding) {
      own.isEnding = true
      own.hurry.abort()
      if (running) ask(running)
    }
    await own.over
    life = undefined
    if (own.lastPid !== undefined) await awaitReaped(own.lastPid)
    const left = membersOf({ group: undefined, invocation: own.invocation })
    if (left.length > 0)
      throw new Failure('program_failed', `stop ${name}: process ${left.join(', ')} outlived SIGKILL`)
  }

  return {
    stop,
    async start() {
      respawns = 0
      startTimes = startTimes.slice(-1)
      if (running && !life?.isEnding) return
      await stop()
      startTimes = []
      lastExit = undefined
      state = 'starting'
      const own: Life = {
        invocation: randomBytes(16).toString('hex'),
        isEnding: false,
        hurry: new AbortController(),
        over: Promise.resolve(),
      }
      try {
        await context.noteRun({ invocation: own.invocation })
        const first = await launch(own.invocation)
        life = own
        // A bug in one unit's life is that unit's failure: the agent's end would be the end of all the others.
        own.over = live(own, first).catch((error: unknown) => {
          state = 'failed'
          log.error({ unit: name, reason: reasonOf(error) }, 'the life of a unit ended unexpectedly')
        })
      } catch (error) {
        state = 'failed'
        throw new Failure('program_failed', `start ${name}: ${reasonOf(error)}`, { cause: error })
      }
    },
    async giveUp() {
      const last = lastExit
      await stop()
      lastExit = last
      state = 'gave-up'
    },
    facts() {
      return {
        state,
        pid: running?.pid,
        since: running?.since,
        respawns,
        lastExit,
        memoryBytes: running && residentBytes(running.pid),
      }
    },
  }
}

function isShell(spec: ServiceSpec): boolean {
  return 'shell' in spec.command
}
