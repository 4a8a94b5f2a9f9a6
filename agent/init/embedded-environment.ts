import { readFile } from 'node:fs/promises'
import { userInfo } from 'node:os'
import { dirname } from 'node:path'
import type { Account } from './init-system.ts'

/** systemd's own default, systemd.exec(5) under "Environment Variables in Spawned Processes". */
const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

interface Person {
  user: string
  home: string | undefined
  shell: string | undefined
}

/**
 * What a service sees: `env` over what systemd gives a unit with `User=`. Nothing of the agent's own environment leaks.
 * systemd leaves out a HOME of "/" and a SHELL that lets nobody in; so do we.
 */
export async function environmentOf(account: Account, env: Record<string, string>, invocation: string) {
  const isCaller = account.uid === undefined
  const { user, home, shell } = isCaller ? caller() : await personCalled(account.user)
  const path = env.PATH ?? DEFAULT_PATH
  return {
    ...(home === undefined || home === '' || home === '/' ? {} : { HOME: home }),
    ...(shell === undefined || /^$|\/(nologin|false)$/.test(shell) ? {} : { SHELL: shell }),
    USER: user,
    LOGNAME: user,
    ...env,
    // Without root this is somebody's laptop or a container, whose own `node` may be old or absent. The Node that runs
    // the agent is there for certain. With root it is a host, and a host's services use what the host has.
    PATH: isCaller ? `${dirname(process.execPath)}:${path}` : path,
    INVOCATION_ID: invocation,
  }
}

/** The user the agent runs as: without root no other can run anything. */
export function callerAccount(): Account {
  return { user: caller().user, uid: undefined, gid: undefined }
}

function caller(): Person {
  try {
    const { username, homedir, shell } = userInfo()
    return { user: username, home: homedir, shell: shell ?? undefined }
  } catch {
    // A container run with a bare number as its user has no entry for it.
    return { user: String(process.getuid?.() ?? 0), home: undefined, shell: undefined }
  }
}

async function personCalled(user: string): Promise<Person> {
  const entry = (await readFile('/etc/passwd', 'utf8')).split('\n').find((line) => line.startsWith(`${user}:`))
  const [, , , , , home, shell] = entry?.split(':') ?? []
  return { user, home, shell }
}
