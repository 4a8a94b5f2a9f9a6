import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { LogLine } from '../../shared/wire.ts'
import { makeWorld, type Ran, type World } from '../helpers/world.ts'

/** Says its name when it starts, and what it is asked for. */
const talker = (name: string) => `const http = require('node:http')
console.log('${name} starts')
http.createServer((q, r) => { console.log('${name} hears ' + q.url); r.end('${name}') }).listen(process.env.PORT)\n`

const messages = ({ stdout }: Ran): string[] =>
  stdout
    .trim()
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => (JSON.parse(line) as LogLine).message)

async function pushedAs(world: World, name: string): Promise<string> {
  world.write({ 'server.js': talker(name) })
  const { stdout } = await world.tarmac('push', '--json')
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '').hosts[0].release
}

test('logs gives the newest lines of all releases, of one that is dead, of one service, and since a time', async (t) => {
  const world = await makeWorld(t)
  const first = await pushedAs(world, 'one')
  for (const path of ['/a', '/b', '/c']) await world.get(path)
  // What it printed is read by the agent a moment later, and dated then.
  while (!messages(await world.tarmac('logs', '--json', '--release', first)).includes('one hears /c')) await sleep(20)
  const between = new Date().toISOString()
  const second = await pushedAs(world, 'two')
  world.version('3', { broken: 9 })
  const failed = JSON.parse((await world.tarmac('push', '--json')).stdout.trim().split('\n').at(-1) ?? '')

  const ofFirst = messages(await world.tarmac('logs', '--json', '--release', first))
  assert.deepEqual(
    ofFirst.filter((text) => !text.endsWith(' /')),
    ['one starts', 'one hears /a', 'one hears /b', 'one hears /c'],
  )
  const dead = messages(await world.tarmac('logs', 'web', '--json', '--release', failed.hosts[0].release))
  assert.deepEqual(new Set(dead), new Set(['version 3 is broken']))
  assert.deepEqual(messages(await world.tarmac('logs', '--json', '-n', '1', '--release', second)).length, 1)
  const since = messages(await world.tarmac('logs', '--json', '--since', between))
  assert.ok(since.includes('two starts') && !since.some((text) => text.startsWith('one hears /a')))
  assert.ok(messages(await world.tarmac('logs', '--json', '--since', '10m')).includes('one hears /a'))

  const [line] = (await world.tarmac('logs', '--json', '-n', '1', '--release', first)).stdout.trim().split('\n')
  assert.deepEqual(Object.keys(JSON.parse(line ?? '')).sort(), ['at', 'message', 'release', 'service'])
  const plain = await world.tarmac('logs', '-n', '1', '--release', second)
  assert.match(plain.stdout, /^\d{4}-\d\d-\d\dT[\d:.]+Z web two /)
  assert.equal(plain.stderr, '')
})

test('logs refuses what is not there, by name', async (t) => {
  const world = await makeWorld(t)
  assert.equal((await world.tarmac('logs')).exit, 2, 'no such app yet')
  await pushedAs(world, 'one')
  const service = await world.tarmac('logs', 'worker')
  assert.deepEqual([service.exit, /no service "worker", only web/.test(service.stderr)], [2, true])
  assert.equal((await world.tarmac('logs', '--since', 'yesterday')).exit, 2)
  assert.equal((await world.tarmac('logs', '-n', 'ten')).exit, 2)
  assert.equal((await world.tarmac('logs', '--release', 'latest')).exit, 2)
})

test('logs -f gives lines as they are written, over a push, and shows no control characters of the app', async (t) => {
  const world = await makeWorld(t)
  await pushedAs(world, 'one')
  const following = world.tarmacBegin('logs', '-f', '-n', '1')
  await sleep(1500)
  await world.get('/one%1b')
  world.write({ 'server.js': `console.log('\\x1b[2Jtwo')\n${talker('two')}` })
  await world.tarmac('push')
  await world.get('/late')
  await sleep(300)
  following.kill('SIGINT')
  const { exit, stdout } = await following.ended
  assert.equal(exit, 130)
  for (const text of ['one hears /one%1b', '\\u{1b}[2Jtwo', 'two starts', 'two hears /late'])
    assert.ok(stdout.includes(text), `${text} in ${stdout}`)
  assert.ok(!stdout.includes('\x1b'))
  assert.equal(await world.get(), 'two')
})
