import assert from 'node:assert/strict'
import { appendFileSync, chmodSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { sha256 } from '../../shared/names.ts'
import type { AppStatus, DeployEntry, ReleaseEntry } from '../../shared/wire.ts'
import { startWebhook } from '../helpers/webhook.ts'
import { makeWorld, type World } from '../helpers/world.ts'

async function push(world: World, version: string): Promise<string> {
  world.version(version)
  return pushed(world)
}

async function pushed(world: World): Promise<string> {
  const { exit, stdout, stderr } = await world.tarmac('push', '--json')
  assert.equal(exit, 0, stderr)
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '').hosts[0].release
}

/** Writes to a file of a release in its place, so that it is damaged in every release that has it. */
function damage(world: World, release: string): void {
  const path = join(world.root, 'apps/shop/releases', release, 'tree/server.js')
  chmodSync(path, 0o644)
  writeFileSync(path, readFileSync(path, 'utf8').replace(/r\.end/, 'r.End'))
  chmodSync(path, 0o444)
}

async function hostJson<T>(world: World, ...argv: string[]): Promise<T> {
  return JSON.parse((await world.tarmac(...argv, '--json')).stdout).hosts[0]
}
const statesOf = async (world: World) =>
  Object.fromEntries(
    (await hostJson<{ releases: ReleaseEntry[] }>(world, 'releases')).releases.map(({ id, state }) => [id, state]),
  )
const deploysOf = async (world: World) => (await hostJson<{ deploys: DeployEntry[] }>(world, 'deploys')).deploys

test('a rollback passes over a release that is damaged on the disk and says so, and a push that brings the content mends it', async (t) => {
  const webhook = await startWebhook(t)
  const world = await makeWorld(t, { started: false })
  appendFileSync(join(world.root, 'etc/agent.toml'), `\n[notify]\nwebhook = "${webhook.url}"\n`)
  await world.startAgent()
  const [first, second, third] = [await push(world, '1'), await push(world, '2'), await push(world, '3')]
  damage(world, second)
  const named = await world.tarmac('rollback', second)
  assert.deepEqual([named.exit, await world.get()], [2, '3'])
  assert.match(named.stderr, new RegExp(`${second} is damaged on disk: server.js\\n.*push it again`))
  const told = await webhook.until('release-damaged')
  assert.deepEqual([told.app, told.release], ['shop', second])
  assert.equal((await statesOf(world))[second], 'damaged')
  const status = await world.tarmac('status', '--check')
  assert.deepEqual([status.exit, status.stderr.includes(`shop ${second} is damaged on disk`)], [10, true])
  const doctor = await world.tarmac('doctor')
  assert.match(doctor.stdout, new RegExp(`bad +apps +damaged on disk: shop ${second}\\n`))
  assert.match(doctor.stdout, /ok +files/, 'what was set aside is ours')

  const back = await world.tarmac('rollback')
  assert.deepEqual([back.exit, await world.get()], [0, '1'])
  assert.match(back.stderr, new RegExp(`! warning: rollback shop: ${second} is damaged on disk: server.js`))
  const nowhere = await world.tarmac('rollback')
  assert.deepEqual([nowhere.exit, await world.get()], [2, '1'])
  assert.match(nowhere.stderr, new RegExp(`${second} is damaged on disk`))

  world.version('2')
  world.write({ 'more.txt': 'a release of its own' })
  const fourth = await pushed(world)
  assert.deepEqual(await statesOf(world), {
    [first]: 'healthy',
    [second]: 'healthy',
    [third]: 'bad',
    [fourth]: 'healthy',
  })
  assert.deepEqual([(await world.tarmac('rollback', second)).exit, await world.get()], [0, '2'])
})

test('a push of what runs is no "already running" when that is damaged: what is damaged is sent again', async (t) => {
  const world = await makeWorld(t)
  const first = await push(world, '1')
  assert.equal(await pushed(world), first, 'it runs already')
  damage(world, first)
  // In the same second the same content would be the same release.
  await sleep(1_000)
  const again = await world.tarmac('push', '--verbose')
  assert.equal(again.exit, 0, again.stderr)
  assert.match(again.stderr, /warning: 1 of its contents were damaged on 127\.0\.0\.1: they are sent again/)
  const states = await statesOf(world)
  assert.deepEqual([Object.keys(states).length, states[first]], [2, 'healthy'], 'the old one is mended')
  assert.equal(await world.get(), '1')
})

test('nor is it for a bundle, however shortly before all was whole', async (t) => {
  const world = await makeWorld(t)
  const first = await push(world, '1')
  const file = join(world.dir, 'shop.tarmac')
  assert.equal((await world.tarmac('pack', '-o', file)).exit, 0)
  assert.equal(await pushed(world), first, 'it runs already')
  assert.match((await world.tarmac('push', file)).stdout, /already running/)
  await sleep(3_100)
  damage(world, first)
  const again = await world.tarmac('push', file)
  assert.deepEqual([again.exit, (await statesOf(world))[first]], [0, 'healthy'], again.stderr)
  assert.match(again.stderr, /1 of its contents were damaged/)
})

test('a crash loop is not led back to a release that is damaged on the disk', async (t) => {
  const world = await makeWorld(t)
  const [first, second] = [await push(world, '1'), await push(world, '2')]
  damage(world, second)
  const dies = `setTimeout(() => process.exit(9), 400); ${readFileSync(join(world.project, 'server.js'), 'utf8')}`
  world.write({ 'server.js': dies })
  await pushed(world)
  let last: DeployEntry | undefined
  for (let tries = 0; tries < 400 && last?.kind !== 'auto-rollback'; tries++) {
    await sleep(50)
    last = (await deploysOf(world)).find(({ kind, result }) => kind === 'auto-rollback' && result === 'done')
  }
  assert.equal(last?.to, first)
  assert.match(last?.steps.find(({ step }) => step === 'warning')?.message ?? '', /is damaged on disk: server\.js/)
  const [shop] = (await hostJson<{ apps: AppStatus[] }>(world, 'status')).apps
  assert.deepEqual([shop?.running, await world.get()], [first, '1'])
})

test('what a host has lost of what was pushed before comes again with a push that would not have sent it', async (t) => {
  const world = await makeWorld(t)
  const text = 'in both releases'
  world.write({ 'lib.txt': text })
  const first = await push(world, '1')
  const digest = sha256(text)
  for (const path of [`objects/${digest.slice(0, 2)}/${digest.slice(2)}`, `releases/${first}/tree/lib.txt`]) {
    rmSync(join(world.root, 'apps/shop', path))
  }
  // By what the client remembers only server.js is to be sent; the host says no, and is asked.
  world.version('2')
  const { exit, stdout, stderr } = await world.tarmac('push', '--json')
  assert.equal(exit, 0, stderr)
  const { hosts, objectsSent } = JSON.parse(stdout.trim().split('\n').at(-1) ?? '')
  assert.equal(objectsSent, 2, stdout)
  assert.equal(await world.get(), '2')
  const tree = join(world.root, 'apps/shop/releases', hosts[0].release, 'tree')
  assert.equal(readFileSync(join(tree, 'lib.txt'), 'utf8'), text)
})
