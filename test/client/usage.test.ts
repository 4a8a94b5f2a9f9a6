import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
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

test('a secret is asked for without showing it; a terminal that goes away is a cancelled command, not a done one', async () => {
  for (const keys of ['hunter2\x03', '']) {
    const { exit, said } = await atTerminal('env set SECRET', 'The value of SECRET', keys)
    assert.deepEqual([exit, said.includes('hunter2')], [130, false], said)
    assert.equal(said.includes('cancelled: nothing was changed'), keys !== '')
  }
})

/** Types the keys as soon as the question is there, and then the terminal ends. util-linux's `script` makes it. */
function atTerminal(line: string, question: string, keys: string): Promise<{ exit: number | null; said: string }> {
  const command = `stty cols 80; ${process.execPath} ${MAIN} ${line}`
  // With CI set nobody would be asked.
  const env = { PATH: process.env.PATH ?? '', HOME: '/nonexistent', TERM: 'xterm' }
  const child = spawn('script', ['-qec', command, '/dev/null'], { env, stdio: ['pipe', 'pipe', 'inherit'] })
  let said = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    said += text
    if (said.includes(question) && !child.stdin.writableEnded) child.stdin.end(keys)
  })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (exit) => resolve({ exit, said }))
  })
}
