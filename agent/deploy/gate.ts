import { request } from 'node:http'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { reasonOf } from '../../shared/failure.ts'
import type { ServiceSpec } from '../../shared/manifest.ts'
import type { InitSystem, UnitFacts, UnitKey, UnitSpec } from '../init/init-system.ts'
import { order } from './control-socket.ts'

/** An app on ::1 only ("localhost" on some hosts) is healthy too. */
const LOOPBACKS = ['127.0.0.1', '::1'] as const
/** One answer may take so long before the next question is asked. */
const PROBE_TIMEOUT_MS = 5_000

/** What the gate needs to know: a unit with handover is asked aside, by its private sockets. */
export type Gated = UnitKey & Pick<UnitSpec, 'handover'>

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
 * its port open, when it has one). Throws NotHealthy when init gave up or `health.timeoutMs` is over.
 */
export async function awaitHealthy(init: InitSystem, unit: Gated, spec: ServiceSpec): Promise<void> {
  const deadline = Date.now() + spec.health.timeoutMs
  let why = 'it was not seen running'
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
      const no = await (unit.handover === undefined ? probe(spec) : probeAside(init, unit, spec))
      const settled = Date.now() - (upSince?.at ?? 0) >= spec.health.settleMs
      const answers = spec.health.path !== undefined && unit.handover?.style !== 'inherited'
      if (no === undefined && (answers || settled)) return
      why = no ?? `it was up for less than ${spec.health.settleMs / 1000} s`
    } else {
      upSince = undefined
      why = `it is ${facts.state}, after ${facts.respawns} respawns`
    }
    if (Date.now() >= deadline) {
      throw new NotHealthy(unit, facts, `not healthy within ${spec.health.timeoutMs / 1000} s: ${why}`)
    }
    await sleep(spec.health.intervalMs)
  }
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

/** The new instance alone, and only it: its own probe, never the shared port, where the old one answers. */
async function probeAside(init: InitSystem, unit: Gated, { health }: ServiceSpec): Promise<string | undefined> {
  // It has no private sockets, and accepts as soon as it listens: all there is to see is that it stays up.
  if (unit.handover?.style !== 'preload') return undefined
  const { probe, control } = init.privateSockets(unit)
  try {
    const { listening } = JSON.parse(await order(control, 'status')) as { listening?: boolean }
    if (listening !== true) return nobodyListens(unit.handover.port)
  } catch (error) {
    return `its control socket: ${reasonOf(error)}`
  }
  return health.path === undefined ? undefined : probePath({ socketPath: probe }, health)
}

/** Says why it is not healthy, or undefined when it is. */
async function probe({ port, health }: ServiceSpec): Promise<string | undefined> {
  if (port === undefined) return undefined
  for (const host of LOOPBACKS) {
    const no = health.path === undefined ? await probePort(host, port) : await probePath({ host, port }, health)
    // Only "nobody listens there" asks the other loopback address: any other answer is the app's own.
    if (no === undefined || !no.includes('ECONNREFUSED')) return no
  }
  return nobodyListens(port)
}

/** By far the most frequent reason, and it has one cure: not two addresses and an errno, but what to look at. */
function nobodyListens(port: number): string {
  return `nothing listens on port ${port}; does it listen on the port in PORT?`
}

function probePort(host: string, port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: PROBE_TIMEOUT_MS })
    const end = (no: string | undefined) => {
      socket.destroy()
      resolve(no)
    }
    socket.once('connect', () => end(undefined))
    socket.once('timeout', () => end(`port ${port} did not answer within ${PROBE_TIMEOUT_MS / 1000} s`))
    socket.once('error', (error) => end(`port ${port}: ${error.message}`))
  })
}

function probePath(
  where: { host: string; port: number } | { socketPath: string },
  health: ServiceSpec['health'],
): Promise<string | undefined> {
  return new Promise((resolve) => {
    // No agent, so no idle keep-alive connection that the app would have to wait for when it stops.
    const asked = request({ ...where, path: health.path, agent: false, timeout: PROBE_TIMEOUT_MS }, (answer) => {
      const status = answer.statusCode ?? 0
      answer.destroy()
      const well = health.status === undefined ? status >= 200 && status < 300 : status === health.status
      resolve(well ? undefined : `GET ${health.path} answered ${status}, not ${health.status ?? '2xx'}`)
    })
    asked.once('timeout', () => asked.destroy(new Error(`no answer within ${PROBE_TIMEOUT_MS / 1000} s`)))
    asked.once('error', (error) =>
      resolve(`GET ${health.path}: ${error.message || ('code' in error ? String(error.code) : 'no answer')}`),
    )
    asked.end()
  })
}
