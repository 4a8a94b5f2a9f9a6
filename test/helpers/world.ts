import { spawn } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { get } from 'node:http'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

// A person with a key and a project, and a host with an agent, as real processes: what the flow tests are played with.

const checkout = join(import.meta.dirname, '..', '..')
/** Generous where success is expected: a loaded machine is no failure. */
const START_TIMEOUT_MS = 20_000

export interface Ran {
  exit: number | null
  stdout: string
  stderr: string
}

export interface Running {
  pid: number
  /** Resolves when it has ended. */
  ended: Promise<Ran>
  kill(signal: NodeJS.Signals): void
}

/** Where the two programs lie. */
export interface Programs {
  client: string
  agent: string
}

export interface World {
  dir: string
  /** The agent's --root. */
  root: string
  /** The project's directory, with a tarmac.toml that names this agent. */
  project: string
  url: string
  pin: string
  /** Where the app listens. */
  port: number
  /** The public key line of the person. */
  publicKey: string
  keyFile: string
  /** Types a client command in the project. */
  tarmac(...argv: string[]): Promise<Ran>
  /** The same, not waited for. */
  tarmacBegin(...argv: string[]): Running
  /** The same as `tarmac`, with that on its stdin. */
  tarmacFed(input: string, ...argv: string[]): Promise<Ran>
  agentCommand(...argv: string[]): Promise<Ran>
  startAgent(...argv: string[]): Promise<void>
  /** SIGTERM by default; waits for the end. */
  stopAgent(signal?: NodeJS.Signals): Promise<void>
  /** Resolves when the agent that was started last has ended, by itself or by a fault. */
  agentEnded(): Promise<void>
  agentLog(): string
  /** `POINT N kill` or `POINT N stall`, see agent/fault.ts; '' when none is to come any more. */
  fault(text: string): void
  /** Whether the agent has come to the place it was told. */
  isFaultHit(): boolean
  /** GET on the app's port; undefined when nobody answers. */
  get(path?: string): Promise<string | undefined>
  /** Writes files of the project. */
  write(files: Record<string, string>): void
  /** The project becomes an app of this version; `broken` ones end at once with that exit code. */
  version(version: string, options?: { broken?: number }): void
}

/**
 * `trusted: false` leaves the signers and the pin to the test; `started: false` the start of the agent. With `faults`
 * the agent ends where `fault` says. `environment` is added to that of the client and the agent. `root`: another place
 * than below `dir`, on a small disk for example. `programs` are bundles to run instead of the source, which start in
 * half the time.
 */
export async function makeWorld(
  t: TestContext,
  options: {
    trusted?: boolean
    started?: boolean
    toml?: string
    faults?: boolean
    environment?: NodeJS.ProcessEnv
    root?: string
    programs?: Programs
  } = {},
): Promise<World> {
  const dir = mkdtempSync(join(tmpdir(), 'tarmac-test-'))
  // As root the app runs as its own user, who must get to it.
  chmodSync(dir, 0o711)
  const home = join(dir, 'home')
  const project = join(dir, 'project')
  const root = options.root ?? join(dir, 'root')
  for (const path of [join(home, '.ssh'), project]) mkdirSync(path, { recursive: true })
  const faultFile = join(dir, 'fault')
  const { PATH = '', NODE_COMPILE_CACHE } = process.env
  const env: NodeJS.ProcessEnv = { PATH, NODE_COMPILE_CACHE, HOME: home, LANG: 'C.UTF-8', ...options.environment }
  if (options.faults) env.TARMAC_FAULT_FILE = faultFile
  const port = await freePort()
  const agentPort = await freePort()
  const url = `https://127.0.0.1:${agentPort}`
  const keyFile = join(home, '.ssh', 'id_ed25519')
  let agent: Running | undefined
  let log = ''
  const programs = options.programs ?? {
    client: join(checkout, 'client/main.ts'),
    agent: join(checkout, 'agent/main.ts'),
  }
  const begin = (program: keyof Programs, argv: string[]) =>
    beginNode([programs[program], ...argv], { env, cwd: project })
  const world: World = {
    dir,
    root,
    project,
    url,
    pin: '',
    port,
    publicKey: '',
    keyFile,
    tarmac: (...argv) => begin('client', argv).ended,
    tarmacBegin: (...argv) => begin('client', argv),
    tarmacFed: (input, ...argv) => beginNode([programs.client, ...argv], { env, cwd: project, input }).ended,
    agentCommand: (...argv) => begin('agent', [...argv, '--root', root]).ended,
    async startAgent(...argv) {
      const started = begin('agent', ['run', '--root', root, '--init', 'embedded', ...argv])
      agent = started
      log = ''
      started.onOutput((text) => {
        log += text
      })
      const ended = started.ended.then(({ exit, stderr }) => {
        throw new Error(`the agent ended with ${exit}: ${stderr}`)
      })
      ended.catch(() => {})
      const deadline = Date.now() + START_TIMEOUT_MS
      const listening = async () => {
        // Later than "listening": an app is busy until it is in order.
        while (!log.includes('"recovered"')) {
          if (Date.now() > deadline) throw new Error(`the agent did not start: ${log}`)
          await sleep(20)
        }
      }
      await Promise.race([listening(), ended])
    },
    async stopAgent(signal = 'SIGTERM') {
      agent?.kill(signal)
      await agent?.ended
      agent = undefined
    },
    agentEnded: async () => void (await agent?.ended),
    agentLog: () => log,
    fault: (text) => (text === '' ? rmSync(faultFile, { force: true }) : writeFileSync(faultFile, text)),
    isFaultHit: () => !existsSync(faultFile),
    async get(path = '/') {
      return getOnce(`http://127.0.0.1:${port}${path}`)
    },
    write(files) {
      for (const [name, text] of Object.entries(files)) {
        mkdirSync(join(project, name, '..'), { recursive: true })
        writeFileSync(join(project, name), text)
      }
    },
    version(version, { broken } = {}) {
      const server = `require('node:http').createServer((q, r) => r.end(${JSON.stringify(version)})).listen(process.env.PORT, () => console.log('version ${version} listens'))\n`
      const crash = `console.error('version ${version} is broken'); process.exit(${broken})\n`
      world.write({ 'server.js': broken === undefined ? server : crash })
    },
  }
  t.after(async () => {
    await world.stopAgent()
    rmSync(dir, { recursive: true, force: true })
  })
  await finished(spawn('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', 'ann', '-f', keyFile]))
  const made = await world.agentCommand('init', '--listen', `127.0.0.1:${agentPort}`)
  world.pin = /^pin (\S+)$/m.exec(made.stdout)?.[1] ?? ''
  world.publicKey = readFileSync(`${keyFile}.pub`, 'utf8').trim()
  world.write({ 'tarmac.toml': options.toml ?? projectText(port, url) })
  world.version('1')
  if (options.trusted === false) return world
  await world.agentCommand('signers', 'add', 'ann', world.publicKey)
  mkdirSync(join(home, '.config', 'tarmac'), { recursive: true })
  writeFileSync(join(home, '.config', 'tarmac', 'known_agents'), `${url} ${world.pin}\n`)
  if (options.started !== false) await world.startAgent()
  return world
}

/** Respawn limits short enough for a test, and a gate that needs no second. */
export function projectText(port: number, url: string): string {
  return `app = "shop"
[services.web]
command = "node server.js"
port = ${port}
[services.web.health]
path = "/"
interval = "100ms"
timeout = "20s"
[restart]
attempts = 3
within = "20s"
delay = "100ms"
[environments.test]
hosts = ["${url}"]
`
}

/** By a connection of its own: one kept open would get a last answer from a release that is leaving. */
export function getOnce(url: string): Promise<string | undefined> {
  return new Promise((resolve) => {
    const asked = get(url, { agent: false, timeout: 5_000 }, (answer) => {
      let text = ''
      answer.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk
      })
      answer.on('error', () => resolve(undefined))
      answer.on('end', () => resolve(text.trim()))
    })
    asked.on('timeout', () => asked.destroy())
    asked.on('error', () => resolve(undefined))
  })
}

/** The same project, stopped and started instead of handing its port over. */
export function restarting(toml: string): string {
  return toml.replace(/^port = .*$/m, (line) => `${line}\nswitch = "restart"`)
}

/** Bundles both programs, as they are now. */
export async function builtPrograms(t: TestContext): Promise<Programs> {
  const dir = mkdtempSync(join(tmpdir(), 'tarmac-built-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  const programs = { client: join(dir, 'tarmac'), agent: join(dir, 'tarmac-agent') }
  const { build } = await import('../../build.ts')
  await build(checkout, [
    { entry: 'client/main.ts', outfile: relative(checkout, programs.client) },
    { entry: 'agent/main.ts', outfile: relative(checkout, programs.agent) },
  ])
  return programs
}

/**
 * One that nobody listens at, that no connection going out is given (ip_local_port_range begins at 32768), and no other
 * test: an app that stops and starts would find it taken now and then.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(10_000, 32_000)
    if ((await isClaimed(port)) && (await isFree(port))) return port
  }
}

/** By UDP, which nothing here speaks; the kernel takes the claim back with the process of the test. */
function isClaimed(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const claim = createSocket('udp4').unref()
    claim.once('error', () => resolve(false))
    claim.bind({ port, address: '127.0.0.1', exclusive: true }, () => resolve(true))
  })
}

/** Nobody listens there. */
export function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen(port, () => server.close(() => resolve(true)))
  })
}

/** Copies a tree and removes it with the test. */
export function copyOf(t: TestContext, from: string): string {
  const dir = mkdtempSync(join(tmpdir(), 'tarmac-copy-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  if (existsSync(from)) cpSync(from, dir, { recursive: true })
  return dir
}

function beginNode(
  argv: string[],
  { input, ...options }: { env: NodeJS.ProcessEnv; cwd: string; input?: string },
): Running & { onOutput(listener: (text: string) => void): void } {
  const child = spawn(process.execPath, argv, { ...options, stdio: ['pipe', 'pipe', 'pipe'] })
  // Most read nothing and may be gone before.
  child.stdin.on('error', () => {}).end(input ?? '')
  const ran: Ran = { exit: null, stdout: '', stderr: '' }
  const listeners: ((text: string) => void)[] = []
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    ran.stdout += text
    for (const listener of listeners) listener(text)
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    ran.stderr += text
  })
  const ended = new Promise<Ran>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (exit) => resolve({ ...ran, exit }))
  })
  return {
    pid: child.pid ?? 0,
    ended,
    kill: (signal) => void child.kill(signal),
    onOutput: (listener) => void listeners.push(listener),
  }
}

function finished(child: ReturnType<typeof spawn>): Promise<void> {
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code) => (code === 0 ? resolve() : reject(new Error(`exited ${code}`))))
  })
}
