import prettyBytes from 'pretty-bytes'
import type { Line, PruneAnswer } from '../../shared/wire.ts'
import * as api from '../api.ts'
import { appOf, type Context, needProjectOrHost, openSigning, targetHosts } from '../context.ts'
import { followChange } from '../follow.ts'
import { askApp, changeHosts, exitOf } from '../hosts.ts'
import { cell, type Print } from '../print.ts'
import { summarise } from '../summary.ts'

/** Removes what is not kept, and says what went; with `explain` it changes nothing and says what would go, and why. */
export async function prune(context: Context, { explain }: { explain?: boolean }): Promise<number> {
  if (explain) return explained(context)
  const project = needProjectOrHost(context)
  const app = appOf(context, project)
  const hosts = targetHosts(context, project, 'change')
  const signing = await openSigning(context)
  const gone = new Map<string, Gone>()
  const outcomes = await changeHosts(context, { hosts, signing }, async (connection) => {
    const { host } = connection
    context.print.note(`prune ${app} on ${host.name}`)
    const counted: Gone = { releases: 0, freedBytes: 0, isWhole: false }
    gone.set(host.name, counted)
    return followChange(context, { host, app, signing }, counting(api.prune(connection, app), counted))
  })
  summarise(context.print, outcomes, ({ name }) => `${app}: ${wordsOf(gone.get(name))}`, {
    pruned: [...gone].map(([name, { releases, freedBytes }]) => ({ name, releases, freedBytes })),
  })
  return exitOf(outcomes)
}

interface Gone {
  releases: number
  freedBytes: number
  /** False when the agent went away in the middle, and only how it ended was asked. */
  isWhole: boolean
}

function wordsOf({ releases, freedBytes, isWhole }: Gone = { releases: 0, freedBytes: 0, isWhole: false }): string {
  if (!isWhole) return 'pruned; what went: tarmac deploys'
  if (releases === 0 && freedBytes === 0) return 'nothing to remove'
  return `${releases} ${releases === 1 ? 'release' : 'releases'} removed, ${prettyBytes(freedBytes)} freed`
}

async function* counting(lines: AsyncIterable<Line>, gone: Gone): AsyncGenerator<Line> {
  for await (const line of lines) {
    if (line.step === 'pruned') {
      if (line.release !== undefined) gone.releases += 1
      gone.freedBytes += line.freedBytes ?? 0
    }
    if (line.step === 'done') gone.isWhole = true
    yield line
  }
}

async function explained(context: Context): Promise<number> {
  const { print } = context
  const { app, answers } = await askApp(context, (connection, app) => api.explainPrune(connection, app))
  if (print.json) {
    print.value({ hosts: answers.map(({ host, answer }) => ({ name: host.name, ...answer })) })
    return 0
  }
  const rows = answers.flatMap(({ host, answer }) => answer.releases.map((release) => rowOf(print, host.name, release)))
  if (rows.length === 0) print.note(`there is no release of ${app}`)
  else await print.table(['host', 'release', 'verdict', 'because', 'frees'], rows)
  for (const { host, answer } of answers) {
    for (const name of answer.strays) print.note(`${host.name}  ${cell(name)} is no release of ours: it stays`)
    print.line(`${host.name}  ${totalOf(answer)}`)
  }
  return 0
}

function rowOf(print: Print, host: string, { id, keep, why, freesBytes }: PruneAnswer['releases'][number]): string[] {
  const verdict = keep ? print.tone('good', 'keep') : print.tone('warn', 'remove')
  return [host, id, verdict, cell(why), keep ? '-' : prettyBytes(freesBytes)]
}

function totalOf({ releases, orphans, pressure }: PruneAnswer): string {
  const doomed = releases.filter(({ keep }) => !keep)
  const bytes = doomed.reduce((sum, { freesBytes }) => sum + freesBytes, orphans.bytes)
  const disk = pressure === 'ok' ? '' : ` (the disk is ${pressure})`
  if (doomed.length === 0 && orphans.objects === 0) return `nothing to remove${disk}`
  const cut = orphans.objects === 0 ? '' : ` and ${orphans.objects} files that are in none`
  return `tarmac prune would remove ${doomed.length} of ${releases.length} releases${cut}, and free ${prettyBytes(bytes)}${disk}`
}
