import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'

// Starts the programs that are measured. A peer's command lines are what a user would type, so bash may read them.

/** Far longer than the slowest sample: a hang ends the bench, not the night. */
const TIMEOUT_MS = 20 * 60_000

export interface Ran {
  ms: number
  stdout: string
  /** Its high-water mark, when it was watched. */
  peakBytes?: number
}

/** A high-water mark only grows: what is missed is what came in the last moment. */
const WATCH_MS = 20

export interface Where {
  cwd?: string
  env?: NodeJS.ProcessEnv
  /** A network namespace of `ip netns`; undefined: the machine's own. */
  netns?: string | undefined
  isWatched?: boolean
}

/** What starts `argv` in that network namespace. nsenter, since `ip netns exec` mounts a /sys for each start. */
export function within(netns: string | undefined, argv: string[]): string[] {
  return netns === undefined ? argv : ['nsenter', `--net=/run/netns/${netns}`, ...argv]
}

const underWay = new Set<() => void>()

/** Ends what `run` has begun: for a bench that is broken off. */
export function endAll(): void {
  for (const end of underWay) end()
}

/** Runs to the end and tells how long it took. Rejects when it exits otherwise than with 0, with what it said. */
export function run(argv: string[], { cwd, env, netns, isWatched = false }: Where = {}): Promise<Ran> {
  const [program = '', ...args] = within(netns, argv)
  const begun = performance.now()
  const child = spawn(program, args, {
    ...(cwd === undefined ? {} : { cwd }),
    ...(env === undefined ? {} : { env }),
    stdio: ['ignore', 'pipe', 'pipe'],
    // A group of its own: a pipe of bash is ended as one.
    detached: true,
  })
  const end = () => void (child.pid !== undefined && process.kill(-child.pid, 'SIGKILL'))
  underWay.add(end)
  const deadline = setTimeout(end, TIMEOUT_MS)
  let peakBytes = 0
  const watch = () => {
    peakBytes = Math.max(peakBytes, memoryOf(child.pid ?? 0)?.peakBytes ?? 0)
  }
  const watching = isWatched ? setInterval(watch, WATCH_MS) : undefined
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  return new Promise((resolve, reject) => {
    child.on('error', (error) => {
      underWay.delete(end)
      clearTimeout(deadline)
      reject(error)
    })
    child.on('close', (code, signal) => {
      underWay.delete(end)
      clearTimeout(deadline)
      const ms = performance.now() - begun
      clearInterval(watching)
      if (code === 0) return resolve({ ms, stdout, ...(isWatched ? { peakBytes } : {}) })
      reject(new Error(`${argv.join(' ')}: ${signal ?? `exit ${code}`}: ${stderr.trim() || stdout.trim()}`))
    })
  })
}

export interface Memory {
  residentBytes: number
  peakBytes: number
}

/** Undefined for a process that is gone. */
export function memoryOf(pid: number): Memory | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/status`, 'utf8')
    const bytes = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0) * 1_024
    return { residentBytes: bytes('VmRSS'), peakBytes: bytes('VmHWM') }
  } catch {
    return undefined
  }
}

/** A line of bash that fails when any part of a pipe does. */
export function shell(line: string, where: Where = {}): Promise<Ran> {
  return run(['bash', '-c', `set -euo pipefail; ${line}`], where)
}

export interface Background {
  pid: number
  /** Ends it and waits until it has. */
  stop(): Promise<void>
}

/** Starts a program that stays, and resolves when its output matches. `nsenter` becomes it: the pid is its own. */
export function startBackground(argv: string[], ready: RegExp, { env, netns }: Where = {}): Promise<Background> {
  const [program = '', ...args] = within(netns, argv)
  const child = spawn(program, args, { ...(env === undefined ? {} : { env }), stdio: ['ignore', 'pipe', 'pipe'] })
  // Not "close": what it has started may hold its output open.
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  let said = ''
  return new Promise((resolve, reject) => {
    const started = {
      pid: child.pid ?? 0,
      stop: async () => {
        child.kill('SIGTERM')
        await ended
      },
    }
    const hear = (text: string) => {
      said += text
      if (!ready.test(said)) return
      for (const stream of [child.stdout, child.stderr]) stream.removeAllListeners('data').resume()
      resolve(started)
    }
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', hear)
    child.on('error', reject)
    child.on('close', (code) => reject(new Error(`${argv.join(' ')} ended with ${code}: ${said.trim()}`)))
  })
}
