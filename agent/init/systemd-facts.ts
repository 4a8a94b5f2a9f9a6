import { constants } from 'node:os'
import type { ExitFact } from '../../shared/wire.ts'
import type { UnitFacts } from './init-system.ts'
import type { Properties } from './systemd-bus.ts'

// What systemd's properties mean. Pure.

/** waitid(2)'s si_code, which ExecMainCode holds. */
const CLD_EXITED = 1
/** systemd's own exit codes for what failed before the program ran: systemd.exec(5), "Process Exit Codes". */
const START_FAILURES: Record<number, string> = {
  200: 'cannot change to its directory (200/CHDIR)',
  203: 'cannot be executed: not there, not executable, or its interpreter is missing (203/EXEC)',
  216: 'its group does not exist (216/GROUP)',
  217: 'its user does not exist (217/USER)',
  226: 'its sandbox cannot be set up (226/NAMESPACE)',
}

/** Memory is left to the caller when systemd does not account for it. */
export function factsOf(properties: Properties): UnitFacts {
  const pid = number(properties, 'MainPID')
  const state = stateOf(properties)
  const memory = properties.MemoryCurrent
  return {
    state,
    pid: pid === 0 ? undefined : pid,
    since: pid === 0 ? undefined : isoTime(properties.ExecMainStartTimestamp),
    respawns: number(properties, 'NRestarts'),
    lastExit: exitOf(properties),
    memoryBytes: typeof memory === 'bigint' && memory <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(memory) : undefined,
  }
}

/** The exit of the main process, if it has ended and no new one was started since: systemd forgets it then. */
export function exitOf(properties: Properties): ExitFact | undefined {
  const at = isoTime(properties.ExecMainExitTimestamp)
  if (at === undefined) return undefined
  const status = number(properties, 'ExecMainStatus')
  const oom = properties.Result === 'oom-kill'
  if (number(properties, 'ExecMainCode') === CLD_EXITED) return { code: status, signal: null, oom, at }
  return { code: null, signal: signalName(status), oom, at }
}

/** Why a start failed, in words, as far as systemd tells. */
export function startFailure(properties: Properties): string {
  const exit = exitOf(properties)
  const known = exit?.code == null ? undefined : START_FAILURES[exit.code]
  if (known !== undefined) return `program ${JSON.stringify(programOf(properties))} ${known}`
  if (exit !== undefined) return `it ended at once, ${exit.signal ?? `exit ${exit.code}`}`
  return `systemd says ${String(properties.Result)}`
}

function stateOf(properties: Properties): UnitFacts['state'] {
  if (properties.LoadState === 'not-found') return 'absent'
  switch (properties.ActiveState) {
    case 'active':
    case 'reloading':
      return 'running'
    case 'activating':
      // "auto-restart", and from 254 on also "auto-restart-queued".
      return String(properties.SubState).startsWith('auto-restart') ? 'respawning' : 'starting'
    case 'deactivating':
      return 'stopping'
    case 'failed':
      return gaveUp(properties) ? 'gave-up' : 'failed'
    default:
      return 'stopped'
  }
}

// Result alone does not tell: at the limit it keeps the reason of the last exit, and says start-limit-hit only when that
// was a clean one (systemd issue 32203). With Restart=always a unit that was restarted up to its limit and has failed
// was given up; a stop that took too long, or one by hand that ended badly, also fails but has no refused restart.
function gaveUp(properties: Properties): boolean {
  if (properties.Result === 'start-limit-hit') return true
  return properties.Result !== 'timeout' && number(properties, 'NRestarts') >= number(properties, 'StartLimitBurst')
}

function programOf(properties: Properties): string {
  // a(sasbttttuii): the path comes first.
  const { ExecStart } = properties
  return Array.isArray(ExecStart) && Array.isArray(ExecStart[0]) ? String(ExecStart[0][0]) : 'unknown'
}

function signalName(signal: number): string {
  const known = Object.entries(constants.signals).find(([, value]) => value === signal)
  return known?.[0] ?? `SIG${signal}`
}

/** Property of a unit as a number, 0 when it has none. */
export function number(properties: Properties, name: string): number {
  const value = properties[name]
  return typeof value === 'number' || typeof value === 'bigint' ? Number(value) : 0
}

/** systemd counts microseconds since 1970; 0 means never. */
function isoTime(micros: unknown): string | undefined {
  return typeof micros === 'bigint' && micros > 0n ? new Date(Number(micros / 1000n)).toISOString() : undefined
}
