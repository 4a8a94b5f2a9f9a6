import { parseReleaseId } from '../../shared/names.ts'
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
    const { name } = connection.host
    const before = (await api.status(connection, app)).apps[0]
    const target = release ?? before?.previousGood ?? 'the previous good release'
    context.print.note(`rollback ${app} on ${name}: ${before?.running ?? 'nothing running'} → ${target}`)
    return followChange(context, { host: connection.host, app, signing }, api.rollback(connection, app, release))
  })
  summarise(
    context.print,
    outcomes,
    (outcome) => `${app} runs ${outcome.release} again (was ${outcome.previous ?? 'nothing'})`,
  )
  return exitOf(outcomes)
}
