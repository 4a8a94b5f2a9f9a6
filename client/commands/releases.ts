import prettyBytes from 'pretty-bytes'
import * as api from '../api.ts'
import { appOf, type Context, needProjectOrHost, openSigning, targetHosts } from '../context.ts'
import { askAll } from '../hosts.ts'
import { cell } from '../print.ts'

export async function releases(context: Context): Promise<number> {
  const { print } = context
  const project = needProjectOrHost(context)
  const app = appOf(context, project)
  const hosts = targetHosts(context, project, 'read')
  const answers = await askAll(context, { hosts, signing: await openSigning(context) }, (connection) =>
    api.releases(connection, app),
  )
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
      cell(release.keep),
    ]),
  )
  if (rows.length === 0) print.note(`no release of ${app} is kept`)
  else print.table(['host', 'release', 'state', 'created', 'signed by', 'size', 'kept because'], rows)
  return 0
}
