import assert from 'node:assert/strict'
import { globSync, lstatSync, mkdirSync, readdirSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { AppStatus, DeployEntry, ReleaseEntry } from '../../shared/wire.ts'
import { freePort, makeWorld, projectText, restarting, type World } from '../helpers/world.ts'

/** Answers "warming" with 503 until it is warm: the gate waits meanwhile. */
function warming(version: string, ms: number): string {
  return `const warm = Date.now() + ${ms}
require('node:http').createServer((q, r) => {
  if (Date.now() < warm) { r.statusCode = 503; r.end('warming') } else r.end(${JSON.stringify(version)})
}).listen(process.env.PORT)\n`
}

async function until(world: World, text: string | undefined): Promise<void> {
  for (let tries = 0; tries < 400; tries++) {
    if ((await world.get()) === text) return
    await sleep(25)
  }
  assert.fail(`the app answers ${await world.get()}, not ${text}`)
}

async function statusOf(world: World): Promise<AppStatus> {
  return JSON.parse((await world.tarmac('status', '--json')).stdout).hosts[0].apps[0]
}

async function deploysOf(world: World): Promise<DeployEntry[]> {
  return JSON.parse((await world.tarmac('deploys', '--json')).stdout).hosts[0].deploys
}

/** What the store holds. */
function bytesStored({ root }: World): number {
  const objects = globSync(join(root, 'apps/shop/objects/??/*'))
  return objects.reduce((sum, path) => sum + lstatSync(path).size, 0)
}

async function releasesOf(world: World): Promise<ReleaseEntry[]> {
  return JSON.parse((await world.tarmac('releases', '--json')).stdout).hosts[0].releases
}

async function pushed(world: World, version: string, options?: { broken: number }): Promise<number | null> {
  world.version(version, options)
  return (await world.tarmac('push')).exit
}

test('rollback goes to the release before, or to a named one, and says no when there is none', async (t) => {
  const world = await makeWorld(t)
  await pushed(world, '1')
  const { wanted: first } = await statusOf(world)
  const nowhere = await world.tarmac('rollback')
  assert.deepEqual([nowhere.exit, await world.get()], [2, '1'])
  assert.match(nowhere.stderr, /no other release was ever healthy/)

  await pushed(world, '2')
  const { wanted: second, previousGood } = await statusOf(world)
  assert.equal(previousGood, first)
  const back = await world.tarmac('rollback')
  assert.deepEqual([back.exit, await world.get()], [0, '1'])
  assert.match(back.stderr, new RegExp(`${second} → ${first}`), 'it says where it goes')
  const after = await statusOf(world)
  assert.deepEqual([after.wanted, after.running, after.previousGood], [first, first, null])
  assert.equal(after.bytesOnDisk, bytesStored(world))
  assert.equal((await releasesOf(world)).find(({ id }) => id === second)?.state, 'bad')

  const named = await world.tarmac('rollback', second ?? '')
  assert.deepEqual([named.exit, await world.get()], [0, '2'], 'a person who names it may go to a bad one')
  const unknown = await world.tarmac('rollback', '20200101T000000Z-00000000', '--json')
  assert.equal(unknown.exit, 2)
  assert.match(unknown.stdout, /"release_unknown"/)
  assert.equal((await world.tarmac('rollback', 'latest')).exit, 2)
  assert.equal((await world.tarmac('rollback', '--app', 'other')).exit, 2)
  assert.equal(await world.get(), '2')
})

test('a rollback never lands on a release that was bad', async (t) => {
  const world = await makeWorld(t)
  await pushed(world, 'A')
  assert.deepEqual([await pushed(world, 'B', { broken: 1 }), await world.get()], [6, 'A'])
  assert.deepEqual([await pushed(world, 'C', { broken: 1 }), await world.get()], [6, 'A'])
  assert.deepEqual([(await world.tarmac('rollback')).exit, await world.get()], [2, 'A'])
  assert.deepEqual([await pushed(world, 'D'), (await world.tarmac('rollback')).exit, await world.get()], [0, 0, 'A'])
  assert.deepEqual([await pushed(world, 'E', { broken: 1 }), await world.get()], [6, 'A'])
  assert.equal((await world.tarmac('rollback')).exit, 2, 'D was left for a reason')
})

test('restart makes a new process; what was stopped stays stopped over a restart of the agent, until start', async (t) => {
  const world = await makeWorld(t)
  await pushed(world, '1')
  const before = (await statusOf(world)).services[0]
  assert.equal((await world.tarmac('restart')).exit, 0)
  const restarted = (await statusOf(world)).services[0]
  assert.notEqual(restarted?.pid, before?.pid)
  assert.equal(restarted?.release, before?.release)

  assert.equal((await world.tarmac('stop')).exit, 0)
  assert.equal(await world.get(), undefined)
  await world.stopAgent()
  await world.startAgent()
  assert.equal((await statusOf(world)).services[0]?.state, 'stopped')
  assert.equal(await world.get(), undefined)

  assert.equal((await world.tarmac('start')).exit, 0)
  assert.equal(await world.get(), '1')
  await world.stopAgent()
  await world.startAgent()
  await until(world, '1')
  assert.deepEqual(
    (await deploysOf(world)).map(({ kind, result, who }) => `${kind} ${result} ${who}`),
    ['start done ann', 'stop done ann', 'restart done ann', 'push done ann'],
  )
})

test('a second push of an app is told who is busy, since when, and with what; another app is not held up', async (t) => {
  const world = await makeWorld(t)
  world.write({ 'tarmac.toml': restarting(projectText(world.port, world.url)) })
  await pushed(world, '1')
  // Until it is told: on a slow machine what follows may take long.
  const held = `let warm = false
require('node:http').createServer((q, r) => {
  warm ||= q.url === '/warm'
  if (warm) r.end('2'); else { r.statusCode = 503; r.end('warming') }
}).listen(process.env.PORT)\n`
  world.write({ 'server.js': held })
  const slow = world.tarmacBegin('push')
  await until(world, 'warming')
  const second = await world.tarmac('push', '--force')
  assert.equal(second.exit, 5)
  assert.match(second.stderr, /change shop: ann has been busy with a push since \d{4}-\d\d-\d\dT[\d:.]+Z \(started\)/)
  assert.equal((await world.tarmac('env', 'set', 'A=b')).exit, 5)
  assert.equal((await world.tarmac('rollback')).exit, 5)

  const port = await freePort()
  const other = projectText(port, world.url).replace('app = "shop"', 'app = "blog"')
  world.write({ 'blog/tarmac.toml': other, 'blog/server.js': warming('blog', 0) })
  assert.equal((await world.tarmac('push', '--config', 'blog/tarmac.toml')).exit, 0)
  assert.equal(await (await fetch(`http://127.0.0.1:${port}`)).text(), 'blog')
  assert.equal(await world.get(), 'warming', 'the first one was still at it')
  assert.equal(await world.get('/warm'), '2')
  assert.equal((await slow.ended).exit, 0)
  assert.equal(await world.get(), '2')
})

test('an agent killed in the middle of a switch starts with the old release, and writes down what became of it', async (t) => {
  const world = await makeWorld(t)
  world.write({ 'tarmac.toml': restarting(projectText(world.port, world.url)) })
  await pushed(world, '1')
  const { running: first } = await statusOf(world)
  world.write({ 'server.js': warming('2', 60_000) })
  const push = world.tarmacBegin('push')
  await until(world, 'warming')
  await world.stopAgent('SIGKILL')

  await world.startAgent()
  await until(world, '1')
  const { exit, stderr } = await push.ended
  assert.equal(exit, 7, 'who watched asks the agent again, and is told')
  assert.match(stderr, /asking how change 2 ended\n+failed .* the agent was stopped in the middle of it\n/)
  const [entry] = await deploysOf(world)
  assert.deepEqual([entry?.kind, entry?.result, entry?.from], ['push', 'interrupted', first])
  assert.notEqual(entry?.to, first, 'what was pushed stands in the record')
  assert.deepEqual([entry?.receipt?.running, entry?.receipt?.phase], [first, 'interrupted'])
  const { wanted, running, services } = await statusOf(world)
  assert.deepEqual([wanted, running, services[0]?.state], [first, first, 'running'])
  assert.deepEqual(
    (await releasesOf(world)).map(({ state }) => state),
    ['failed', 'healthy'],
  )
  assert.deepEqual(readdirSync(join(world.root, 'apps/shop/staging')), [])
  assert.deepEqual([await pushed(world, '3'), await world.get()], [0, '3'])
})

test('an agent that is asked to stop lets a push under way come to its end', async (t) => {
  const world = await makeWorld(t)
  world.write({ 'tarmac.toml': restarting(projectText(world.port, world.url)) })
  await pushed(world, '1')
  world.write({ 'server.js': warming('2', 1500) })
  const push = world.tarmacBegin('push')
  await until(world, 'warming')
  await world.stopAgent('SIGTERM')
  const { exit, stderr } = await push.ended
  assert.equal(exit, 0, stderr)
  await world.startAgent()
  assert.equal((await deploysOf(world))[0]?.result, 'done')
  assert.equal((await statusOf(world)).wanted, (await statusOf(world)).running)
})

test('an agent starts although a stray directory lies among its apps', async (t) => {
  const world = await makeWorld(t)
  await pushed(world, '1')
  await world.stopAgent()
  mkdirSync(join(world.root, 'apps/lost+found'))
  await world.startAgent()
  await until(world, '1')
  assert.equal((await statusOf(world)).app, 'shop')
})

test('an answer of another program at the port is not taken for the app', async (t) => {
  const world = await makeWorld(t)
  world.write({ 'tarmac.toml': restarting(projectText(world.port, world.url)) })
  const other = createServer((_request, response) => response.end('other'))
  await new Promise<void>((resolve) => void other.listen(world.port, '127.0.0.1', resolve))
  const taken = await world.tarmac('push')
  other.closeAllConnections()
  await new Promise((resolve) => other.close(resolve))
  assert.equal(taken.exit, 8)
  assert.match(taken.stderr, /web cannot have port \d+: another program on this host answers at 127\.0\.0\.1/)
  assert.equal((await world.tarmac('push')).exit, 0)
  assert.equal((await world.tarmac('start')).exit, 0, 'starting what runs is fine')
  assert.equal(await world.get(), '1')
})

test('an agent killed after the switch and before the record of it counts the push as finished', async (t) => {
  const world = await makeWorld(t)
  await pushed(world, '1')
  await pushed(world, '2')
  const { running, previousGood } = await statusOf(world)
  await world.stopAgent('SIGKILL')
  // The ledger as it is between the rename of `current` and the next row.
  const db = new DatabaseSync(join(world.root, 'ledger.db'))
  db.prepare("UPDATE releases SET state = 'started', once_healthy = 0 WHERE id = ?").run(running)
  db.prepare('UPDATE apps SET wanted = ?').run(previousGood)
  db.prepare("UPDATE deploys SET result = 'running', ended_at = NULL WHERE to_release = ?").run(running)
  db.close()
  await world.startAgent()
  await until(world, '2')
  const after = await statusOf(world)
  assert.deepEqual([after.wanted, after.running, after.services[0]?.state], [running, running, 'running'])
  const [entry] = await deploysOf(world)
  assert.deepEqual([entry?.result, entry?.to, entry?.receipt], ['done', running, null])
  assert.match(entry?.steps[0]?.message ?? '', /^the agent was stopped in the middle of this: going on to its end$/)
  await pushed(world, '3')
  assert.equal((await statusOf(world)).previousGood, running, 'it is a good one to go back to')
})
