import { Agent, request } from 'node:http'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { SwitchProbe } from '../../shared/wire.ts'

// What a caller notices of a switch, measured through the public port while it happens.

/** 25 questions a second of each kind: a gap of a tenth of a second is seen by at least two of them. */
const INTERVAL_MS = 40
/** What serves well answers sooner; a way out of a crash loop must not be held up by asking. */
const FIRST_ANSWER_MS = 200
/** Longer than a healthy app takes, shorter than a caller's patience. */
const ANSWER_TIMEOUT_MS = 5_000
/** An app that answers nothing for seconds is not to be buried under questions. */
const MAX_WAITING = 100
/** "localhost" is ::1 alone on some hosts. */
const LOOPBACKS = ['127.0.0.1', '::1'] as const
/** So that an admin can tell these lines of an access log from callers. */
const HEADERS = { 'user-agent': 'tarmac-probe' }

export interface ProbeTarget {
  port: number
  /** Asked with GET, with keep-alive and by new connections. Undefined: nothing is known but that connections are taken. */
  path: string | undefined
}

interface Seen {
  at: number
  ok: boolean
}

export interface SwitchProbing {
  /** Waits for the answers that are due. Undefined when nothing could be asked. The second call gives the same. */
  end(): Promise<SwitchProbe | undefined>
}

/**
 * Asks each target once and then, until `end`, those that answered well: what serves nobody has nothing to lose. A
 * question fails when the connection is refused or ends without an answer, or the answer says 5xx. The first answers are
 * waited for a moment only: behind the open port of a dead service there is none.
 */
export async function probeSwitch(targets: readonly ProbeTarget[]): Promise<SwitchProbing> {
  const seen: Seen[] = []
  const waiting = new Set<Promise<void>>()
  const keepAlive = new Agent({ keepAlive: true, maxSockets: 1 })
  const note = (ask: Promise<boolean>) => {
    const at = performance.now()
    const noted = ask.then((ok) => {
      seen.push({ at, ok })
      waiting.delete(noted)
    })
    waiting.add(noted)
  }
  let doors: readonly Door[] = []
  const first = targets.map(async (target) => {
    const door = await doorOf(target)
    if (door !== undefined) doors = [...doors, door]
  })
  await Promise.race([Promise.all(first), sleep(FIRST_ANSWER_MS, undefined, { ref: false })])
  const timer = setInterval(() => {
    if (waiting.size >= MAX_WAITING) return
    for (const door of doors) {
      if (door.path === undefined) note(connects(door))
      else for (const agent of [keepAlive, false] as const) note(answers({ ...door, path: door.path }, agent))
    }
  }, INTERVAL_MS)
  const finish = async () => {
    clearInterval(timer)
    await Promise.all(waiting)
    keepAlive.destroy()
    return seen.length === 0 ? undefined : summaryOf(seen, performance.now())
  }
  let ended: ReturnType<typeof finish> | undefined
  return {
    end() {
      ended ??= finish()
      return ended
    },
  }
}

/** Pure. A gap lasts from the first question that failed to the next one that was answered. */
export function summaryOf(seen: readonly Seen[], now: number): SwitchProbe {
  let longest = 0
  let since: number | undefined
  const close = (at: number) => {
    if (since !== undefined) longest = Math.max(longest, at - since)
    since = undefined
  }
  for (const { at, ok } of [...seen].sort((a, b) => a.at - b.at)) {
    if (ok) close(at)
    else since ??= at
  }
  close(now)
  const failed = seen.filter(({ ok }) => !ok).length
  // Both kinds are asked in the same instant: a gap that one of them saw is one, however short.
  return { sent: seen.length, failed, longestGapMs: failed === 0 ? 0 : Math.max(1, Math.round(longest)) }
}

interface Door extends ProbeTarget {
  host: string
}

async function doorOf(target: ProbeTarget): Promise<Door | undefined> {
  for (const host of LOOPBACKS) {
    const door = { ...target, host }
    if (await (target.path === undefined ? connects(door) : answers({ ...door, path: target.path }, false))) return door
  }
  return undefined
}

function connects({ host, port }: Door): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: ANSWER_TIMEOUT_MS })
    const end = (ok: boolean) => {
      socket.destroy()
      resolve(ok)
    }
    socket.once('connect', () => end(true))
    socket.once('timeout', () => end(false))
    socket.once('error', () => end(false))
  })
}

function answers({ host, port, path }: Door & { path: string }, agent: Agent | false): Promise<boolean> {
  return new Promise((resolve) => {
    const asked = request({ host, port, path, agent, headers: HEADERS, timeout: ANSWER_TIMEOUT_MS }, (answer) => {
      answer.resume()
      answer.once('error', () => resolve(false))
      answer.once('end', () => resolve((answer.statusCode ?? 0) < 500))
    })
    asked.once('timeout', () => asked.destroy(new Error('no answer')))
    asked.once('error', () => resolve(false))
    asked.end()
  })
}
