import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { promisify } from 'node:util'
import { build } from '../../build.ts'

const run = promisify(execFile)
const CODE = 'tarmac/code-'

/** A program whose text has all that could end a comment too early, as the client is built. */
const SOURCE = `/*! a licence */
const pattern = /a*/
void import('./late.ts').then(({ late }) => {
  console.log(late(), pattern.test('aaa'), '*/', process.argv.slice(2).join(' '))
  if (process.argv[2] === 'wrong') process.exitCode = 2
  if (process.argv[2] === 'broken') throw new Error('here')
})
`

async function programIn(t: TestContext, source = SOURCE) {
  const root = mkdtempSync(join(tmpdir(), 'tarmac-start-'))
  t.after(() => rmSync(root, { recursive: true, force: true }))
  const cacheHome = join(root, 'cache')
  const rebuild = async (text: string) => {
    writeFileSync(join(root, 'main.ts'), text)
    await build(root, [{ entry: 'main.ts', outfile: 'dist/program', starter: 'client/start.ts' }])
  }
  writeFileSync(join(root, 'late.ts'), "export function late() { return 'late' }")
  await rebuild(source)
  const start = (...args: string[]) =>
    run(join(root, 'dist/program'), args, { env: { ...process.env, XDG_CACHE_HOME: cacheHome } })
  const code = (command: string) => join(cacheHome, `${CODE}${command}`)
  const inode = (command: string) => statSync(code(command)).ino
  return { root, rebuild, start, code, inode, cacheHome }
}

test('a program is the same with what was compiled before as without, and what was compiled is kept per command', async (t) => {
  const { start, code, inode } = await programIn(t)
  assert.equal((await start('push', 'x')).stdout, 'late true */ push x\n')
  assert.equal(statSync(code('push')).mode & 0o777, 0o600)
  const before = inode('push')
  assert.equal((await start('push', 'y')).stdout, 'late true */ push y\n')
  assert.equal(inode('push'), before)
  assert.equal((await start('--json', 'status')).stdout, 'late true */ --json status\n')
  assert.notEqual(inode('status'), before)
})

test('what another program compiled, what is damaged, and what others could have written is not run, but made anew', async (t) => {
  const { start, rebuild, code, inode } = await programIn(t)
  await start('push')
  const good = readFileSync(code('push'))
  const label = good.indexOf('\n')
  const spoil: Record<string, () => void> = {
    'a flipped bit': () => {
      const bad = Buffer.from(good)
      bad.writeUInt8(bad.readUInt8(label + 400) ^ 1, label + 400)
      writeFileSync(code('push'), bad)
    },
    cut: () => writeFileSync(code('push'), good.subarray(0, -100)),
    'no label': () => writeFileSync(code('push'), good.subarray(label + 1)),
    empty: () => writeFileSync(code('push'), ''),
    'writable by others': () => chmodSync(code('push'), 0o622),
  }
  for (const [what, doIt] of Object.entries(spoil)) {
    const before = inode('push')
    doIt()
    assert.equal((await start('push')).stdout, 'late true */ push\n', what)
    assert.notEqual(inode('push'), before, what)
    assert.deepEqual(readFileSync(code('push')).subarray(0, 64), good.subarray(0, 64), what)
  }
  // Of the same length, which is all that V8 would ask for.
  await rebuild(SOURCE.replace("'*/'", "'#/'"))
  assert.equal((await start('push')).stdout, 'late true #/ push\n')
})

test('a wrong command leaves nothing, and a cache that cannot be written is no failure', async (t) => {
  const { start, cacheHome } = await programIn(t)
  await assert.rejects(start('wrong'), { code: 2 })
  assert.deepEqual(readdirSync(join(cacheHome, '..')).sort(), ['dist', 'late.ts', 'main.ts'])
  writeFileSync(cacheHome, 'a file where the directory should be')
  assert.equal((await start('push')).stdout, 'late true */ push\n')
})

test('a stack trace names the line of the file', async (t) => {
  const { root, start } = await programIn(t)
  const failure = await start('broken').catch((error: { stderr: string }) => error.stderr)
  const [, line] = /dist\/program:(\d+)/.exec(String(failure)) ?? []
  const text = readFileSync(join(root, 'dist/program'), 'utf8').split('\n')[Number(line) - 1]
  assert.match(text ?? '', /throw new Error\("here"\)/)
})
