import { channel } from 'node:diagnostics_channel'
import { readFileSync, rmSync } from 'node:fs'
import type { Log } from './log.ts'

// Places where a test can end the agent, or let it stand still until it cuts the power: after every effect that
// outlives the process. Outside of a test nobody listens, and what is reached costs nothing.

export type FaultPoint =
  /** The manifest is proved, and the first object is about to be stored. */
  | 'upload.begun'
  /** A file is whole beside its place; it, or a directory, has its name; one is gone. */
  | 'disk.written'
  | 'disk.renamed'
  | 'disk.removed'
  /** An object has its name. */
  | 'disk.placed'
  | 'disk.synced'
  /** A release has the link to its environment. */
  | 'env.bound'
  /** An instance was told to take connections. */
  | 'control.activated'
  /** A step of a change was told to whoever watches. */
  | `step.${string}`
  /** A call of the init system or of the ledger that changed something. */
  | `init.${string}`
  | `ledger.${string}`

const reached = channel('tarmac.fault-point')

export function reach(point: FaultPoint): void {
  reached.publish(point)
}

/** What is called for its effect gives nothing back; of the rest this alone writes. */
const WRITES = 'openDeploy'

/** The same object, with a fault point after each call that was made for its effect. Itself when nobody listens. */
export function withFaultPoints<T extends object>(what: 'init' | 'ledger', object: T): T {
  if (!reached.hasSubscribers) return object
  return new Proxy(object, {
    get(target, name) {
      const method: unknown = Reflect.get(target, name)
      if (typeof method !== 'function') return method
      const told = (result: unknown) => {
        if (result === undefined || name === WRITES) reach(`${what}.${String(name)}`)
        return result
      }
      return (...args: unknown[]) => {
        const result: unknown = method.apply(target, args)
        return result instanceof Promise ? result.then(told) : told(result)
      }
    },
  })
}

/**
 * Does what `file` says: `POINT N kill` ends the agent by SIGKILL at the N-th time that it reaches the point (`*`: any),
 * counted from the writing of the file, `POINT N stall` blocks it there for good, and `POINT N pause` until SIGCONT. The
 * file is gone by then. While it is there each point is logged, so that a test learns which there are.
 */
export function armFaults(file: string, log: Log): void {
  let wish = ''
  let times = 0
  reached.subscribe((point) => {
    const text = readIfThere(file)
    if (text !== wish) times = 0
    wish = text
    if (text === '') return
    log.info({ point }, 'fault point')
    const [where, nth, how] = text.split(' ')
    if ((where !== '*' && point !== where) || ++times < Number(nth)) return
    rmSync(file)
    if (how === 'kill') process.kill(process.pid, 'SIGKILL')
    if (how === 'pause') return void process.kill(process.pid, 'SIGSTOP')
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
  })
}

function readIfThere(file: string): string {
  try {
    return readFileSync(file, 'utf8').trim()
  } catch {
    // No test wants anything now.
    return ''
  }
}
