import assert from 'node:assert/strict'
import { globSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { EnvAnswer } from '../../shared/variables.ts'
import type { AppStatus, DeployEntry, ReleaseEntry } from '../../shared/wire.ts'
import { builtPrograms, makeWorld, type Ran, type World } from '../helpers/world.ts'

const SECRET = 's3cr3t-of-the-database'
const BAD = `bad-${SECRET}`

/** Tells its environment as the kernel has it, and does not live with a DATABASE that is bad. */
const SERVER = `const { readFileSync } = require('node:fs')
if (process.env.DATABASE?.startsWith('bad')) { console.error('no such database'); process.exit(3) }
require('node:http').createServer((q, r) => r.end(q.url === '/environ' ? readFileSync('/proc/self/environ').toString('base64') : 'VERSION'))
  .listen(process.env.PORT)\n`

async function shop(t: TestContext, options: Parameters<typeof makeWorld>[1] = {}): Promise<World> {
  // Built: a test here types a dozen commands.
  const world = await makeWorld(t, { ...options, programs: await builtPrograms(t) })
  version(world, '1')
  return world
}

function version(world: World, text: string): void {
  world.write({ 'server.js': SERVER.replace('VERSION', text) })
}

async function fine(ran: Promise<Ran>): Promise<Ran> {
  const done = await ran
  assert.equal(done.exit, 0, done.stderr)
  return done
}

/** What the app's process was given, to the byte. */
async function environ(world: World): Promise<Map<string, string>> {
  for (let tries = 0; ; tries++) {
    const text = await world.get('/environ')
    if (text === undefined && tries < 400) await sleep(25)
    else {
      const entries = Buffer.from(text ?? '', 'base64')
        .toString()
        .split('\0')
        .slice(0, -1)
      return new Map(entries.map((entry) => [entry.slice(0, entry.indexOf('=')), entry.slice(entry.indexOf('=') + 1)]))
    }
  }
}

const json = async (world: World, ...argv: string[]) =>
  JSON.parse((await fine(world.tarmac(...argv, '--json'))).stdout).hosts[0]
const statusOf = async (world: World): Promise<AppStatus> => (await json(world, 'status')).apps[0]
const deploysOf = async (world: World): Promise<DeployEntry[]> => (await json(world, 'deploys')).deploys
const releasesOf = async (world: World): Promise<ReleaseEntry[]> => (await json(world, 'releases')).releases
const envOf = async (world: World): Promise<EnvAnswer> => json(world, 'env', 'list')

test('what is set the app sees, what is unset is gone, and nothing of anybody else’s environment is there', async (t) => {
  const world = await shop(t, { environment: { LEAK: 'of client and agent' } })
  const first = await fine(world.tarmac('env', 'set', `DATABASE=${SECRET}`, 'EMPTY='))
  assert.match(first.stdout, /revision 1 of the env of shop waits for its first push/)
  await fine(world.tarmac('push'))
  const before = await environ(world)
  assert.deepEqual([before.get('DATABASE'), before.get('EMPTY'), before.get('LEAK')], [SECRET, '', undefined])
  // PWD is of the shell that hands the sockets over.
  const known =
    /^(PATH|PWD|HOME|SHELL|USER|LOGNAME|INVOCATION_ID|PORT|NODE_OPTIONS|LISTEN_\w+|TARMAC_\w+|DATABASE|EMPTY)$/
  assert.deepEqual(
    [...before.keys()].filter((name) => !known.test(name)),
    [],
  )

  const { running, services } = await statusOf(world)
  const set = await fine(world.tarmacFed('typed into stdin\n', 'env', 'set', 'GREETING', 'EMPTY=no more'))
  assert.match(set.stdout, new RegExp(`shop has revision 2 of the env, release ${running}`))
  const after = await environ(world)
  assert.deepEqual(
    [after.get('GREETING'), after.get('EMPTY'), after.get('DATABASE')],
    ['typed into stdin', 'no more', SECRET],
  )
  const now = await statusOf(world)
  assert.deepEqual([now.running, now.envRevision], [running, 2])
  assert.notEqual(now.services[0]?.pid, services[0]?.pid)

  const again = await fine(world.tarmac('env', 'set', 'EMPTY=no more'))
  assert.match(again.stdout, /is so already: nothing was changed/)
  await fine(world.tarmac('env', 'unset', 'NEVER_SET'))
  assert.equal((await statusOf(world)).services[0]?.pid, now.services[0]?.pid)

  await fine(world.tarmac('env', 'unset', 'DATABASE', 'EMPTY'))
  const last = await environ(world)
  assert.deepEqual([last.has('DATABASE'), last.has('EMPTY'), last.get('GREETING')], [false, false, 'typed into stdin'])
  assert.deepEqual(
    (await deploysOf(world)).map(({ kind, result, who, to }) => `${kind} ${result} ${who} ${to}`),
    [`env done ann ${running}`, `env done ann ${running}`, `push done ann ${running}`, 'env done ann null'],
  )
})

test('an environment the app does not live with is taken back, and no push gets it', async (t) => {
  const world = await shop(t)
  await fine(world.tarmac('push'))
  await fine(world.tarmac('env', 'set', 'DATABASE=good'))
  const failed = await world.tarmac('env', 'set', `DATABASE=${BAD}`)
  assert.ok(failed.exit === 6 || failed.exit === 7, `${failed.exit} ${failed.stderr}`)
  assert.match(failed.stderr, /no such database/)
  assert.match(failed.stderr, /the environment of before is in force/)
  assert.equal((await environ(world)).get('DATABASE'), 'good')
  assert.equal((await releasesOf(world))[0]?.state, 'healthy', 'the release is as good as it was')
  assert.deepEqual([(await envOf(world)).revision, (await envOf(world)).newest], [1, 1])
  // Its exits are none of what serves: that one has all its respawns left.
  process.kill((await statusOf(world)).services[0]?.pid ?? 0, 'SIGKILL')
  for (let tries = 0; tries < 20 && (await statusOf(world)).services[0]?.state !== 'running'; tries++) await sleep(100)
  assert.equal((await world.tarmac('status', '--check')).exit, 0)
  assert.equal((await environ(world)).get('DATABASE'), 'good')
  await world.stopAgent()
  await world.startAgent()
  assert.equal((await environ(world)).get('DATABASE'), 'good')

  version(world, '2')
  await fine(world.tarmac('push'))
  assert.deepEqual([await world.get(), (await environ(world)).get('DATABASE')], ['2', 'good'])
  await fine(world.tarmac('env', 'set', 'DATABASE=better'))
  assert.equal((await envOf(world)).revision, 3, 'the number of the one that failed means that one for ever')
  assert.equal((await environ(world)).get('DATABASE'), 'better')
})

test('a rollback restores the environment of that release, and the next push has the newest again', async (t) => {
  const world = await shop(t)
  await fine(world.tarmac('env', 'set', 'DATABASE=one', 'KEPT=yes'))
  await fine(world.tarmac('push'))
  version(world, '2')
  await fine(world.tarmac('push'))
  await fine(world.tarmac('env', 'set', 'DATABASE=two', 'NEW=yes'))
  await fine(world.tarmac('env', 'unset', 'KEPT'))
  await fine(world.tarmac('rollback'))
  const back = await environ(world)
  assert.deepEqual(
    [await world.get(), back.get('DATABASE'), back.get('KEPT'), back.has('NEW')],
    ['1', 'one', 'yes', false],
  )
  const { revision, newest } = await envOf(world)
  assert.deepEqual([revision, newest], [1, 3])
  assert.deepEqual(
    (await releasesOf(world)).map(({ envRevision }) => envRevision),
    [3, 1],
  )

  version(world, '3')
  await fine(world.tarmac('push'))
  const forth = await environ(world)
  assert.deepEqual([await world.get(), forth.get('DATABASE'), forth.has('KEPT')], ['3', 'two', false])
  // A restart, a start by the agent and a change are of the release's own too.
  await fine(world.tarmac('rollback'))
  await fine(world.tarmac('restart'))
  assert.equal((await environ(world)).get('DATABASE'), 'one')
  await world.stopAgent()
  await world.startAgent()
  assert.equal((await environ(world)).get('DATABASE'), 'one')
  const made = await fine(world.tarmac('env', 'set', 'MORE=yes'))
  assert.match(made.stderr, /revision 4 is made of 1, which serves since a rollback: what was new in 3 is not in it/)
  const more = await environ(world)
  assert.deepEqual([more.get('DATABASE'), more.get('MORE')], ['one', 'yes'])
})

test('what was stopped stays so when its environment changes, and start finds the new one', async (t) => {
  const world = await shop(t)
  await fine(world.tarmac('push'))
  await fine(world.tarmac('stop'))
  await fine(world.tarmac('env', 'set', 'DATABASE=found'))
  assert.equal(await world.get(), undefined)
  assert.equal((await statusOf(world)).services[0]?.state, 'stopped')
  await fine(world.tarmac('start'))
  assert.equal((await environ(world)).get('DATABASE'), 'found')
})

test('values of every kind arrive to the byte, from arguments, stdin and a file', async (t) => {
  const world = await shop(t)
  const values: Record<string, string> = {
    QUOTES: `a'b"c\`d`,
    SHELL_WORDS: '$HOME $(id) `id` ; # & | > *',
    PERCENT: '%n %h %% %j',
    BACKSLASHES: 'a\\nb\\\\c\\',
    LINES: '\nfirst\nInjected="yes"\nExecStartPre=/bin/false\n\n',
    CONTROL: '\x01\t\r\x1b[31m\x7f\x85',
    UNICODE: 'ü漢🎉\u2028\u00a0\ufeff',
    BLANKS: '  both ends  ',
    EQUALS: '=a=b=',
    // As long as Linux gives it to any process: with the name, the equals sign and a NUL.
    LONG: 'x'.repeat(128 * 1024 - 'LONG=\0'.length),
    constructor: 'of no object',
    prototype: 'none',
    __PROTO: '__proto__',
    _: 'underscore',
  }
  await fine(world.tarmac('push'))
  await fine(
    world.tarmac('env', 'set', ...Object.entries(values).map(([name, value]) => `${name}=${value}`), '__proto__=own'),
  )
  const pem = '-----BEGIN KEY-----\nAAAA\n\nBBBB\n-----END KEY-----\n'
  world.write({
    'prod.env': `# a comment\nexport FILED='it''s' \nDOUBLE="two\nlines"\nPLAIN = words with blanks # and a remark\n`,
  })
  await fine(world.tarmacFed(`${pem}\n`, 'env', 'set', 'PEM', '--file', 'prod.env'))
  const got = await environ(world)
  for (const [name, value] of Object.entries(values)) assert.equal(got.get(name), value, name)
  assert.deepEqual([got.get('__proto__'), got.get('PEM')], ['own', pem])
  assert.deepEqual([got.get('DOUBLE'), got.get('PLAIN')], ['two\nlines', 'words with blanks'])
  await fine(world.tarmac('env', 'set', 'NODE_OPTIONS=--no-deprecation --title=shop'))
  assert.match((await environ(world)).get('NODE_OPTIONS') ?? '', /--no-deprecation --title=shop$/)
})

test('what cannot be a variable is refused before anything is written', async (t) => {
  const world = await shop(t)
  const refused = [['TARMAC_RELEASE=mine'], ['LISTEN_FDS=1'], ['1A=b'], ['A', 'B'], []]
  for (const argv of refused)
    assert.equal((await world.tarmac('env', 'set', ...argv)).exit, 2, argv.join().slice(0, 50))
  assert.equal((await world.tarmac('env', 'set', '--file', 'absent.env')).exit, 2)
  for (const input of ['', '\n', 'a\0b', 'x'.repeat(128 * 1024 - 1)]) {
    assert.equal((await world.tarmacFed(input, 'env', 'set', 'A')).exit, 2, input.slice(0, 10))
  }
  assert.equal((await world.tarmac('env', 'list')).exit, 2, 'there is no such app')
  assert.deepEqual(readdirSync(join(world.root, 'apps')), [])
  await fine(world.tarmac('push'))
  const { pid } = (await statusOf(world)).services[0] ?? {}
  const port = await world.tarmac('env', 'set', 'PORT=80')
  assert.deepEqual([port.exit, /web is given its port \d+ by tarmac.toml/.test(port.stderr)], [2, true], port.stderr)
  assert.equal((await statusOf(world)).services[0]?.pid, pid)
  assert.equal((await environ(world)).get('PORT'), String(world.port))
})

test('a value is in no output, log, ledger or file but those of the environment, which are the agent’s alone', async (t) => {
  const world = await shop(t)
  const said: Ran[] = []
  const run = async (...argv: string[]) => said.push(await world.tarmac(...argv))
  await run('env', 'set', `DATABASE=${SECRET}`)
  await run('push')
  await run('env', 'set', `DATABASE=${BAD}`)
  await run('env', 'set', `DATABASE=${BAD}`, '--json', '--verbose')
  await run('env', 'set', `TARMAC_X=${SECRET}`)
  for (const verb of ['status', 'releases', 'deploys', 'logs']) await run(verb, '--json')
  await run('env', 'list')
  await run('env', 'list', '--json')
  const list = said.at(-2)?.stdout ?? ''
  assert.match(list, new RegExp(`DATABASE +•••• +${SECRET.length} +[0-9a-f]{8}`))
  for (const { stdout, stderr } of said) assert.equal(`${stdout}${stderr}`.includes(SECRET), false)
  assert.equal(world.agentLog().includes(SECRET), false)
  await world.stopAgent()
  const holds = globSync('**/*', { cwd: world.root, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((file) => readFileSync(file).includes(SECRET))
  assert.ok(holds.length > 0)
  for (const file of holds) {
    assert.match(file, /\/apps\/shop\/env\/(\d+|web@[ab]\.env)$/)
    assert.deepEqual([statSync(file).mode & 0o777, statSync(join(file, '..')).mode & 0o777], [0o600, 0o700])
  }
})

test('an agent killed in the middle of it has the old environment or the new one, and says which', async (t) => {
  const world = await shop(t, { faults: true })
  await fine(world.tarmac('env', 'set', 'DATABASE=one'))
  await fine(world.tarmac('push'))
  const kill = async (point: string, value: string) => {
    world.fault(`${point} 1 kill`)
    const set = world.tarmacBegin('env', 'set', `DATABASE=${value}`)
    // The client asks how it ended, once there is an agent again.
    for (let tries = 0; tries < 800 && readdirSync(world.dir).includes('fault'); tries++) await sleep(25)
    await world.stopAgent()
    await world.startAgent()
    return set.ended
  }
  const undone = await kill('step.healthy', 'two')
  assert.equal(undone.exit, 7, undone.stderr)
  assert.match(undone.stderr, /the environment of before is in force/)
  assert.equal((await environ(world)).get('DATABASE'), 'one')
  assert.deepEqual([(await envOf(world)).revision, (await envOf(world)).newest], [1, 1])

  const finished = await kill('env.bound', 'three')
  assert.equal(finished.exit, 0, finished.stderr)
  assert.equal((await environ(world)).get('DATABASE'), 'three')
  assert.deepEqual([(await envOf(world)).revision, (await envOf(world)).newest], [3, 3])
  assert.equal((await world.tarmac('status', '--check')).exit, 0)
})
