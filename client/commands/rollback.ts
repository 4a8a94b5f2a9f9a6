import { parseReleaseId } from '../../shared/names.ts'
import { printableLine } from '../../shared/printable.ts'
import type { Line } from '../../shared/wire.ts'
import * as api from '../api.ts'
import { appOf, type Context, needProjectOrHost, openSigning, targetHosts } from '../context.ts'
import { followChange } from '../follow.ts'
import { changeHosts, exitOf } from '../hosts.ts'
import { summarise } from '../summary.ts'
import { releases } from './releases.ts'

export async function rollback(
  context: Context,
  asked: string | undefined,
  { list }: { list?: boolean },
): Promise<number> {
  if (list) return releases(context)
  const project = needProjectOrHost(context)
  const app = appOf(context, project)
  const release = asked === undefined ? undefined : parseReleaseId(asked)
  const hosts = targetHosts(context, project, 'change')
  const signing = await openSigning(context)
  const outcomes = await changeHosts(context, { hosts, signing }, async (connection) => {
    const { host } = connection
    const lines = announced(context, `rollback ${app} on ${host.name}`, api.rollback(connection, app, release))
    return followChange(context, { host, app, signing }, lines)
  })
  summarise(
    context.print,
    outcomes,
    (outcome) => `${app} runs ${outcome.release} again (was ${outcome.previous ?? 'nothing'})`,
  )
  return exitOf(outcomes)
}

/** Says where it goes as soon as the agent does. */
async function* announced({ print }: Context, what: string, lines: AsyncIterable<Line>): AsyncGenerator<Line> {
  for await (const line of lines) {
    if (line.step === 'waiting' && line.message !== undefined) print.note(`${what}: ${printableLine(line.message)}`)
    yield line
  }
}
