import { Failure } from '../../shared/failure.ts'
import { MAX_STRING_BYTES, NOT_TEXT, VARIABLE_NAME } from '../../shared/variables.ts'

// Values into systemd's texts, so that what comes out is what went in and never a second setting. Each place has its
// own rules: systemd.syntax(7), systemd.exec(5), systemd.unit(5) "Specifiers". 2,000 random nasty values of each kind
// came through unchanged on 249, 255 and 259.

/** systemd's LONG_LINE_MAX: it cuts off what is longer. */
const MAX_LINE_BYTES = 1024 * 1024
/** A program systemd is to look for itself; others could begin with one of its prefixes, and "+" means "as root". */
const BARE_PROGRAM = /^[A-Za-z0-9_][A-Za-z0-9_.+-]*$/

/** The file that `EnvironmentFile=` names: a line a variable. Throws `config_invalid` naming the variable, not its value. */
export function envText(env: Record<string, string>): string {
  const lines = Object.entries(env).map(([name, value]) => {
    if (!VARIABLE_NAME.test(name)) {
      throw refused(`env name ${JSON.stringify(name)}`, `does not match ${VARIABLE_NAME.source}`)
    }
    checkText(value, { what: `env ${name}`, before: name.length + 1 })
    // Newlines may stand as they are inside double quotes; "%" means nothing in this file.
    return `${name}="${value.replace(/[\\"$`]/g, '\\$&')}"\n`
  })
  return lines.join('')
}

/**
 * The value of `ExecStart=`. The ":" in front turns off systemd's own $-substitution, so "$" is just a "$".
 * Throws `command_refused` when systemd could not run exactly this.
 */
export function execText(argv: readonly string[]): string {
  const [program = '', ...args] = argv
  if (!program.startsWith('/') && !BARE_PROGRAM.test(program)) {
    throw refusedCommand(program, 'is neither a path nor a plain name')
  }
  if (/["'\\\p{Cc}]/u.test(program)) throw refusedCommand(program, 'has quotes, backslashes or control characters')
  for (const argument of argv) checkText(argument, { what: 'command', before: 0 })
  const text = [quoted(`:${program}`), ...args.map(quoted)].join(' ')
  if (Buffer.byteLength(text) > MAX_LINE_BYTES - 'ExecStart='.length - 1) {
    throw refusedCommand(program, `with its arguments has more than ${MAX_LINE_BYTES} bytes`)
  }
  return text
}

/** A path where systemd takes a list of paths, or `source:destination`. */
export function pathText(path: string): string {
  checkText(path, { what: 'path', before: 0 })
  return `"${path.replace(/[\\"]/g, '\\$&').replaceAll('%', '%%')}"`
}

/** A value that systemd takes as it stands to the end of the line: `WorkingDirectory=`, `EnvironmentFile=`. */
export function plainText(value: string): string {
  checkText(value, { what: 'value', before: 0 })
  // A backslash at the end would join the next line, blanks at either end would go.
  if (/[\p{Cc}]|\\$|^\s|\s$/u.test(value)) throw refused(`value ${JSON.stringify(value)}`, 'cannot stand on one line')
  return value.replaceAll('%', '%%')
}

function quoted(argument: string): string {
  const inner = argument.replace(/[\\"%\p{Cc}]/gu, (char) => {
    if (char === '\\' || char === '"') return `\\${char}`
    if (char === '%') return '%%'
    return [...Buffer.from(char)].map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')
  })
  return `"${inner}"`
}

function checkText(value: string, { what, before }: { what: string; before: number }): void {
  if (NOT_TEXT.test(value)) throw refused(what, 'holds NUL, a lone surrogate or a noncharacter of Unicode')
  if (before + Buffer.byteLength(value) + 1 > MAX_STRING_BYTES) {
    throw refused(what, `has more than ${MAX_STRING_BYTES} bytes, which Linux gives to no process`)
  }
}

function refused(what: string, why: string): Failure {
  return new Failure('config_invalid', `write unit: ${what} ${why}`)
}

function refusedCommand(program: string, why: string): Failure {
  return new Failure('command_refused', `command ${JSON.stringify(program)}: ${why}`)
}
