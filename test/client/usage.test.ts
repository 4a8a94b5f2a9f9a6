import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'

const MAIN = join(import.meta.dirname, '../../client/main.ts')

function tarmac(...argv: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, ...argv], { encoding: 'utf8' })
  return { status, stdout, stderr }
}

test('a wrong word is named on stderr, and with --json on stdout too', () => {
  for (const [argv, message] of [
    [['push', '--hots'], "unknown option '--hots'"],
    [['pusj'], "unknown command 'pusj'"],
    [['logs', '-n', 'x'], "option '-n, --lines <count>' argument 'x' is invalid. not a whole number"],
  ] as const) {
    const plain = tarmac(...argv)
    assert.deepEqual([plain.status, plain.stdout], [2, ''])
    assert.ok(plain.stderr.startsWith(`error: ${message}\n`), plain.stderr)
    const { status, stdout } = tarmac('--json', ...argv)
    assert.equal(status, 2)
    assert.deepEqual(JSON.parse(stdout), { error: { code: 'usage', message, hint: 'tarmac --help' } })
  }
  assert.equal(JSON.parse(tarmac('--json').stdout).error.code, 'usage')
})

test('help and version are no failures, and with --json no error', () => {
  for (const argv of [['--help'], ['--version'], ['help', 'push'], ['--json', '--version']]) {
    const { status, stdout, stderr } = tarmac(...argv)
    assert.deepEqual([status, stderr, stdout.includes('"error"')], [0, '', false], argv.join(' '))
  }
})
