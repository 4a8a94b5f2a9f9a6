import * as v from 'valibot'
import { Failure } from './failure.ts'

// The variables an app is given by people: what one may be called, what it may hold, and how many there may be. The
// client refuses by these rules before anything is sent, the agent before anything is written. Pure.

/** By name. Values are secrets: no message, log or answer ever holds one. */
export type Variables = Readonly<Record<string, string>>

/** What to make of an app's variables. Names are in one of the two only. */
export interface VariableChange {
  set: { name: string; value: string }[]
  unset: string[]
}

/** A variable without its value, which never leaves the host again once it is there. */
export interface MaskedVariable {
  name: string
  bytes: number
  /** Equal for equal values of this name, so that two hosts can be compared. */
  digest: string
}

/** Answer of GET `env`: the environment of what serves; before the first push, the one it will get. */
export interface EnvAnswer {
  /** 0 when none was ever set. */
  revision: number
  /** What the next push gets; it differs after a rollback to a release that ran with an older one. */
  newest: number
  at: string | null
  by: string | null
  variables: MaskedVariable[]
}

export const VARIABLE_NAME = /^[A-Za-z_][A-Za-z0-9_]*$/
// systemd takes no text with these: NUL and lone surrogates are no UTF-8 text, and it counts Unicode's noncharacters
// as invalid (utf8.c, unichar_is_valid).
export const NOT_TEXT = /[\0\p{Cs}\p{Noncharacter_Code_Point}]/u
/** The kernel's MAX_ARG_STRLEN: one argument, or one NAME=value, with its NUL; execve fails beyond it. */
export const MAX_STRING_BYTES = 128 * 1024
/** What NODE_OPTIONS must leave to ours, which names a path of at most 4,096 bytes (PATH_MAX). */
const NODE_OPTIONS_ROOM_BYTES = 5 * 1024
/** Long enough for any; it is shown in tables and messages. */
const MAX_NAME_CHARS = 200
/** Half of what the kernel gives arguments and environment together (a quarter of the 8 MiB stack), and of that the half again. */
export const MAX_ENVIRONMENT_BYTES = 1024 * 1024
/** More is a database. */
const MAX_VARIABLES = 1000
/** The most a change can have on its way: JSON writes a control character as six bytes. */
export const MAX_CHANGE_BYTES = 6 * MAX_ENVIRONMENT_BYTES + 128 * 1024

/** Set by the agent for each service: an app that is told another release or app would be told a lie. */
const OURS = /^TARMAC_/
/** Set by init for sockets it hands over (sd_listen_fds): with another value the app takes the wrong descriptors. */
const OF_INIT = /^LISTEN_(FDS|PID|FDNAMES|PIDFDID)$/

const changeSchema = v.strictObject({
  set: v.array(v.strictObject({ name: v.string(), value: v.string() })),
  unset: v.array(v.string()),
})

/** Throws `request_refused` for what is no change at all, and `env_invalid` for a name or value that no app can get. */
export function parseVariableChange(value: unknown): VariableChange {
  const parsed = v.safeParse(changeSchema, value)
  if (!parsed.success) {
    throw new Failure('request_refused', 'change env: it is not {"set": [{"name", "value"}], "unset": [name]}')
  }
  const { set, unset } = parsed.output
  const seen = new Set<string>()
  for (const name of [...set.map(({ name }) => name), ...unset]) {
    checkName(name)
    if (seen.has(name)) throw refused(name, 'is named twice in one change')
    seen.add(name)
  }
  for (const { name, value } of set) checkValue(name, value)
  if (seen.size === 0) throw new Failure('request_refused', 'change env: it names no variable')
  return { set, unset }
}

/** The whole of what it is afterwards, sorted by name. Throws `env_invalid` when that is more than a process can get. */
export function changedVariables(before: Variables, { set, unset }: VariableChange): Variables {
  const after = new Map(Object.entries(before))
  for (const name of unset) after.delete(name)
  for (const { name, value } of set) after.set(name, value)
  const sorted = [...after].sort(([a], [b]) => (a < b ? -1 : 1))
  if (sorted.length > MAX_VARIABLES) {
    throw new Failure('env_invalid', `change env: it has ${sorted.length} variables; the limit is ${MAX_VARIABLES}`)
  }
  const bytes = sorted.reduce((sum, [name, value]) => sum + bytesOf(name, value), 0)
  if (bytes > MAX_ENVIRONMENT_BYTES) {
    throw new Failure('env_invalid', `change env: it has ${bytes} bytes; the limit is ${MAX_ENVIRONMENT_BYTES}`, {
      hint: 'what is that large belongs into a file of the release, or under shared',
    })
  }
  // fromEntries makes an own property of whatever name, `__proto__` too.
  return Object.fromEntries(sorted)
}

export function isSameVariables(a: Variables, b: Variables): boolean {
  const names = Object.keys(a)
  return names.length === Object.keys(b).length && names.every((name) => Object.hasOwn(b, name) && a[name] === b[name])
}

function checkName(name: string): void {
  if (name.length > MAX_NAME_CHARS || !VARIABLE_NAME.test(name)) {
    throw refused(name, `does not match ${VARIABLE_NAME.source} with at most ${MAX_NAME_CHARS} characters`)
  }
  if (OURS.test(name) || OF_INIT.test(name)) throw refused(name, 'is given to every service by tarmac or init itself')
}

function checkValue(name: string, value: string): void {
  if (NOT_TEXT.test(value)) throw refused(name, 'holds NUL, a lone surrogate or a noncharacter of Unicode')
  const max = MAX_STRING_BYTES - (name === 'NODE_OPTIONS' ? NODE_OPTIONS_ROOM_BYTES : 0)
  const bytes = bytesOf(name, value)
  if (bytes <= max) return
  throw refused(name, `has ${bytes} bytes with its name; the limit is ${max}, as Linux gives no process more`)
}

/** As the kernel counts: NAME=value and a NUL. */
function bytesOf(name: string, value: string): number {
  return Buffer.byteLength(name) + 1 + Buffer.byteLength(value) + 1
}

function refused(name: string, why: string): Failure {
  return new Failure('env_invalid', `env ${JSON.stringify(name.slice(0, MAX_NAME_CHARS))}: ${why}`)
}
