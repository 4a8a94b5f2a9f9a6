import { Failure } from '../../shared/failure.ts'
import * as api from '../api.ts'
import type { Context } from '../context.ts'
import { receiptLines } from '../follow.ts'
import { gapText } from '../gap.ts'
import { askApp } from '../hosts.ts'
import { cell } from '../print.ts'

export async function deploys(
  context: Context,
  asked: string | undefined,
  { count }: { count: number },
): Promise<number> {
  const { print } = context
  const { answers } = await askApp(context, (connection, app) => api.deploys(connection, app, count))
  const chosen = answers.map(({ host, answer }) => ({
    host,
    answer: asked === undefined ? answer : answer.filter(({ id }) => String(id) === asked),
  }))
  if (asked !== undefined && chosen.every(({ answer }) => answer.length === 0)) {
    throw new Failure('usage', `find deploy ${JSON.stringify(asked)}: it is not among the last ${count}`, {
      hint: 'look further back: -n 1000',
    })
  }
  if (print.json) {
    print.value({ hosts: chosen.map(({ host, answer }) => ({ name: host.name, deploys: answer })) })
    return 0
  }
  const rows = chosen.flatMap(({ host, answer }) =>
    answer.map((deploy) => [
      host.name,
      String(deploy.id),
      cell(deploy.startedAt),
      cell(deploy.who),
      cell(deploy.kind),
      cell(deploy.from),
      cell(deploy.to),
      deploy.result === 'done'
        ? print.tone('good', 'done')
        : print.tone(deploy.result === 'running' ? 'warn' : 'bad', cell(deploy.code ?? deploy.result)),
      deploy.seconds === null ? '-' : `${deploy.seconds.toFixed(1)} s`,
      gapText(deploy),
    ]),
  )
  await print.table(['host', 'nr', 'when', 'who', 'what', 'from', 'to', 'result', 'took', 'gap'], rows)
  if (asked === undefined) return 0
  for (const { answer } of chosen)
    for (const { receipt } of answer) for (const text of receipt ? receiptLines(print, receipt) : []) print.line(text)
  return 0
}
