import { existsSync } from 'node:fs'
import { Failure } from '../../shared/failure.ts'
import { type AppName, sha256 } from '../../shared/names.ts'
import { run } from '../run.ts'
import type { Account } from './init-system.ts'

// The user an app runs as, made by the system's own tools. It has no home, no shell and no password.

/** Linux: 32 with the NUL (utmp's ut_user); useradd and sysusers refuse more. */
const MAX_USER_CHARS = 31
const PREFIX = 'tarmac-'
const HASH_CHARS = 8
const LOOKUP_TIMEOUT_MS = 10_000
const MAKE_TIMEOUT_MS = 60_000
/** getent(1): the key was not found. */
const GETENT_NOT_FOUND = 2

/** `tarmac-<app>`; a long name is cut and told apart by a hash, after "_", which no app name holds. */
export function userName(app: AppName): string {
  const whole = `${PREFIX}${app}`
  if (whole.length <= MAX_USER_CHARS) return whole
  return `${whole.slice(0, MAX_USER_CHARS - HASH_CHARS - 1)}_${sha256(app).slice(0, HASH_CHARS)}`
}

/** The app's account, made when there is none. Needs root; throws `program_failed`. */
export async function ensureAccount(app: AppName): Promise<Account> {
  const user = userName(app)
  const there = await findAccount(user)
  if (there !== undefined) return there
  await makeUser(`u ${user} - "tarmac app ${app}" /nonexistent /usr/sbin/nologin\n`)
  const made = await findAccount(user)
  if (made === undefined) throw new Failure('program_failed', `make user ${user}: systemd-sysusers left no such user`)
  return made
}

async function findAccount(user: string): Promise<Account | undefined> {
  const { stdout, exit } = await run(['getent', 'passwd', user], {
    timeoutMs: LOOKUP_TIMEOUT_MS,
    okExits: [0, GETENT_NOT_FOUND],
  })
  if (exit === GETENT_NOT_FOUND) return undefined
  const [name, , uid, gid] = stdout.split(':')
  const account = { user, uid: Number(uid), gid: Number(gid) }
  if (name !== user || !(account.uid > 0) || !(account.gid > 0)) {
    throw new Failure('program_failed', `use user ${user}: uid ${uid}, gid ${gid}: an app never runs as root`)
  }
  return account
}

// systemd-sysusers rewrites files all over /etc, which the agent's own sandbox keeps read-only: PID 1 runs it for us,
// outside of it. Where PID 1 is not systemd there is no such sandbox either.
async function makeUser(line: string): Promise<void> {
  const sysusers = ['systemd-sysusers', '-']
  const byInit = ['systemd-run', '--quiet', '--wait', '--pipe', '--collect', ...sysusers]
  const argv = existsSync('/run/systemd/system') ? byInit : sysusers
  await run(argv, { timeoutMs: MAKE_TIMEOUT_MS, input: line })
}
