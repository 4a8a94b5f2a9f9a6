import type { Outcome } from './follow.ts'
import { exitOf } from './hosts.ts'
import { cell, type Print } from './print.ts'

/** The last lines: per host, what runs now. For machines the summary is one value. */
export function summarise(
  print: Print,
  outcomes: Outcome[],
  words: (outcome: Outcome) => string,
  facts: Record<string, unknown> = {},
): void {
  if (print.json) {
    print.value({ step: 'summary', exit: exitOf(outcomes), hosts: outcomes, ...facts })
    return
  }
  for (const outcome of outcomes) {
    if (outcome.exit === 0) print.line(`${outcome.name}  ${words(outcome)}`)
    else print.line(`${outcome.name}  ${print.tone('bad', 'failed')}: ${runsNow(outcome)}`)
  }
}

function runsNow({ code, running, message }: Outcome): string {
  switch (code) {
    case 'deploy_failed':
      return `${cell(running)} serves on; nothing was changed`
    case 'deploy_rolled_back':
      return `${cell(running)} serves again`
    case 'deploy_down':
      return 'nothing serves now'
    default:
      return cell(message)
  }
}
