import assert from 'node:assert/strict'
import { execFile, execFileSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
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
  const startWith = (env: NodeJS.ProcessEnv, ...args: string[]) =>
    run(join(root, 'dist/program'), args, {
      cwd: root,
      env: { ...process.env, CI: undefined, XDG_CACHE_HOME: cacheHome, ...env },
    })
  const start = (...args: string[]) => startWith({}, ...args)
  const code = (command: string) => join(cacheHome, `${CODE}${command}`)
  const inode = (command: string) => statSync(code(command)).ino
  return { root, rebuild, start, startWith, code, inode, cacheHome }
}

test('a program is the same with what was compiled before as without, and what was compiled is kept per command', async (t) => {
  const { start, code, inode, cacheHome } = await programIn(t)
  assert.equal((await start('push', 'x')).stdout, 'late true */ push x\n')
  assert.equal(statSync(code('push')).mode & 0o777, 0o600)
  const before = inode('push')
  assert.equal((await start('push', 'y')).stdout, 'late true */ push y\n')
  assert.equal(inode('push'), before)
  assert.equal((await start('--json', 'status')).stdout, 'late true */ --json status\n')
  assert.notEqual(inode('status'), before)
  await start('--env', 'production')
  assert.deepEqual(readdirSync(join(cacheHome, 'tarmac')).sort(), ['code-other', 'code-push', 'code-status'])
})

test('what was compiled is good for the next start although the program changed how V8 works', async (t) => {
  const young = JSON.stringify(join(import.meta.dirname, '../../client/young-space.ts'))
  const { start, inode } = await programIn(
    t,
    `import { keepYoungSpaceSmall } from ${young}\nkeepYoungSpaceSmall()\n${SOURCE}`,
  )
  await start('push')
  const before = inode('push')
  await start('push')
  assert.equal(inode('push'), before)
})

test('what another program compiled, what is damaged, and what others could have written is not run, but made anew', async (t) => {
  const { root, start, rebuild, code, inode } = await programIn(t)
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
  const file = join(root, 'dist/program')
  writeFileSync(file, readFileSync(file, 'utf8').replace("'#/'", "'##'").replace('"#/"', '"##"'))
  assert.equal((await start('push')).stdout, 'late true ## push\n', 'also by hand')
})

test('a file that was changed so that its program is not found says so, and one from a pipe that it cannot be', async (t) => {
  const { root, start } = await programIn(t)
  const file = join(root, 'dist/program')
  const text = readFileSync(file, 'utf8')
  for (const changed of [text.replaceAll('\n', '\r\n'), `${text.slice(0, text.indexOf('\n/* The program'))}`]) {
    writeFileSync(file, changed)
    await assert.rejects(
      run(process.execPath, [file, 'push']),
      ({ code, stderr }) => code === 1 && /program was changed since it was built: install it again/.test(stderr),
    )
  }
  writeFileSync(file, text)
  assert.equal((await start('push')).stdout, 'late true */ push\n')
  // What lies here under that name is not it.
  writeFileSync(join(root, '[stdin]'), text)
  assert.throws(() => execFileSync(process.execPath, ['-', 'push'], { input: text, cwd: root, stdio: 'pipe' }), {
    status: 2,
    stderr: Buffer.from('program must be started from its file, not from a pipe\n'),
  })
})

/** Code of a program that says something else, as it would be kept for this one. */
async function foreignCode(t: TestContext, place: Awaited<ReturnType<typeof programIn>>): Promise<Buffer> {
  const foreign = await programIn(t, SOURCE.replace("'*/'", "'##'"))
  await foreign.start('push')
  await place.start('push')
  const code = readFileSync(foreign.code('push'))
  const [build = ''] = readFileSync(place.code('push'), 'latin1').split(' ')
  // The label is no secret: anybody can write it.
  return Buffer.concat([Buffer.from(build), code.subarray(build.length)])
}

test('what another user could have put there is not run', async (t) => {
  const place = await programIn(t)
  const { start, startWith, code, cacheHome, root } = place
  const evil = await foreignCode(t, place)
  const dir = join(cacheHome, 'tarmac')
  cpSync(cacheHome, join(root, '.cache'), { recursive: true })
  const elsewhere = join(root, 'elsewhere')
  writeFileSync(elsewhere, evil)
  writeFileSync(code('push'), evil)
  assert.equal((await start('push')).stdout, 'late true ## push\n', 'this is what must not be run')

  const isRoot = process.getuid?.() === 0
  const cases: Record<string, () => void> = {
    'a link to it': () => {
      rmSync(code('push'))
      symlinkSync(elsewhere, code('push'))
    },
    'in a directory that others may write': () => chmodSync(dir, 0o777),
    ...(isRoot && { "another user's": () => chownSync(code('push'), 65_534, 65_534) }),
    ...(isRoot && { "in another user's directory": () => chownSync(dir, 65_534, 65_534) }),
    'a pipe': () => {
      rmSync(code('push'))
      execFileSync('mkfifo', ['-m', '600', code('push')])
    },
    'a directory': () => {
      rmSync(code('push'))
      mkdirSync(code('push'))
    },
  }
  for (const [what, change] of Object.entries(cases)) {
    rmSync(dir, { recursive: true, force: true })
    mkdirSync(dir, { mode: 0o700 })
    writeFileSync(code('push'), evil, { mode: 0o600 })
    change()
    assert.equal((await start('push')).stdout, 'late true */ push\n', what)
  }
  rmSync(dir, { recursive: true })
  mkdirSync(dir, { mode: 0o700 })
  writeFileSync(code('push'), evil, { mode: 0o600 })
  for (const env of [
    { XDG_CACHE_HOME: 'cache', HOME: join(root, 'home') },
    { XDG_CACHE_HOME: '', HOME: '.' },
  ]) {
    assert.equal((await startWith(env, 'push')).stdout, 'late true */ push\n', 'not absolute')
  }
  assert.equal((await startWith({ CI: 'true' }, 'push')).stdout, 'late true */ push\n', 'in CI')
})

test('as root nothing is left in the home of another user', { skip: process.getuid?.() !== 0 }, async (t) => {
  const { root, startWith } = await programIn(t)
  const home = join(root, 'home')
  mkdirSync(home)
  chownSync(home, 65_534, 65_534)
  await startWith({ HOME: home, XDG_CACHE_HOME: '' }, 'push')
  assert.deepEqual(readdirSync(home), [])
  // Nor is a home made.
  await startWith({ HOME: join(root, 'none'), XDG_CACHE_HOME: '' }, 'push')
  await startWith({ HOME: '/proc', XDG_CACHE_HOME: '' }, 'push')
  assert.ok(!existsSync(join(root, 'none')))
})

test('what a killed one left half written goes after a while, whatever the clock did', async (t) => {
  const { start, cacheHome } = await programIn(t)
  await start('status')
  const dir = join(cacheHome, 'tarmac')
  const ages = { 'code-push.1.tmp': 0, 'code-push.2.tmp': -3600, 'hashes-x.3.tmp': 3600 }
  for (const [name, seconds] of Object.entries(ages)) {
    writeFileSync(join(dir, name), 'half')
    const at = Date.now() / 1000 + seconds
    utimesSync(join(dir, name), at, at)
  }
  symlinkSync('nowhere', join(dir, 'code-push.4.tmp'))
  await start('push')
  assert.deepEqual(readdirSync(dir).sort(), ['code-push', 'code-push.1.tmp', 'code-push.4.tmp', 'code-status'])
})

test('what fails leaves nothing, and a cache that cannot be written, or no home, is no failure', async (t) => {
  const { start, startWith, cacheHome } = await programIn(t)
  await assert.rejects(start('wrong'), { code: 2 })
  assert.deepEqual(readdirSync(join(cacheHome, '..')).sort(), ['dist', 'late.ts', 'main.ts'])
  writeFileSync(cacheHome, 'a file where the directory should be')
  assert.equal((await start('push')).stdout, 'late true */ push\n')
  const nobody = ['--reuid=23456', '--clear-groups', process.execPath, join(cacheHome, '../dist/program'), 'push']
  assert.equal((await startWith({ HOME: '/dev/null', XDG_CACHE_HOME: '' }, 'push')).stdout, 'late true */ push\n')
  // To be somebody else takes root.
  if (process.getuid?.() !== 0) return
  chmodSync(join(cacheHome, '..'), 0o755)
  const homeless = await run('setpriv', nobody, { env: { PATH: process.env.PATH } })
  assert.equal(homeless.stdout, 'late true */ push\n')
})

test('a stack trace names the line of the file', async (t) => {
  const { root, start } = await programIn(t)
  const failure = await start('broken').catch((error: { stderr: string }) => error.stderr)
  const [, line] = /dist\/program:(\d+)/.exec(String(failure)) ?? []
  const text = readFileSync(join(root, 'dist/program'), 'utf8').split('\n')[Number(line) - 1]
  assert.match(text ?? '', /throw new Error\("here"\)/)
})

test('every command is among those that keep what was compiled for them', async () => {
  const { stdout } = await run(process.execPath, [join(import.meta.dirname, '../../client/main.ts'), '--help'])
  const commands = [...stdout.slice(stdout.indexOf('Commands:')).matchAll(/^ {2}([a-z]+) /gm)].map(([, name]) => name)
  assert.ok(commands.length > 10)
  const text = readFileSync(join(import.meta.dirname, '../../client/start.ts'), 'utf8')
  for (const name of commands) if (name !== 'help') assert.match(text, new RegExp(`'${name}'`), name)
})
