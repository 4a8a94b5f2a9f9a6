import { request } from 'node:http'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { reasonOf } from '../../shared/failure.ts'
import type { ServiceSpec } from '../../shared/manifest.ts'
import type { InitSystem, UnitFacts, UnitKey, UnitSpec } from '../init/init-system.ts'
import { connectionsWaiting } from './accept-queue.ts'
import { order } from './control-socket.ts'

/** An app on ::1 only ("localhost" on some hosts) is healthy too. */
const LOOPBACKS = ['127.0.0.1', '::1'] as const
/** What passed a rehearsal only has to show that it starts a second time. */
const REHEARSED_SETTLE_MS = 1_000
/** Most apps are there after a tenth of a second: the first looks are close together, each next one twice as far away. */
const FIRST_LOOK_MS = 20
/** One answer may take so long before the next question is asked; the deadline of the whole gate ends it sooner. */
const PROBE_TIMEOUT_MS = 5_000
/** The last question, asked just before the deadline, is still one that can be answered. */
const LAST_PROBE_MS = 500

/** What the gate needs to know: a unit with handover is asked aside, by its private sockets or where it rehearses. */
export type Gated = UnitKey & Pick<UnitSpec, 'handover'>

/** `beside`: another instance, which is well, answers at the same port. */
export interface Beside {
  beside?: boolean
}

/** Why a unit did not pass: what was asked, what was seen, and what init says of it. */
export class NotHealthy extends Error {
  readonly unit: UnitKey
  readonly facts: UnitFacts

  constructor(unit: UnitKey, facts: UnitFacts, reason: string) {
    super(reason)
    this.name = 'NotHealthy'
    this.unit = unit
    this.facts = facts
  }
}

/**
 * Waits until the unit is healthy: it answers `health.path`, or, with no path, stays up for `health.settleMs` (with
 * its port open, when it has one). Looks at once, then ever less often down to `health.intervalMs`. Throws NotHealthy when init gave up or `health.timeoutMs` is over.
 */
export async function awaitHealthy(
  init: InitSystem,
  unit: Gated,
  spec: ServiceSpec,
  { beside = false }: Beside = {},
): Promise<void> {
  const door = doorOf(init, unit, spec, { beside })
  const settleMs = door === 'shared' ? Math.min(REHEARSED_SETTLE_MS, spec.health.settleMs) : spec.health.settleMs
  const answers = spec.health.path !== undefined && door !== 'shared'
  const deadline = Date.now() + spec.health.timeoutMs
  let why = 'it was not seen running'
  let pauseMs = FIRST_LOOK_MS
  let upSince: { since: string | undefined; at: number } | undefined
  for (;;) {
    const facts = await init.facts(unit)
    if (facts.state === 'gave-up') {
      throw new NotHealthy(
        unit,
        facts,
        `gave up after ${spec.restart.attempts} starts within ${spec.restart.withinMs / 1000} s`,
      )
    }
    if (facts.state === 'failed' || facts.state === 'absent' || facts.state === 'stopped') {
      throw new NotHealthy(unit, facts, `is ${facts.state}`)
    }
    if (facts.state === 'running') {
      if (upSince?.since !== facts.since) upSince = { since: facts.since, at: Date.now() }
      const no = door === 'shared' ? undefined : await door({ health: spec.health, deadline })
      const settled = Date.now() - (upSince?.at ?? 0) >= settleMs
      if (no === undefined && (answers || settled)) return
      why = no ?? `it was up for less than ${settleMs / 1000} s`
    } else {
      upSince = undefined
      why = `it is ${facts.state}, after ${facts.respawns} respawns`
    }
    if (Date.now() >= deadline) {
      throw new NotHealthy(unit, facts, `not healthy within ${spec.health.timeoutMs / 1000} s: ${why}`)
    }
    await sleep(Math.min(pauseMs, spec.health.intervalMs, Math.max(0, deadline - Date.now())))
    pauseMs *= 2
  }
}

function patienceUntil(deadline: number): number {
  return Math.min(PROBE_TIMEOUT_MS, Math.max(LAST_PROBE_MS, deadline - Date.now()))
}

/**
 * Throws NotHealthy when something else answers at the port of a unit that does not run. It would answer the gate
 * too, and a push would be called done whose app dies a moment later because its port is taken.
 */
export async function refuseTakenPort(init: InitSystem, unit: Gated, { port }: ServiceSpec): Promise<void> {
  // A port that is handed over is init's own: who answers there is the old slot.
  if (port === undefined || unit.handover !== undefined) return
  const facts = await init.facts(unit)
  if (facts.pid !== undefined) return
  for (const host of LOOPBACKS) {
    if ((await probePort(host, port)) !== undefined) continue
    const why = `cannot have port ${port}: another program on this host answers at ${host}`
    throw new NotHealthy(unit, { ...facts, lastExit: undefined }, why)
  }
}

/** A question to an instance. `deadline`: of the whole gate, by Date.now(). */
interface Asking {
  health: ServiceSpec['health']
  deadline: number
}

/** Asks the new instance, and says why it is not healthy, or undefined when it is. */
type Door = (asking: Asking) => Promise<string | undefined>

/**
 * Where the new instance alone can be asked. `shared`: nowhere, since it accepts at the public port beside the old one;
 * all there is to see is that it stays up.
 */
function doorOf(init: InitSystem, unit: Gated, { port }: ServiceSpec, { beside }: Required<Beside>): Door | 'shared' {
  const { handover } = unit
  if (handover?.style === 'preload') return (asking) => askPrivately(init, unit, { port: handover.port, asking })
  if (handover?.rehearsalPort !== undefined) {
    const { rehearsalPort } = handover
    return (asking) =>
      asking.health.path === undefined ? askAccepts(rehearsalPort, asking) : askPublic(rehearsalPort, asking)
  }
  if (handover !== undefined && beside) return 'shared'
  return async (asking) => (port === undefined ? undefined : askPublic(port, asking))
}

async function askPrivately(
  init: InitSystem,
  unit: UnitKey,
  { port, asking }: { port: number; asking: Asking },
): Promise<string | undefined> {
  const { probe, control } = init.privateSockets(unit)
  try {
    const { listening } = JSON.parse(await order(control, 'status', patienceUntil(asking.deadline))) as {
      listening?: boolean
    }
    if (listening !== true) return nobodyListens(port)
  } catch (error) {
    return `its control socket: ${reasonOf(error)}`
  }
  return asking.health.path === undefined ? undefined : probePath({ socketPath: probe }, asking)
}

async function askPublic(port: number, asking: Asking): Promise<string | undefined> {
  for (const host of LOOPBACKS) {
    const no =
      asking.health.path === undefined
        ? await probePort(host, port, patienceUntil(asking.deadline))
        : await probePath({ host, port }, asking)
    // Only "nobody listens there" asks the other loopback address: any other answer is the app's own.
    if (no === undefined || !no.includes('ECONNREFUSED')) return no
  }
  return nobodyListens(port)
}

/** A socket that init opened takes connections by itself: whether the app accepts them its queue tells. */
async function askAccepts(port: number, { deadline }: Asking): Promise<string | undefined> {
  const no = await probePort(LOOPBACKS[0], port, patienceUntil(deadline))
  if (no !== undefined) return no
  const waiting = await connectionsWaiting(port)
  return waiting === undefined || waiting === 0
    ? undefined
    : 'it does not accept connections on the socket it is given (LISTEN_FDS)'
}

/** By far the most frequent reason, and it has one cure: not two addresses and an errno, but what to look at. */
function nobodyListens(port: number): string {
  return `nothing listens on port ${port}; does it listen on the port in PORT?`
}

function probePort(host: string, port: number, patienceMs: number = PROBE_TIMEOUT_MS): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: patienceMs })
    const end = (no: string | undefined) => {
      socket.destroy()
      resolve(no)
    }
    socket.once('connect', () => end(undefined))
    socket.once('timeout', () => end(`port ${port} did not answer within ${(patienceMs / 1000).toFixed(1)} s`))
    socket.once('error', (error) => end(`port ${port}: ${error.message}`))
  })
}

function probePath(
  where: { host: string; port: number } | { socketPath: string },
  { health, deadline }: Asking,
): Promise<string | undefined> {
  const patienceMs = patienceUntil(deadline)
  const late = AbortSignal.timeout(patienceMs)
  return new Promise((resolve) => {
    // No agent, so no idle keep-alive connection that the app would have to wait for when it stops.
    const asked = request({ ...where, path: health.path, agent: false, signal: late }, (answer) => {
      const status = answer.statusCode ?? 0
      answer.destroy()
      const well = health.status === undefined ? status >= 200 && status < 300 : status === health.status
      resolve(well ? undefined : `GET ${health.path} answered ${status}, not ${health.status ?? '2xx'}`)
    })
    asked.once('error', (error) => {
      const seen = error.message || ('code' in error ? String(error.code) : 'no answer')
      resolve(`GET ${health.path}: ${late.aborted ? `no answer within ${(patienceMs / 1000).toFixed(1)} s` : seen}`)
    })
    asked.end()
  })
}
