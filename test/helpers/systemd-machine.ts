import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { TestContext } from 'node:test'
import { boot, layCable, PROGRAM_PATH, powerOff, prepareRoot, takeAwayCable } from './systemd-machine-boot.ts'

export { CHECKOUT_INSIDE } from './systemd-machine-boot.ts'

// A host for system tests: a real systemd as PID 1, booted in a container over a throw-away overlay of this machine's
// own root. Everything of this machine is there at its own path, the checkout too; what is written goes to a tmpfs.

/** Writable inside, and not hidden from units as /tmp and /home are by PrivateTmp and ProtectHome. */
export const MACHINE_DATA = '/var/lib/tarmac-test'
/** A hung program inside must not hang the test for ever. */
const RUN_TIMEOUT_MS = 120_000

export interface Ran {
  stdout: string
  stderr: string
  exit: number
}

export interface MachineRunOptions {
  /** Beside PATH, HOME and LC_ALL; nothing of the test's own environment comes along. */
  env?: Record<string, string>
  input?: string
  /** Inside; `/` when not given. */
  cwd?: string
  timeoutMs?: number
}

export interface Machine {
  name: string
  /** PID 1 of the machine as this machine's kernel numbers it; another one after `reboot`. */
  readonly pid: number
  /** Address inside, reachable from here. */
  ip: string
  /** This side's end of the cable, reachable from inside. */
  hostIp: string
  /** Runs a program inside to its end and gives its stdout. Throws with what it said when it exits other than 0. */
  run: (argv: string[], options?: MachineRunOptions) => Promise<string>
  /** As `run`, but every exit is an answer. */
  try: (argv: string[], options?: MachineRunOptions) => Promise<Ran>
  /** Starts a program inside and gives back the nsenter that stands for it. It ends with the machine at the latest. */
  spawn: (argv: string[], options?: MachineRunOptions) => ChildProcess
  /** `path` is inside; directories above it are made. */
  writeFile: (path: string, data: string | Uint8Array, mode?: number) => Promise<void>
  readFile: (path: string) => Promise<string>
  /** Copies a file or tree of this machine to a path inside. */
  copyIn: (from: string, to: string) => Promise<void>
  /** `cut` (the default): every process is killed where it stands. Keeps what a disk keeps; loses /run and /tmp. */
  reboot: (how?: 'cut' | 'orderly') => Promise<void>
  stop: () => Promise<void>
}

/** Why no machine can be booted here, or undefined when one can. */
export function machineUnavailable(): string | undefined {
  if (process.platform !== 'linux') return 'a booted systemd needs Linux'
  if (process.getuid?.() !== 0) return 'booting a systemd needs root'
  const programs = ['systemd-nspawn', 'nsenter', 'ip', 'mount', 'umount', 'dbus-daemon']
  const missing = programs.filter((program) => spawnSync('which', [program]).status !== 0)
  if (missing.length > 0) return `missing: ${missing.join(', ')} (apt-get install systemd-container dbus iproute2)`
  if (!existsSync('/lib/systemd/systemd')) return 'systemd itself is not installed'
  const hasOverlay = /\boverlay$/m.test(readFileSync('/proc/filesystems', 'utf8'))
  if (!hasOverlay && spawnSync('modprobe', ['overlay']).status !== 0) return 'the kernel has no overlay file system'
  return undefined
}

/** Boots a machine; it is stopped, unmounted and forgotten after the test, however the test ends. */
export async function bootMachine(t: TestContext, { name = 'host' }: { name?: string } = {}): Promise<Machine> {
  const base = await mkdtemp('/tmp/tarmac-machine-')
  const undo: (() => Promise<void> | void)[] = [() => rm(base, { recursive: true, force: true })]
  const stop = async () => {
    for (let step = undo.pop(); step !== undefined; step = undo.pop()) await step()
  }
  t.after(stop)
  const cable = layCable()
  undo.push(() => takeAwayCable(cable))

  execFileSync('mount', ['-t', 'tmpfs', '-o', 'mode=0755', 'tmpfs', base])
  undo.push(() => void spawnSync('umount', ['-l', base]))
  const root = join(base, 'root')
  for (const part of ['up', 'work', 'root']) await mkdir(join(base, part), { mode: 0o755 })
  const layers = `lowerdir=/,upperdir=${join(base, 'up')},workdir=${join(base, 'work')}`
  execFileSync('mount', ['-t', 'overlay', 'overlay', '-o', layers, root])
  undo.push(() => void spawnSync('umount', ['-l', root]))
  await prepareRoot(root)
  await mkdir(join(root, MACHINE_DATA), { recursive: true, mode: 0o755 })

  const place = { root, base, label: `tarmac-${name}-${randomBytes(3).toString('hex')}`, cable }
  let running = await boot(place)
  undo.push(() => powerOff(running))
  const attempt = (argv: string[], options: MachineRunOptions = {}) =>
    finish(enter(running.pid, argv, options), options)
  return {
    name,
    get pid() {
      return running.pid
    },
    ip: cable.insideIp,
    hostIp: cable.outsideIp,
    try: attempt,
    run: async (argv, options) => {
      const ran = await attempt(argv, options)
      if (ran.exit === 0) return ran.stdout
      throw new Error(`${name}: ${argv.join(' ')} exited ${ran.exit}: ${ran.stderr || ran.stdout}`)
    },
    spawn: (argv, options = {}) => enter(running.pid, argv, options),
    writeFile: async (path, data, mode = 0o644) => {
      await mkdir(dirname(join(root, path)), { recursive: true })
      await writeFile(join(root, path), data, { mode })
    },
    readFile: async (path) => readFileSync(join(root, path), 'utf8'),
    copyIn: (from, to) => cp(from, join(root, to), { recursive: true, verbatimSymlinks: true }),
    reboot: async (how = 'cut') => {
      await powerOff(running, how)
      // The inside end of the cable went with the machine's network, and took this end along.
      spawnSync('ip', ['link', 'delete', cable.outside])
      layCable(cable)
      running = await boot(place)
    },
    stop,
  }
}

function enter(pid: number, argv: string[], { env = {}, cwd = '/' }: MachineRunOptions): ChildProcess {
  const inside = { PATH: PROGRAM_PATH, LC_ALL: 'C.UTF-8', HOME: '/root', ...env }
  return spawn('nsenter', ['-a', '-t', String(pid), 'env', '-C', cwd, ...argv], { env: inside })
}

function finish(child: ChildProcess, { input = '', timeoutMs = RUN_TIMEOUT_MS }: MachineRunOptions): Promise<Ran> {
  return new Promise((resolve, reject) => {
    const ran: Ran = { stdout: '', stderr: '', exit: 0 }
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      ran.stdout += text
    })
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      ran.stderr += text
    })
    child.stdin?.on('error', () => {})
    child.stdin?.end(input)
    const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs)
    child.on('error', reject)
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      if (signal !== null) ran.stderr += `\nended by ${signal}`
      resolve({ ...ran, exit: code ?? 255 })
    })
  })
}
