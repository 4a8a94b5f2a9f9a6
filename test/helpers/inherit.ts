import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { request } from 'node:http'
import net, { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

// Does for an app what an init system does with sockets: listens, never accepts, and hands the descriptors over.

export const PRELOAD = join(import.meta.dirname, '../../agent/preload/listen-preload.cjs')
const APPS = join(import.meta.dirname, '../fixtures/preload-apps')
/** `TARMAC_APP_NODE=/usr/bin/node npm test -- test/preload` runs the apps by another Node than the tests. */
export const APP_NODE = process.env.TARMAC_APP_NODE ?? process.execPath
/** Generous where success is expected: a loaded machine is no failure. */
const PATIENCE_MS = 20_000

export interface Descriptor {
  name: string
  fd: number
}

export interface Port extends Descriptor {
  port: number
}

/** The two private sockets of one slot. */
export interface PrivateSockets {
  probe: string
  control: string
  descriptors: Descriptor[]
}

export interface App {
  pid: number
  /** Everything it has said so far, stdout and stderr. */
  output(): string
  /** Waits until it has said so. */
  said(pattern: RegExp): Promise<RegExpExecArray>
  ended: Promise<{ code: number | null; signal: NodeJS.Signals | null; output: string }>
  kill(signal: NodeJS.Signals): void
  stdin: NonNullable<ChildProcess['stdin']>
}

interface BoundHandle {
  fd: number
  getsockname(out: { port?: number }): number
  close(): void
}

/** A public socket, on 127.0.0.1 unless said otherwise. Connections wait in its queue until somebody accepts. */
export function openPort(t: TestContext, address = '127.0.0.1', wantedPort = 0): Port {
  const handle = parseBound(address, wantedPort, net.isIPv6(address) ? 6 : 4)
  t.after(() => handle.close())
  const out: { port?: number } = {}
  handle.getsockname(out)
  const port = out.port ?? 0
  makeListening([handle.fd])
  return { name: `port-${port}`, fd: handle.fd, port }
}

export function openPrivate(t: TestContext): PrivateSockets {
  const dir = mkdtempSync(join(tmpdir(), 'tarmac-sockets-'))
  const [probe, control] = [join(dir, 'probe'), join(dir, 'control')]
  const handles = [probe, control].map((path) => parseBound(path, -1, -1))
  t.after(() => {
    for (const handle of handles) handle.close()
    rmSync(dir, { recursive: true, force: true })
  })
  const descriptors = handles.map(({ fd }, index) => ({ name: index === 0 ? 'probe' : 'control', fd }))
  makeListening(descriptors.map(({ fd }) => fd))
  return { probe, control, descriptors }
}

/** What node:cluster binds with. Bound only: Node cannot listen without accepting. */
function parseBound(address: string, port: number, addressType: 4 | 6 | -1): BoundHandle {
  const { _createServerHandle } = net as unknown as { _createServerHandle(...how: unknown[]): BoundHandle | number }
  const handle = _createServerHandle(address, port, addressType)
  if (typeof handle === 'number') throw new Error(`bind ${address} ${port}: libuv error ${handle}`)
  return handle
}

/** A process that listens on them and ends: the sockets stay in that state, and nobody accepts. */
function makeListening(fds: number[]): void {
  const code = `let open = 0
    for (let fd = 3; fd < ${3 + fds.length}; fd++)
      require('node:net').createServer().listen({ fd }, () => ++open === ${fds.length} && process.exit(0))`
  const { status, stderr } = spawnSync(process.execPath, ['-e', code], { stdio: ['ignore', 'ignore', 'pipe', ...fds] })
  if (status !== 0) throw new Error(`listen on inherited sockets: ${stderr}`)
}

export interface AppOptions {
  /** Relative to test/fixtures/preload-apps, or absolute; then its arguments. */
  argv: string[]
  descriptors: Descriptor[]
  env?: Record<string, string>
  /** What sh runs, with node and the argv as "$@"; by default it becomes the app, with LISTEN_PID the app's own. */
  shell?: string
}

/** Starts an app of the fixtures as a unit does: descriptors from 3 on, LISTEN_*, NODE_OPTIONS; killed after the test. */
export function startApp(t: TestContext, { argv, descriptors, env, shell }: AppOptions): App {
  const [file = '', ...args] = argv
  const child = spawn('sh', ['-c', shell ?? 'LISTEN_PID=$$ exec "$@"', 'sh', APP_NODE, resolve(APPS, file), ...args], {
    env: {
      PATH: process.env.PATH,
      NODE_OPTIONS: `--require "${PRELOAD}"`,
      LISTEN_FDS: String(descriptors.length),
      LISTEN_FDNAMES: descriptors.map(({ name }) => name).join(':'),
      ...portVariable(descriptors),
      ...env,
    },
    stdio: ['pipe', 'pipe', 'pipe', ...descriptors.map(({ fd }) => fd)],
    detached: true, // a group of its own, so that nothing a shell has started is left behind
  })
  t.after(() => endGroup(child.pid))
  const { stdin, stdout, stderr, pid } = child
  if (stdin === null || stdout === null || stderr === null || pid === undefined) throw new Error(`start ${file}`)
  stdin.on('error', () => {}) // it may have ended
  const told: string[] = []
  for (const stream of [stdout, stderr]) stream.setEncoding('utf8').on('data', (text: string) => told.push(text))
  const output = () => told.join('')
  const ended = once(child, 'close').then(([code, signal]) => ({ code, signal, output: output() }))
  return {
    pid,
    output,
    said: (pattern) => until(`${file} says ${pattern}, not: ${output()}`, () => pattern.exec(output()) ?? undefined),
    ended,
    kill: (signal) => child.kill(signal),
    stdin,
  }
}

function endGroup(pid: number | undefined): void {
  if (pid === undefined) return
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {
    // all of it has ended
  }
}

function portVariable(descriptors: Descriptor[]): Record<string, string> {
  const port = descriptors.map(({ name }) => /^port-(\d+)$/.exec(name)?.[1]).find((digits) => digits !== undefined)
  return port === undefined ? {} : { PORT: port }
}

/** Sends lines to a control socket and gives as many answers. */
export async function control(path: string, ...commands: string[]): Promise<string[]> {
  const socket = connect(path)
  socket.setTimeout(PATIENCE_MS, () => socket.destroy(new Error(`${commands.join(', ')}: no answer`)))
  socket.setEncoding('utf8')
  socket.write(commands.map((command) => `${command}\n`).join(''))
  let text = ''
  for await (const part of socket) {
    text += part
    if (text.split('\n').length > commands.length) break
  }
  return text.trimEnd().split('\n')
}

/** GET over TCP or a unix socket, on a connection of its own. */
export function get(to: { port: number; host?: string } | { socketPath: string }, path = '/'): Promise<string> {
  return new Promise((resolve, reject) => {
    const asked = request({ ...to, path, agent: false, timeout: PATIENCE_MS }, (response) => {
      response.setEncoding('utf8')
      let text = ''
      response.on('data', (part: string) => {
        text += part
      })
      response.on('end', () => resolve(text))
      response.on('error', reject)
    })
    asked.on('error', reject)
    asked.on('timeout', () => asked.destroy(new Error(`GET ${path}: no answer`)))
    asked.end()
  })
}

/** Asks again until there is something. */
export async function until<T>(what: string, look: () => T | undefined | Promise<T | undefined>): Promise<T> {
  const end = performance.now() + PATIENCE_MS
  while (performance.now() < end) {
    const found = await look()
    if (found !== undefined) return found
    await sleep(10)
  }
  throw new Error(`waited ${PATIENCE_MS} ms in vain: ${what}`)
}
