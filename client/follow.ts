import prettyMs from 'pretty-ms'
import { FAILURES, Failure } from '../shared/failure.ts'
import type { ReleaseId } from '../shared/names.ts'
import { printable, printableLine } from '../shared/printable.ts'
import type { DoneLine, FailedLine, Line, Receipt, StepLine } from '../shared/wire.ts'
import type { Host } from './config.ts'
import type { Context } from './context.ts'
import type { Print } from './print.ts'
import { type Progress, startProgress } from './progress.ts'
import { endOfChange, type Followed } from './reattach.ts'

/** A receipt is to fit the screen it is read on: what stands on it beside the output, and the least output worth it. */
const OTHER_LINES = 20
const MIN_OUTPUT_LINES = 8

/** How a change ended on one host. `exit` is the exit code it would have alone. */
export interface Outcome {
  name: string
  url: string
  exit: number
  /** The release the change was about. */
  release: ReleaseId | null
  /** What runs now. */
  running: ReleaseId | null
  previous: ReleaseId | null
  code: string | null
  message: string | null
  /** Of the environment, where the change was about that. */
  revision?: number
}

/**
 * Follows the steps of a change to the truth, showing them as they come. When the agent goes away in the middle it is
 * asked, once it is back, how the change ended.
 */
export async function followChange(context: Context, of: Followed, lines: AsyncIterable<Line>): Promise<Outcome> {
  let deploy: number | undefined
  try {
    for await (const line of told(context, of.host, lines)) {
      deploy = line.deploy ?? deploy
      if (line.step === 'done' || line.step === 'failed') return outcomeOf(of.host, line)
    }
    throw new Failure('connection_lost', `talk to ${of.host.url}: the answer ended early`)
  } catch (error) {
    if (!(error instanceof Failure) || error.code !== 'connection_lost' || deploy === undefined) throw error
    context.print.warn(`${error.message}: asking how change ${deploy} ended`)
    const last = await endOfChange(context, of, deploy)
    show(context.print, of.host, last)
    return outcomeOf(of.host, last)
  }
}

/** The same lines, each shown. */
async function* told({ print }: Context, host: Host, lines: AsyncIterable<Line>): AsyncGenerator<Line> {
  // Not before the first line: while the upload goes on, that has the one moving line.
  let progress: Progress | undefined
  try {
    for await (const line of lines) {
      if (line.step === 'waiting') {
        progress ??= startProgress(print, '')
        progress.say(`the agent is at work (${prettyMs(line.ms, { secondsDecimalDigits: 0 })})`)
        if (print.json) print.value({ host: host.name, ...line })
      } else {
        progress?.end()
        show(print, host, line)
        if (line.step !== 'done' && line.step !== 'failed') progress = startProgress(print, 'the agent is at work')
      }
      yield line
    }
  } finally {
    progress?.end()
  }
}

function show(print: Print, host: Host, line: Line): void {
  if (print.json) print.value({ host: host.name, ...line })
  else if (line.step === 'failed') showFailed(print, line)
  else if (line.step !== 'done') print.note(stepText(print, line))
}

function outcomeOf(host: Host, line: DoneLine | FailedLine): Outcome {
  return line.step === 'done' ? doneOutcome(host, line) : failedOutcome(host, line)
}

function doneOutcome(host: Host, { release, previous }: DoneLine): Outcome {
  return { name: host.name, url: host.url, exit: 0, release, running: release, previous, code: null, message: null }
}

function failedOutcome(host: Host, line: FailedLine): Outcome {
  const exit = Object.hasOwn(FAILURES, line.code) ? FAILURES[line.code].exit : 1
  const { release, running } = line.receipt
  return {
    name: host.name,
    url: host.url,
    exit,
    release,
    running,
    previous: null,
    code: line.code,
    message: line.message,
  }
}

const STEP_WORDS: Record<StepLine['step'], string> = {
  received: 'received',
  stored: 'stored and verified',
  assembled: 'release assembled',
  prepared: 'prepared',
  rehearsed: 'rehearsed',
  revised: 'environment written down',
  stopped: 'stopped',
  started: 'started',
  healthy: 'healthy',
  switched: 'switched',
  draining: 'the old one ends what it has',
  probed: 'measured',
  unhealthy: 'not healthy',
  'going-back': 'going back to',
  'gone-back': 'went back to',
  pruned: 'pruned',
  warning: 'warning',
  waiting: 'waiting',
}

function stepText(print: Print, line: StepLine): string {
  const mark =
    line.step === 'unhealthy'
      ? print.tone('bad', '✗')
      : line.step === 'warning' || line.step === 'going-back'
        ? print.tone('warn', '!')
        : print.tone('good', '✓')
  const what = line.service ? ` ${line.service}` : line.step.endsWith('-back') && line.release ? ` ${line.release}` : ''
  const message = line.message ?? (line.revision === undefined ? undefined : `revision ${line.revision}`)
  const more = message === undefined ? '' : `: ${printableLine(message)}`
  return `  ${mark} ${STEP_WORDS[line.step] ?? printableLine(line.step)}${what}${more}  ${print.tone('dim', prettyMs(line.ms))}`
}

/** One screen: what failed and how, what it said last, what runs now, what was undone, what to type next. */
function showFailed(print: Print, line: FailedLine): void {
  for (const text of receiptLines(print, line.receipt)) print.note(text)
  if (line.hint !== undefined && line.receipt.next.length === 0) print.note(`hint        ${printable(line.hint)}`)
}

export function receiptLines(print: Print, receipt: Receipt): string[] {
  const { exit } = receipt
  const how =
    exit === null
      ? []
      : [
          `last exit   ${exit.oom ? 'out of memory' : exit.signal === null ? `code ${exit.code}` : `signal ${exit.signal}`} at ${exit.at}`,
        ]
  const respawns = receipt.respawns === null ? [] : [`respawns    ${receipt.respawns}`]
  const shown =
    print.rows === undefined
      ? receipt.output
      : receipt.output.slice(-Math.max(MIN_OUTPUT_LINES, print.rows - OTHER_LINES))
  const hidden = receipt.output.length - shown.length
  const output =
    shown.length === 0
      ? ['output      none']
      : [
          `output      the last lines of the failed release${hidden > 0 ? ` (${hidden} more: see the first command below)` : ''}:`,
          ...shown.map((text) => `  │ ${printableLine(text)}`),
        ]
  const running = receipt.running === null ? print.tone('bad', 'nothing') : print.tone('strong', receipt.running)
  return [
    '',
    `${print.tone('bad', 'failed')}      ${receipt.release ?? '-'} in ${receipt.phase}: ${printableLine(receipt.reason)}`,
    ...how,
    ...respawns,
    ...output,
    `runs now    ${running}`,
    ...receipt.undone.map((text) => `undone      ${printableLine(text)}`),
    ...receipt.next.map((text, index) => `${index === 0 ? 'next        ' : '            '}${printableLine(text)}`),
    '',
  ]
}
