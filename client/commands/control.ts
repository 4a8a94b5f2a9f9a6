import * as api from '../api.ts'
import { appOf, type Context, needProjectOrHost, openSigning, targetHosts } from '../context.ts'
import { followChange } from '../follow.ts'
import { changeHosts, exitOf } from '../hosts.ts'
import { summarise } from '../summary.ts'

/** `restart`, `stop` and `start`: what runs, with the gate; no release moves. */
export async function control(context: Context, verb: 'restart' | 'stop' | 'start'): Promise<number> {
  const project = needProjectOrHost(context)
  const app = appOf(context, project)
  const hosts = targetHosts(context, project, 'change')
  const signing = await openSigning(context)
  const outcomes = await changeHosts(context, { hosts, signing }, async (connection) => {
    context.print.note(`${verb} ${app} on ${connection.host.name}`)
    return followChange(context, { host: connection.host, app, signing }, api.control(connection, verb, app))
  })
  const done = { restart: 'restarted', stop: 'stopped', start: 'started' }[verb]
  summarise(context.print, outcomes, ({ release }) => `${app} ${done}, release ${release}`)
  return exitOf(outcomes)
}
