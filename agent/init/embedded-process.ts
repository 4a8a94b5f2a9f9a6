import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { run } from '../run.ts'

// Which processes belong to a service that the agent itself started, and their end. systemd has a cgroup for this; we
// have the process group and a mark, the INVOCATION_ID that systemd too gives each start. The mark finds what left the
// group (a daemon calls setsid) and what outlived its leader. It is read from /proc, so on macOS the group is all.

/** One start of a service, as it is kept on the disk. Pid and stamp are missing between "about to" and "did". */
export interface Run {
  invocation: string
  pid?: number
  /** When the process started, in the kernel's own words: tells it from a later one with the same pid. */
  stamp?: string
}

/** The processes to look for. No group: only those with the mark. */
export interface Family {
  group: number | undefined
  invocation: string
}

/** First wait between two looks at whether processes are gone: most are within one scheduler tick. */
const FIRST_LOOK_MS = 2
/** Slowest look; a shell's children that take their time to end need no more. */
const SLOWEST_LOOK_MS = 100
/** Most PID 1s reap at once, some once a second; in many a container one never does, and that must not hold us. */
const REAP_TIMEOUT_MS = 2000
/** Freeing the memory of a big process takes a second or two. */
const KILL_TIMEOUT_MS = 10_000
/** execve(2) shows neither arguments nor environment for 5 ms on a loaded machine; the rest is for a disk that is slow to give the program. */
const EXEC_MS = 100
/** `ps` answers at once; a machine that needs longer has no answer for us. */
const PS_TIMEOUT_MS = 5000

/** When a process started, or undefined when there is none. On Linux it is read before the first await. */
export async function stampOf(pid: number): Promise<string | undefined> {
  if (process.platform === 'linux') {
    const stat = statOf(pid)
    if (stat === undefined || stat.isDead) return undefined
    // Start times count from boot: after a reboot the same pid may well start at the same tick.
    return `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()} ${stat.startTicks}`
  }
  const said = await run(['ps', '-o', 'lstart=', '-p', String(pid)], { timeoutMs: PS_TIMEOUT_MS, okExits: [0, 1] })
  return said.stdout.trim() || undefined
}

/** Living members; what is dead holds nothing and, under a PID 1 that does not reap, would stay for ever. */
export function membersOf(family: Family): number[] {
  return lookFor(family).members
}

/** `mayBeMore`: some process becomes another program right now, and shows no mark while it does. */
function lookFor(family: Family): { members: number[]; mayBeMore: boolean } {
  if (process.platform !== 'linux') {
    const { group } = family
    return { members: group !== undefined && sendSignal(-group, 0) ? [-group] : [], mayBeMore: false }
  }
  const members: number[] = []
  let mayBeMore = false
  for (const name of readdirSync('/proc')) {
    const pid = Number(name)
    if (!Number.isInteger(pid)) continue
    const stat = statOf(pid)
    if (stat === undefined || stat.isDead) continue
    const found =
      stat.group === family.group || environmentOf(pid, stat)?.includes(`INVOCATION_ID=${family.invocation}\0`)
    if (found) members.push(pid)
    else if (found === undefined) mayBeMore = true
  }
  return { members, mayBeMore }
}

/** A signal to all of them: to the group in one call, so that no fork slips through, then to those outside it. */
export function signalFamily(family: Family, signal: NodeJS.Signals): void {
  if (family.group !== undefined) sendSignal(-family.group, signal)
  for (const pid of membersOf(family)) sendSignal(pid, signal)
}

/** True when none was left by then. */
export async function awaitGone(family: Family, timeoutMs: number): Promise<boolean> {
  const deadline = performance.now() + timeoutMs
  for (;;) {
    if (!(await awaitFalse(() => membersOf(family).length > 0, deadline - performance.now()))) return false
    const clearBy = performance.now() + EXEC_MS
    let { members, mayBeMore } = lookFor(family)
    while (members.length === 0 && mayBeMore && performance.now() < clearBy) {
      await sleep(FIRST_LOOK_MS)
      ;({ members, mayBeMore } = lookFor(family))
    }
    if (members.length === 0) return true
  }
}

/** Gives PID 1 the time to reap what is only a zombie now, so that `kill -0` too says it is gone. */
export async function awaitReaped(group: number): Promise<void> {
  await awaitFalse(() => sendSignal(-group, 0), REAP_TIMEOUT_MS)
}

async function awaitFalse(isTrue: () => boolean, timeoutMs: number): Promise<boolean> {
  const deadline = performance.now() + timeoutMs
  for (let look = FIRST_LOOK_MS; isTrue(); look = Math.min(look * 2, SLOWEST_LOOK_MS)) {
    if (performance.now() >= deadline) return false
    await sleep(look)
  }
  return true
}

/**
 * SIGKILL until none is left: a process that forks while it is killed needs a second round.
 * False when some outlived even that, which only a process stuck in the kernel does.
 */
export async function killFamily(family: Family): Promise<boolean> {
  const deadline = performance.now() + KILL_TIMEOUT_MS
  do {
    signalFamily(family, 'SIGKILL')
    if (await awaitGone(family, SLOWEST_LOOK_MS)) return true
  } while (performance.now() < deadline)
  return false
}

/**
 * What an agent that died left of a run. Pids are used again: the group is ours only while its leader is the process
 * we started. Without the leader only the mark proves a process ours.
 */
export async function leftoverOf(past: Run): Promise<Family> {
  const isOurs = past.pid !== undefined && past.stamp !== undefined && (await stampOf(past.pid)) === past.stamp
  return { group: isOurs ? past.pid : undefined, invocation: past.invocation }
}

/** Resident bytes as /proc tells them, undefined where there is none. */
export function residentBytes(pid: number): number | undefined {
  const kibibytes = /^VmRSS:\s+(\d+) kB$/m.exec(readProc(`${pid}/status`) ?? '')?.[1]
  return kibibytes === undefined ? undefined : Number(kibibytes) * 1024
}

/** False when there is no such process, or none that is ours to signal (macOS says EPERM of a zombie). */
export function sendSignal(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(pid, signal)
  } catch {
    return false
  }
}

interface Stat {
  isDead: boolean
  group: number
  startTicks: string
  /** A thread of the kernel, which has no memory of its own. */
  isKernels: boolean
}

/**
 * A process that was killed is shown as a zombie as soon as its first thread has ended. It is dead when that is its only
 * one: until then the others hold its port, and whoever is started next finds it taken.
 */
function statOf(pid: number): Stat | undefined {
  const text = readProc(`${pid}/stat`)
  if (text === undefined) return undefined
  // proc_pid_stat(5): field 2 is the program's name in parentheses and may itself hold blanks and parentheses.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  const [state, , group] = fields
  const [threads, , startTicks, memoryBytes] = fields.slice(17)
  if (state === undefined || startTicks === undefined) return undefined
  const isDead = state === 'X' || (state === 'Z' && Number(threads) <= 1)
  return { isDead, group: Number(group), startTicks, isKernels: memoryBytes === '0' }
}

/**
 * The environment of a process, in which the mark is. Undefined in the middle of its execve(2); one that was started with no
 * environment still shows its arguments.
 */
function environmentOf(pid: number, { isKernels }: Stat): string | undefined {
  const environment = readProc(`${pid}/environ`) ?? ''
  if (environment !== '' || isKernels) return environment
  // Read once more: it may be over by now.
  return readProc(`${pid}/cmdline`) === '' ? undefined : (readProc(`${pid}/environ`) ?? '')
}

/** Undefined when the process has ended meanwhile or belongs to somebody we may not look at. */
function readProc(path: string): string | undefined {
  try {
    return readFileSync(`/proc/${path}`, 'latin1')
  } catch {
    return undefined
  }
}
