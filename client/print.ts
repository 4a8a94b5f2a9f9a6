import { stripVTControlCharacters, styleText } from 'node:util'
import type { Failure } from '../shared/failure.ts'
import { printable, printableJson, printableLine } from '../shared/printable.ts'

// Everything the client says. Results go to stdout, and to nothing else. Progress, errors and hints go to stderr:
// lower case, no full stop, one line "error: …" and at most one line "hint: …". Every byte that came from outside is
// escaped here, so that no file name and no log can move the cursor of whoever reads it.

export type Tone = 'good' | 'bad' | 'warn' | 'dim' | 'strong'

const STYLES = { good: 'green', bad: 'red', warn: 'yellow', dim: 'dim', strong: 'bold' } as const

export interface Print {
  readonly json: boolean
  readonly quiet: boolean
  readonly verbose: boolean
  /** Whether someone sits at a terminal and reads stderr. */
  readonly isInteractive: boolean
  /** Lines of the terminal that stderr is; undefined when it is none. */
  readonly rows: number | undefined
  /** A result. */
  line(text: string): void
  /** A result for machines: one JSON value on one line. */
  value(value: unknown): void
  /** What goes on; nothing when quiet or for machines. */
  note(text: string): void
  warn(text: string): void
  /** With the name of a host: for machines it is a line among that host's steps. */
  failure(failure: Failure, host?: string): void
  bug(error: unknown): void
  /** Rows under a head, as wide as they need; on a terminal too narrow for that, "head value" by the row. Cells may be toned. */
  table(head: string[], rows: string[][]): Promise<void>
  tone(tone: Tone, text: string): string
  /** Empties the terminal that stdout is; nothing when it is none, or for machines. */
  clear(): void
}

/** The colours of STYLES and their ends, as styleText writes them: any other escape came from outside. */
const OURS = /(\x1b\[(?:1|2|22|31|32|33|39)m)/
const CLEAR_SCREEN = '\x1b[H\x1b[2J'

export function createPrint(options: { json: boolean; quiet: boolean; verbose: boolean; color: boolean }): Print {
  const isInteractive = process.stderr.isTTY === true && !options.quiet && !options.json
  const isPainted = (stream: NodeJS.WriteStream) => options.color && stream.isTTY === true
  const paint = (stream: NodeJS.WriteStream, tone: Tone, text: string) =>
    isPainted(stream) ? styleText(STYLES[tone], text, { validateStream: false }) : text
  // The last door before the terminal: what a caller forgot to escape is escaped here.
  const say = (stream: NodeJS.WriteStream, text: string) => {
    const parts = isPainted(stream) ? text.split(OURS) : [text]
    stream.write(`${parts.map((part, index) => (index % 2 === 0 ? printable(part) : part)).join('')}\n`)
  }
  const out = (text: string) => say(process.stdout, text)
  const err = (text: string) => say(process.stderr, text)
  return {
    json: options.json,
    quiet: options.quiet,
    verbose: options.verbose,
    isInteractive,
    rows: process.stderr.isTTY === true ? process.stderr.rows : undefined,
    line: (text) => out(text),
    value: (value) => out(printableJson(value)),
    note: (text) => {
      if (!options.quiet && !options.json) err(text)
    },
    warn: (text) => {
      if (!options.json) err(`${paint(process.stderr, 'warn', 'warning:')} ${printable(text)}`)
    },
    failure(failure, host) {
      if (options.json) {
        const refusal = failure.toRefusal()
        const line = { host, step: 'failed', at: new Date().toISOString(), ...refusal }
        out(printableJson(host === undefined ? { error: refusal } : line))
      }
      err(`${paint(process.stderr, 'bad', 'error:')} ${printable(failure.message)}`)
      if (failure.hint !== undefined) err(`${paint(process.stderr, 'dim', 'hint:')} ${printable(failure.hint)}`)
    },
    bug(error) {
      const story = error instanceof Error ? (error.stack ?? error.message) : String(error)
      if (options.json) out(printableJson({ error: { code: 'internal', message: String(error) } }))
      err(`${paint(process.stderr, 'bad', 'error:')} a bug in tarmac: ${printable(story)}`)
    },
    async table(head, rows) {
      // Loaded where a table is: a push has none.
      const { default: Table } = await import('cli-table3')
      const none = Object.fromEntries(
        [
          'top',
          'top-mid',
          'top-left',
          'top-right',
          'bottom',
          'bottom-mid',
          'bottom-left',
          'bottom-right',
          'left',
          'left-mid',
          'mid',
          'mid-mid',
          'right',
          'right-mid',
        ].map((name) => [name, '']),
      )
      const table = new Table({
        head: head.map((text) => paint(process.stdout, 'dim', text)),
        chars: { ...none, middle: '  ' },
        style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0, compact: true },
      })
      table.push(...rows)
      const lines = table
        .toString()
        .split('\n')
        .map((line) => line.trimEnd())
      const columns = process.stdout.isTTY === true ? process.stdout.columns : Number.POSITIVE_INFINITY
      const isTooWide = lines.some((line) => stripVTControlCharacters(line).length > columns)
      const dim = (text: string) => paint(process.stdout, 'dim', text)
      for (const line of isTooWide ? rows.flatMap((row) => flowed({ head, row, columns, dim })) : lines) out(line)
    },
    tone: (tone, text) => paint(process.stdout, tone, text),
    clear() {
      if (!options.json && process.stdout.isTTY === true) process.stdout.write(CLEAR_SCREEN)
    },
  }
}

/**
 * One row of a table on as many lines as it needs, for a terminal that would break a table in the middle of its cells:
 * "host 10.0.0.1  app shop  …", the lines after the first one indented, and without what is not known ("-").
 */
export function flowed(of: {
  head: string[]
  row: string[]
  columns: number
  dim: (text: string) => string
}): string[] {
  const { head, row, columns, dim } = of
  const lines: string[] = []
  let width = Number.POSITIVE_INFINITY
  for (const [index, value] of row.entries()) {
    const plain = stripVTControlCharacters(value)
    if (plain === '-' || plain === '') continue
    const name = head[index] ?? ''
    const wide = name === '' ? plain.length : name.length + 1 + plain.length
    const text = name === '' ? value : `${dim(name)} ${value}`
    if (width + 2 + wide <= columns) {
      lines.push(`${lines.pop() ?? ''}  ${text}`)
      width += 2 + wide
    } else {
      lines.push(lines.length === 0 ? text : `  ${text}`)
      width = wide + (lines.length === 1 ? 0 : 2)
    }
  }
  return lines
}

export function onOutputClosed(listener: () => void): void {
  process.stdout.on('error', listener)
}

/** A value of unknown content for one table cell or one line. */
export function cell(text: string | number | null | undefined): string {
  return text === null || text === undefined || text === '' ? '-' : printableLine(String(text))
}
