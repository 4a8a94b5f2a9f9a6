import { Failure } from '../../shared/failure.ts'
import type { Command, ServiceSpec } from '../../shared/manifest.ts'
import { spawnService } from '../run.ts'
import { environmentOf } from './embedded-environment.ts'
import type { LogBook } from './embedded-log.ts'
import { type Output, openOutput } from './embedded-output.ts'
import { type Family, stampOf } from './embedded-process.ts'
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
}

/** Throws `program_failed` naming the program when it cannot be executed; nothing of it is left then. */
export async function startProcess({ unit, invocation, book, pipeFile }: Start): Promise<Running> {
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
    const argv = argvOf(spec.command)
    const { pid, exit } = await spawnService({ argv, cwd: treeDir, env, uid, gid, output: output.descriptor })
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

function argvOf(command: Command): string[] {
  return 'exec' in command ? command.exec : ['/bin/sh', '-c', command.shell]
}
