import prettyMs from 'pretty-ms'
import { FAILURES, Failure } from '../../shared/failure.ts'
import { version } from '../../shared/version.ts'
import type { Check, DoctorAnswer } from '../../shared/wire-doctor.ts'
import * as api from '../api.ts'
import type { Host } from '../config.ts'
import { type Context, needProjectOrHost, openSigning, targetHosts } from '../context.ts'
import { askHosts } from '../hosts.ts'
import { cell, type Print } from '../print.ts'

/** Below it `logs --since` and the times in `deploys` still mean what one thinks they do. */
const CLOCK_WARN_MS = 5_000
/** The time from which keys that expire, and certificates elsewhere, are taken for expired or not yet valid. */
const CLOCK_BAD_MS = 300_000

interface Answer {
  pin: string
  answer: DoctorAnswer
  /** Of this client's clock, ms since 1970. */
  asked: number
  answered: number
}

/** Looks at each host, and at the way there. Exit 10 when anything is bad. */
export async function doctor(context: Context): Promise<number> {
  const { print } = context
  const hosts = targetHosts(context, needProjectOrHost(context), 'read')
  const answers = await askHosts(context, { hosts, signing: await openSigning(context) }, async (connection) => {
    const asked = Date.now()
    const answer = await api.doctor(connection)
    return { pin: connection.pin, answer, asked, answered: Date.now() }
  })
  const examined = answers.map(({ host, answer }) => ({
    host,
    checks:
      answer instanceof Failure
        ? checksOfFailure(host, answer)
        : [...checksOfWay(host, answer), ...answer.answer.checks],
  }))
  const isWell = (checks: Check[]) => checks.every(({ state }) => state !== 'bad')
  if (print.json) {
    print.value({
      hosts: examined.map(({ host: { name, url }, checks }) => ({ name, url, ok: isWell(checks), checks })),
    })
  } else {
    for (const { host, checks } of examined) show(print, host, checks)
  }
  return examined.every(({ checks }) => isWell(checks)) ? 0 : FAILURES.unhealthy.exit
}

/** Pure: what the answer says of the way to it. */
export function checksOfWay(host: Host, { pin, answer, asked, answered }: Answer): Check[] {
  const where = host.pin === undefined ? 'trusted on this machine' : 'in tarmac.toml'
  return [
    { check: 'reachable', state: 'ok', what: `${host.url} answered in ${prettyMs(answered - asked)}`, hint: null },
    { check: 'pin', state: 'ok', what: `${pin}, ${where}`, hint: null },
    clockCheck(Date.parse(answer.at), { asked, answered }),
    versionCheck(answer.agent.version),
  ]
}

function clockCheck(at: number, { asked, answered }: { asked: number; answered: number }): Check {
  // The answer was given at some time in between: only what is outside of that is a difference.
  const off = at < asked ? at - asked : at > answered ? at - answered : 0
  const what =
    off === 0 ? 'the same time as here' : `${prettyMs(Math.abs(off))} ${off < 0 ? 'behind' : 'ahead of'} this machine`
  if (Math.abs(off) < CLOCK_WARN_MS) return { check: 'clock', state: 'ok', what, hint: null }
  const hint = 'which of the two is wrong? timedatectl'
  return { check: 'clock', state: Math.abs(off) < CLOCK_BAD_MS ? 'warn' : 'bad', what, hint }
}

function versionCheck(theirs: string): Check {
  if (theirs === version) return { check: 'version', state: 'ok', what: `${theirs}, as here`, hint: null }
  return {
    check: 'version',
    state: 'warn',
    what: `agent ${theirs}, client ${version}`,
    hint: 'install the same on both',
  }
}

/** Pure: a host that refuses is there, and one whose key is another one is not to be trusted with more. */
export function checksOfFailure(host: Host, failure: Failure): Check[] {
  const { code, exit, message } = failure
  const hint = failure.hint ?? null
  if (exit === FAILURES.agent_unreachable.exit) return [{ check: 'reachable', state: 'bad', what: message, hint }]
  const reachable: Check = { check: 'reachable', state: 'ok', what: `${host.url} is there`, hint: null }
  const isPin = code === 'pin_mismatch' || code === 'pin_unknown'
  return [reachable, { check: isPin ? 'pin' : 'answer', state: 'bad', what: message, hint }]
}

const TONES = { ok: 'good', warn: 'warn', bad: 'bad' } as const

function show(print: Print, host: Host, checks: Check[]): void {
  print.line(print.tone('strong', host.name))
  for (const { check, state, what, hint } of checks) {
    print.line(`  ${print.tone(TONES[state] ?? 'bad', cell(state).padEnd(4))}  ${cell(check).padEnd(9)}  ${cell(what)}`)
    if (hint !== null) print.line(`${' '.repeat(19)}${print.tone('dim', cell(hint))}`)
  }
}
