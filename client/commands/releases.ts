import prettyBytes from 'pretty-bytes'
import { parseReleaseId, type ReleaseId } from '../../shared/names.ts'
import * as api from '../api.ts'
import { appOf, type Context, needProjectOrHost, openSigning, targetHosts, withConnection } from '../context.ts'
import { askApp } from '../hosts.ts'
import { cell } from '../print.ts'

export async function releases(context: Context, options: { hold?: string; unhold?: string } = {}): Promise<number> {
  const { print } = context
  if (options.hold !== undefined) await holdEverywhere(context, { release: parseReleaseId(options.hold), held: true })
  if (options.unhold !== undefined)
    await holdEverywhere(context, { release: parseReleaseId(options.unhold), held: false })
  const { app, answers } = await askApp(context, (connection, app) => api.releases(connection, app))
  if (print.json) {
    print.value({ hosts: answers.map(({ host, answer }) => ({ name: host.name, releases: answer })) })
    return 0
  }
  const rows = answers.flatMap(({ host, answer }) =>
    answer.map((release) => [
      host.name,
      release.current ? print.tone('strong', release.id) : release.id,
      release.current
        ? print.tone('good', 'current')
        : release.state === 'healthy'
          ? 'good'
          : print.tone('warn', cell(release.state)),
      cell(release.createdAt),
      cell(release.signers.join(', ')),
      prettyBytes(release.bytes),
      cell(release.envRevision),
      cell(release.keep),
    ]),
  )
  if (rows.length === 0) print.note(`no release of ${app} is kept`)
  else await print.table(['host', 'release', 'state', 'created', 'signed by', 'size', 'env', 'kept because'], rows)
  return 0
}

/** Then what is kept, and why, is shown as ever. */
async function holdEverywhere(context: Context, asked: { release: ReleaseId; held: boolean }): Promise<void> {
  const project = needProjectOrHost(context)
  const app = appOf(context, project)
  const signing = await openSigning(context)
  for (const host of targetHosts(context, project, 'change')) {
    await withConnection(context, host, signing, (connection) => api.hold(connection, app, asked))
  }
}
