import { Failure } from '../../shared/failure.ts'
import type { Command, ServiceSpec } from '../../shared/manifest.ts'
import { spawnService } from '../run.ts'
import { environmentOf } from './embedded-environment.ts'
import type { LogBook } from './embedded-log.ts'
import { type Output, openOutput } from './embedded-output.ts'
import { type Family, stampOf } from './embedded-process.ts'
import type { Inherited } from './embedded-sockets.ts'
import type { UnitSpec } from './init-system.ts'

/** A process of a service that was started, until its exit was dealt with. */
export interface Running {
  pid: number
  stamp: string | undefined
  /** ISO 8601 UTC. */
  since: string
  family: Family
  spec: ServiceSpec
  output: Output
  exit: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
}

export interface Start {
  unit: UnitSpec
  invocation: string
  book: LogBook
  /** Where a named pipe can stand for a moment. */
  pipeFile: string
  /** The sockets it is given, for a unit with handover. */
  sockets: { inherited: Inherited; isHeld: boolean } | undefined
}

/** Throws `program_failed` naming the program when it cannot be executed; nothing of it is left then. */
export async function startProcess({ unit, invocation, book, pipeFile, sockets }: Start): Promise<Running> {
  const { account, spec, treeDir } = unit
  if (account.uid === undefined && process.getuid?.() === 0) {
    // Written by an agent without root; for this one "as the caller" would mean root.
    throw new Failure(
      'program_failed',
      `run ${argvOf(spec.command)[0]}: its unit names no user, and no service runs as root`,
      {
        hint: 'push the app again',
      },
    )
  }
  const env = await environmentOf(account, unit.env, invocation)
  const output = await openOutput(pipeFile, book.open(unit))
  try {
    const { uid, gid } = account
    const given =
      sockets === undefined
        ? { argv: argvOf(spec.command), env, inherit: [] }
        : withSockets(argvOf(spec.command), env, sockets)
    const { pid, exit } = await spawnService({ ...given, cwd: treeDir, uid, gid, output: output.descriptor })
    // First of all: once a process that ended at once is reaped nobody can say when it started.
    const stamp = await stampOf(pid)
    await output.handOver()
    const since = new Date().toISOString()
    return { pid, stamp, since, family: { group: pid, invocation }, spec, output, exit }
  } catch (error) {
    await output.finish()
    throw error
  }
}

/**
 * As sd_listen_fds(3) has it. LISTEN_PID must be the process's own pid, which is known only once it is there: a shell
 * says it and becomes the program.
 */
function withSockets(
  argv: string[],
  env: Record<string, string>,
  { inherited, isHeld }: NonNullable<Start['sockets']>,
) {
  return {
    argv: ['/bin/sh', '-c', 'LISTEN_PID=$$ exec "$@"', 'sh', ...argv],
    inherit: inherited.fds,
    env: {
      ...env,
      LISTEN_FDS: String(inherited.fds.length),
      LISTEN_FDNAMES: inherited.names.join(':'),
      ...(isHeld ? { TARMAC_HOLD: '1' } : {}),
    },
  }
}

function argvOf(command: Command): string[] {
  return 'exec' in command ? command.exec : ['/bin/sh', '-c', command.shell]
}
