import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'
import { cell, flowed } from '../../client/print.ts'
import { printable, printableLine } from '../../shared/printable.ts'

const PRINT = join(import.meta.dirname, '../../client/print.ts')

/** What a program prints that says `code` to a Print, neither stream being a terminal. */
function said(code: string, options: Partial<Record<'json' | 'quiet', boolean>> = {}) {
  const all = { json: false, quiet: false, verbose: false, color: true, ...options }
  const program = `import { createPrint } from ${JSON.stringify(PRINT)}
import { Failure } from ${JSON.stringify(join(PRINT, '../../shared/failure.ts'))}
const print = createPrint(${JSON.stringify(all)})
${code}`
  const { stdout, stderr, status } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    encoding: 'utf8',
  })
  assert.equal(status, 0, stderr)
  return { stdout, stderr }
}

const FAILURE = "print.failure(new Failure('busy', 'change shop: \\x1b[2J', { hint: 'wait\\x07' })"

test('results go to stdout and nothing else does; outside a terminal there is no colour', () => {
  const { stdout, stderr } = said(`print.line('a result'); print.note('a step'); print.warn('odd'); ${FAILURE})
print.line(print.tone('bad', 'red')); await print.table(['a', 'b'], [['1', '22'], ['333', '4']])`)
  assert.equal(stdout, 'a result\nred\na    b\n1    22\n333  4\n')
  assert.equal(stderr, 'a step\nwarning: odd\nerror: change shop: \\u{1b}[2J\nhint: wait\\u{7}\n')
})

test('quiet keeps warnings and failures', () => {
  assert.equal(said("print.note('a step'); print.warn('odd')", { quiet: true }).stderr, 'warning: odd\n')
})

test('for machines stdout is JSON alone, a failure too, and names its host when it has one', () => {
  const { stdout } = said(`print.note('a step'); print.value({ a: 1 }); ${FAILURE}); ${FAILURE}, 'h1')`, { json: true })
  const [value, failure, ofHost] = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  assert.deepEqual(value, { a: 1 })
  assert.equal(failure.error.code, 'busy')
  assert.deepEqual([ofHost.host, ofHost.step, ofHost.code], ['h1', 'failed', 'busy'])
})

test('a bug is told with its story', () => {
  const { stderr } = said("print.bug(new TypeError('x is not a function'))")
  assert.match(stderr, /^error: a bug in tarmac: TypeError: x is not a function\n {4}at /)
})

test('nothing that comes from outside can move a cursor, set a title or turn the text around', () => {
  assert.equal(printable('a\x1b]0;t\x07\nb\tc\x7f\u202e\u009b'), 'a\\u{1b}]0;t\\u{7}\nb\tc\\u{7f}\\u{202e}\\u{9b}')
  assert.equal(printableLine('a\r\nb\tc'), 'a\\u{d}\\nb c')
  assert.equal(printable('\ud800 ü 漢 🚀'), '\ufffd ü 漢 🚀')
  assert.deepEqual([cell(null), cell(undefined), cell(''), cell(0), cell('a\nb')], ['-', '-', '-', '0', 'a\\nb'])
})

test('a row too wide for the terminal flows over lines by its cells, without what is not known', () => {
  const head = ['', 'host', 'release', 'last exit', 'port']
  const row = ['→', '10.0.0.1', '20261122T233851Z-3f9a1c2b', '-', '\x1b[32m3000\x1b[39m']
  const at = (columns: number) => flowed({ head, row, columns, dim: (text) => text })
  const [host, release, port] = ['→  host 10.0.0.1', 'release 20261122T233851Z-3f9a1c2b', 'port \x1b[32m3000\x1b[39m']
  assert.deepEqual(at(40), [host, `  ${release}`, `  ${port}`])
  assert.deepEqual(at(51), [`${host}  ${release}`, `  ${port}`])
  assert.deepEqual(at(62), [`${host}  ${release}  ${port}`])
  assert.deepEqual(at(5), ['→', '  host 10.0.0.1', `  ${release}`, `  ${port}`], 'a cell is never cut')
})
