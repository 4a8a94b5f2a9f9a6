import { FAILURES, Failure } from '../../shared/failure.ts'
import type { LedgerReport } from '../../shared/ledger-report.ts'
import * as api from '../api.ts'
import { type Context, needProjectOrHost, openSigning, targetHosts } from '../context.ts'
import { askHosts } from '../hosts.ts'
import { cell, type Print } from '../print.ts'

/** `deploys --verify`: of every app on a host, since its changes are one chain. Exit 10 when one is not what was written. */
export async function verify(context: Context): Promise<number> {
  const { print } = context
  const hosts = targetHosts(context, needProjectOrHost(context), 'read')
  const answers = await askHosts(context, { hosts, signing: await openSigning(context) }, api.ledger)
  if (print.json) {
    print.value({
      hosts: answers.map(({ host: { name }, answer }) =>
        answer instanceof Failure ? { name, error: answer.toRefusal() } : { name, ledger: answer },
      ),
    })
  } else {
    for (const { host, answer } of answers) {
      if (answer instanceof Failure) print.failure(answer, host.name)
      else show(print, host.name, answer)
    }
  }
  const reports = answers.map(({ answer }) => answer)
  if (reports.some((answer) => !(answer instanceof Failure) && !answer.ok)) return FAILURES.unhealthy.exit
  return reports.find((answer) => answer instanceof Failure)?.exit ?? 0
}

function show(print: Print, name: string, { ok, changes, head, problems, notes }: LedgerReport): void {
  const newest = head === null ? '' : `, the newest ${head.number} ${cell(head.hash)}`
  const verdict = ok ? print.tone('good', 'ok') : print.tone('bad', 'not what the agent wrote')
  print.line(`${name}  ${verdict}: ${changes} ${changes === 1 ? 'change' : 'changes'}${newest}`)
  for (const { deploy, app, text } of problems) {
    const which = deploy === null ? '' : `change ${deploy}${app === null ? '' : ` of ${cell(app)}`} `
    print.line(`  ${print.tone('bad', '✗')} ${which}${cell(text)}`)
  }
  for (const note of notes) print.line(`  ${print.tone('warn', '!')} ${cell(note)}`)
}
