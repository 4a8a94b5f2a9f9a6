import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { randomBytes, randomInt } from 'node:crypto'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { mkdir, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

// The parts of a machine for system tests: its network cable, its root, its power switch.

const CHECKOUT = join(import.meta.dirname, '../..')
/** Where a machine has this checkout, whatever file system it lies on and whatever the machine mounts over /tmp. */
export const CHECKOUT_INSIDE = '/opt/tarmac-checkout'
export const PROGRAM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
const BOOT_TIMEOUT_MS = 60_000
const STOP_TIMEOUT_MS = 15_000
/** 10.213.N.0/30; so many machines at once are more than memory allows. */
const MAX_MACHINES = 250
/** Parts of systemd that are slow or noisy at boot and of no use to a test. */
const MASKED = [
  'console-getty.service',
  'getty.target',
  'systemd-firstboot.service',
  'systemd-update-utmp.service',
  'systemd-update-utmp-runlevel.service',
  'systemd-udevd.service',
  'systemd-udev-trigger.service',
  'systemd-networkd.service',
  'systemd-resolved.service',
]

export interface Running {
  nspawn: ChildProcess
  pid: number
  cgroups: string[]
}

export interface Cable {
  /** Name of the interface on this side; with an "i" behind, of the other end until it is plugged in. */
  outside: string
  outsideIp: string
  insideIp: string
}

export interface Place {
  root: string
  base: string
  label: string
  cable: Cable
}

/** The interface's name is the claim on N: making it a second time fails, so machines of parallel tests never share. */
export function layCable(wanted?: Cable): Cable {
  for (let tries = 0; tries < MAX_MACHINES; tries++) {
    const n = randomInt(MAX_MACHINES)
    const cable = wanted ?? { outside: `tm${n}`, outsideIp: `10.213.${n}.1`, insideIp: `10.213.${n}.2` }
    const peer = ['type', 'veth', 'peer', 'name', `${cable.outside}i`]
    const made = spawnSync('ip', ['link', 'add', cable.outside, ...peer], { encoding: 'utf8' })
    if (made.status !== 0 && wanted === undefined) continue
    if (made.status !== 0) throw new Error(`ip link add ${cable.outside}: ${made.stderr}`)
    // While the machine is off there is no interface, and what is sent to it would leave by the default route: behind
    // that a proxy may stand that answers for every address, with a certificate of its own.
    execFileSync('ip', ['route', 'replace', ...whileOff(cable)])
    execFileSync('ip', ['addr', 'add', `${cable.outsideIp}/30`, 'dev', cable.outside])
    execFileSync('ip', ['link', 'set', cable.outside, 'up'])
    return cable
  }
  throw new Error(`no free network 10.213.N.0/30 after ${MAX_MACHINES} tries`)
}

export function takeAwayCable(cable: Cable): void {
  spawnSync('ip', ['link', 'delete', cable.outside])
  spawnSync('ip', ['route', 'delete', ...whileOff(cable)])
}

/** As a network says of a host that is switched off. The interface's own route is nearer while there is one. */
function whileOff({ outsideIp }: Cable): string[] {
  return ['unreachable', outsideIp.replace(/1$/, '0/30'), 'metric', '9999']
}

/** Takes away what belongs to the machine below: its servers, its disks, its identity, its logs. */
export async function prepareRoot(root: string): Promise<void> {
  const units = join(root, 'etc/systemd/system')
  for (const entry of await readdir(units)) {
    if (entry.endsWith('.wants')) await rm(join(units, entry), { recursive: true })
  }
  for (const unit of MASKED) {
    await rm(join(units, unit), { force: true })
    await symlink('/dev/null', join(units, unit))
  }
  const generators = join(root, 'etc/systemd/system-generators')
  await mkdir(generators, { recursive: true })
  for (const generator of await readdir(join(root, 'lib/systemd/system-generators'))) {
    if (!generator.startsWith('systemd-')) await symlink('/dev/null', join(generators, generator))
  }
  await writeFile(join(root, 'etc/fstab'), '')
  await writeFile(join(root, 'etc/machine-id'), `${randomBytes(16).toString('hex')}\n`)
  // There the journal outlives a reboot, as on an Ubuntu host.
  await rm(join(root, 'var/log/journal'), { recursive: true, force: true })
  await mkdir(join(root, 'var/log/journal'), { recursive: true })
}

export async function boot({ root, base, label, cable }: Place): Promise<Running> {
  // Without cgroups of its own, two machines would both rule "/payload" and kill each other's processes.
  const cgroups = cgroupRoots().map((path) => join(path, label))
  for (const path of cgroups) await mkdir(path, { recursive: true })
  const log = join(base, 'console.log')
  const output = openSync(log, 'a')
  const enter = 'for dir in $CGROUPS; do echo $$ > "$dir/cgroup.procs"; done; exec systemd-nspawn "$@"'
  const how = ['--boot', '--register=no', '--keep-unit', '--private-network', '--link-journal=no', '--quiet']
  const place = [
    '-D',
    root,
    `--machine=${label}`,
    '--resolv-conf=off',
    '--timezone=off',
    `--bind-ro=${CHECKOUT}:${CHECKOUT_INSIDE}`,
  ]
  const nspawn = spawn('sh', ['-c', enter, 'sh', ...how, ...place], {
    env: { PATH: PROGRAM_PATH, CGROUPS: cgroups.join(' '), SYSTEMD_NSPAWN_UNIFIED_HIERARCHY: '1' },
    stdio: ['ignore', output, output],
  })
  closeSync(output)
  const running = { nspawn, pid: 0, cgroups }
  const end = Date.now() + BOOT_TIMEOUT_MS
  try {
    while (!isBooted(running)) {
      if (hasEnded(nspawn) || Date.now() > end) {
        throw new Error(`${label} did not boot:\n${readFileSync(log, 'utf8').slice(-3000)}`)
      }
      await sleep(50)
      running.pid = initOf(nspawn.pid ?? 0) ?? 0
    }
    plugIn(running.pid, cable)
    return running
  } catch (error) {
    await powerOff(running)
    throw error
  }
}

/** `orderly`: systemd stops its services first. `cut`: every process is killed where it stands. */
export async function powerOff({ nspawn, pid, cgroups }: Running, how: 'cut' | 'orderly' = 'cut'): Promise<void> {
  const gone = new Promise<void>((resolve) => {
    if (hasEnded(nspawn)) resolve()
    else nspawn.once('exit', () => resolve())
  })
  const orTooLong = () => Promise.race([gone, sleep(STOP_TIMEOUT_MS, undefined, { ref: false })])
  if (how === 'orderly') {
    nspawn.kill('SIGTERM')
    await orTooLong()
  }
  if (!hasEnded(nspawn)) {
    // The kernel kills all of a pid namespace with its PID 1; nspawn then ends by itself.
    if (pid > 0) killQuietly(pid)
    else nspawn.kill('SIGKILL')
    await orTooLong()
    nspawn.kill('SIGKILL')
  }
  await gone
  for (const path of cgroups) spawnSync('find', [path, '-depth', '-type', 'd', '-exec', 'rmdir', '{}', ';'])
}

/** Where hierarchies that a systemd can own are mounted: the unified one, and beside it the old named one. */
function cgroupRoots(): string[] {
  const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n')
  return mounts.flatMap((line) => {
    const [, path = '', type, flags] = line.split(' ')
    return type === 'cgroup2' || (type === 'cgroup' && flags?.includes('name=systemd')) ? [path] : []
  })
}

function initOf(nspawnPid: number): number | undefined {
  try {
    const children = readFileSync(`/proc/${nspawnPid}/task/${nspawnPid}/children`, 'utf8').trim().split(' ')
    const isInit = (pid: number) => pid > 0 && readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === 'systemd'
    return children.map(Number).find(isInit)
  } catch {
    // One of them ended while we looked.
    return undefined
  }
}

function isBooted({ pid }: Running): boolean {
  if (pid === 0) return false
  const asked = spawnSync('nsenter', ['-a', '-t', String(pid), 'systemctl', 'is-system-running'], { encoding: 'utf8' })
  // Degraded: some unit of the machine below cannot run in a container. That is its business.
  return ['running', 'degraded'].includes(asked.stdout.trim())
}

function plugIn(pid: number, { outside, outsideIp, insideIp }: Cable): void {
  execFileSync('ip', ['link', 'set', `${outside}i`, 'netns', String(pid), 'name', 'host0'])
  const inside = ['-t', String(pid), '-n', 'ip']
  execFileSync('nsenter', [...inside, 'addr', 'add', `${insideIp}/30`, 'dev', 'host0'])
  execFileSync('nsenter', [...inside, 'link', 'set', 'host0', 'up'])
  execFileSync('nsenter', [...inside, 'route', 'add', 'default', 'via', outsideIp])
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It ended by itself a moment ago.
  }
}
