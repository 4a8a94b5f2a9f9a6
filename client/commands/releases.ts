import prettyBytes from 'pretty-bytes'
import * as api from '../api.ts'
import type { Context } from '../context.ts'
import { askApp } from '../hosts.ts'
import { cell } from '../print.ts'

export async function releases(context: Context): Promise<number> {
  const { print } = context
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
      cell(release.keep),
    ]),
  )
  if (rows.length === 0) print.note(`no release of ${app} is kept`)
  else print.table(['host', 'release', 'state', 'created', 'signed by', 'size', 'kept because'], rows)
  return 0
}
