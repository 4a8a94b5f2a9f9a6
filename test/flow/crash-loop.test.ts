import assert from 'node:assert/strict'
import { appendFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { AppStatus, DeployEntry, Receipt, ReleaseEntry } from '../../shared/wire.ts'
import { startWebhook, type Webhook } from '../helpers/webhook.ts'
import { makeWorld, type World } from '../helpers/world.ts'

// Releases that pass their gate and die afterwards.

const QUIET_MS = 1_500

async function watched(t: TestContext, watch = ''): Promise<{ world: World; webhook: Webhook }> {
  const webhook = await startWebhook(t)
  const world = await makeWorld(t, { started: false })
  const more = `\n[notify]\nwebhook = "${webhook.url}"\n${watch === '' ? '' : `[watch]\n${watch}\n`}`
  appendFileSync(join(world.root, 'etc/agent.toml'), more)
  await world.startAgent()
  return { world, webhook }
}

/** Answers its version. `diesAfterMs` of each start it ends with code 9; `ms` it needs to become healthy. */
function app(version: string, of: { diesAfterMs?: number; warmMs?: number; poison?: string } = {}): string {
  const { diesAfterMs, warmMs = 0, poison } = of
  const die = `() => { console.error('version ${version} lost its mind'); process.exit(9) }`
  return `const warm = Date.now() + ${warmMs}
require('node:http').createServer((q, r) => {
  r.statusCode = Date.now() < warm ? 503 : 200
  r.end(${JSON.stringify(version)})
}).listen(process.env.PORT)
${diesAfterMs === undefined ? '' : `setTimeout(${die}, ${diesAfterMs})`}
${poison === undefined ? '' : `setInterval(() => { if (require('node:fs').existsSync(${JSON.stringify(poison)})) (${die})() }, 20)`}
`
}

async function push(world: World, text: string): Promise<void> {
  world.write({ 'server.js': text })
  const { exit, stderr } = await world.tarmac('push')
  assert.equal(exit, 0, stderr)
}

async function hostJson<T>(world: World, ...argv: string[]): Promise<T> {
  return JSON.parse((await world.tarmac(...argv, '--json')).stdout).hosts[0]
}
const statusOf = async (world: World) => {
  const [shop] = (await hostJson<{ apps: AppStatus[] }>(world, 'status')).apps
  assert.ok(shop)
  return { ...shop, state: shop.services[0]?.state }
}
const deploysOf = async (world: World) => (await hostJson<{ deploys: DeployEntry[] }>(world, 'deploys')).deploys
const releasesOf = async (world: World) => (await hostJson<{ releases: ReleaseEntry[] }>(world, 'releases')).releases
const changesOf = async (world: World) => (await deploysOf(world)).map(({ kind, result }) => `${kind} ${result}`)

async function until<T>(what: string, ask: () => Promise<T | undefined | false>): Promise<T> {
  for (let tries = 0; tries < 400; tries++) {
    const answer = await ask()
    if (answer !== undefined && answer !== false) return answer
    await sleep(25)
  }
  return assert.fail(`${what} did not come`)
}
async function untilGaveUp(world: World) {
  const entry = await until('the verdict in deploys', async () =>
    (await deploysOf(world)).find(({ kind, receipt }) => kind === 'gave-up' && receipt !== null),
  )
  return { ...entry, receipt: entry.receipt as Receipt }
}
const untilAnswers = (world: World, text: string) => until(text, async () => (await world.get()) === text)

test('a release that dies for good in its probation is rolled back once, and stays wanted until a person decides', async (t) => {
  const { world, webhook } = await watched(t)
  await push(world, app('A'))
  await push(world, app('B', { diesAfterMs: 400 }))
  const { wanted: b } = await statusOf(world)
  const rolledBack = await webhook.until('auto-rollback')
  assert.equal(await world.get(), 'A')
  const status = await statusOf(world)
  assert.deepEqual([status.wanted, status.state, status.services[0]?.slot], [b, 'degraded', 'a'])
  assert.notEqual(status.running, b)
  assert.equal((await world.tarmac('status', '--check')).exit, 10)

  const [entry] = await deploysOf(world)
  assert.ok(entry?.receipt)
  const { kind, result, who, key, from, to, receipt } = entry
  assert.deepEqual([kind, result, who, key, from, to], ['auto-rollback', 'done', 'tarmac', '-', b, status.running])
  assert.deepEqual([receipt.release, receipt.service, receipt.phase, receipt.exit?.code], [b, 'web', 'probation', 9])
  assert.match(receipt.reason, /^web was given up in a crash loop, after \d respawns \(exit code 9\)$/)
  assert.ok(receipt.output.includes('version B lost its mind'), JSON.stringify(receipt.output))
  assert.equal(receipt.running, status.running)
  assert.deepEqual(
    (await releasesOf(world)).map(({ state }) => state),
    ['bad', 'healthy'],
  )
  assert.deepEqual(
    webhook.told.map(({ event, app, release }) => [event, app, release]),
    [
      ['crash-loop', 'shop', b],
      ['auto-rollback', 'shop', status.running],
    ],
  )
  assert.match(rolledBack.text, /shop: went back from \S+ to \S+, which serves/)

  await world.stopAgent()
  await world.startAgent()
  await untilAnswers(world, 'A')
  await sleep(QUIET_MS)
  assert.deepEqual(await changesOf(world), ['auto-rollback done', 'push done', 'push done'])
  assert.equal((await statusOf(world)).state, 'degraded', 'a restart of the agent decides nothing')
  assert.equal(webhook.told.length, 2)

  assert.equal((await world.tarmac('restart')).exit, 0)
  assert.equal((await statusOf(world)).state, 'degraded')
  const acknowledged = await world.tarmac('rollback', String(status.running), '--yes')
  assert.equal(acknowledged.exit, 0, acknowledged.stderr)
  assert.deepEqual([(await world.tarmac('status', '--check')).exit, await world.get()], [0, 'A'])
  assert.deepEqual(
    (await releasesOf(world)).map(({ state }) => state),
    ['bad', 'healthy'],
    'what a person decided for is not marked',
  )
  await push(world, app('C'))
  assert.deepEqual([(await world.tarmac('status', '--check')).exit, await world.get()], [0, 'C'])
})

test('when the release it went back to loops too, nothing is rolled back again: it stays down and says so', async (t) => {
  const { world, webhook } = await watched(t)
  await push(world, app('0'))
  const poison = join(world.dir, 'poison')
  await push(world, app('A', { poison }))
  await push(world, app('B', { diesAfterMs: 400 }))
  await webhook.until('auto-rollback')
  assert.equal(await world.get(), 'A')
  webhook.told.length = 0
  writeFileSync(poison, '')
  const { text } = await webhook.until('crash-loop')
  assert.match(text, /It is not rolled back and stays down: it was rolled back once since the last push/)
  const gaveUp = await untilGaveUp(world)
  await sleep(QUIET_MS)
  assert.deepEqual(await changesOf(world), [
    'gave-up failed',
    'auto-rollback done',
    'push done',
    'push done',
    'push done',
  ])
  const { who, key, from, to, code, receipt } = gaveUp
  const a = (await deploysOf(world))[1]?.to
  assert.deepEqual([who, key, from, to, code], ['tarmac', '-', a, null, 'unhealthy'])
  assert.deepEqual([receipt.release, receipt.phase, receipt.exit?.code, receipt.running], [a, 'serving', 9, null])
  assert.match(receipt.reason, /^web was given up .*; not rolled back: it was rolled back once since the last push/)
  assert.ok(receipt.output.includes('version A lost its mind'), JSON.stringify(receipt.output))
  assert.ok(receipt.next.some((text) => text.endsWith('tarmac rollback')))
  assert.match(
    (await world.tarmac('deploys', String(gaveUp.id))).stdout,
    /gave-up .* unhealthy .*\n[\s\S]*version A lost/,
  )
  const { state, running } = await statusOf(world)
  assert.deepEqual([state, running, await world.get()], ['crash-looping', null, undefined])
  assert.equal(webhook.told.length, 1)
  await push(world, app('C'))
  assert.equal((await world.tarmac('status', '--check')).exit, 0)
})

test('a loop that init would never end is called by its exits, in probation and with nothing to go back to', async (t) => {
  const { world, webhook } = await watched(t, 'exits = 3\nwithin = "1m"')
  world.write({ 'tarmac.toml': slowly(world) })
  await push(world, app('A', { diesAfterMs: 300 }))
  const { text } = await webhook.until('crash-loop')
  assert.match(
    text,
    /web is in a crash loop: 3 exits within 60 s\. .* stays down: there is no good release to go back to/,
  )
  await until('the stop', async () => (await statusOf(world)).state === 'crash-looping')
  const { receipt } = await untilGaveUp(world)
  await sleep(QUIET_MS)
  assert.deepEqual([receipt.undone, receipt.exit?.code], [['web was stopped'], 9])
  assert.deepEqual(await changesOf(world), ['gave-up failed', 'push done'])
  assert.equal(await world.get(), undefined, 'the agent stopped what init did not')
  assert.equal((await world.tarmac('status', '--check')).exit, 10)

  await push(world, app('B'))
  await push(world, app('C', { diesAfterMs: 300 }))
  await webhook.until('auto-rollback')
  assert.equal(await world.get(), 'B')
  const [entry] = await deploysOf(world)
  assert.match(entry?.receipt?.reason ?? '', /^web is in a crash loop: 3 exits within 60 s \(exit code 9\)$/)
  assert.equal((await statusOf(world)).state, 'degraded')
})

test('after probation a loop is stopped and told, and not rolled back; start gives it another chance', async (t) => {
  const { world, webhook } = await watched(t, 'exits = 3\nprobation = "0s"')
  world.write({ 'tarmac.toml': slowly(world) })
  await push(world, app('A'))
  const poison = join(world.dir, 'poison')
  await push(world, app('B', { poison }))
  writeFileSync(poison, '')
  const { text } = await webhook.until('crash-loop')
  assert.match(text, /its probation is over/)
  await until('the stop', async () => (await statusOf(world)).state === 'crash-looping')
  assert.equal(await world.get(), undefined)
  await untilGaveUp(world)
  assert.deepEqual(await changesOf(world), ['gave-up failed', 'push done', 'push done'])

  rmSync(poison)
  assert.equal((await world.tarmac('start')).exit, 0)
  await sleep(QUIET_MS)
  assert.deepEqual([(await statusOf(world)).state, await world.get()], ['running', 'B'])
  assert.equal((await world.tarmac('status', '--check')).exit, 0, 'a person has acted: it is green again')

  webhook.told.length = 0
  writeFileSync(poison, '')
  await webhook.until('crash-loop')
  await until('its own entry', async () => (await changesOf(world))[0] === 'gave-up failed')
  assert.deepEqual(await changesOf(world), ['gave-up failed', 'start done', 'gave-up failed', 'push done', 'push done'])
})

test('a person who pushes while the agent goes back is told that it is busy with that', async (t) => {
  const { world, webhook } = await watched(t)
  await push(world, app('A', { warmMs: 1500 }))
  await push(world, app('B', { diesAfterMs: 400 }))
  await webhook.until('crash-loop')
  const { exit, stderr } = await world.tarmac('push', '--force')
  assert.equal(exit, 5)
  assert.match(stderr, /change shop: tarmac has been busy with an auto-rollback since /)
  await webhook.until('auto-rollback')
  assert.deepEqual(await changesOf(world), ['auto-rollback done', 'push done', 'push done'])
})

test('an agent that is killed while it goes back starts over, and does not take it for what was wanted', async (t) => {
  const { world, webhook } = await watched(t)
  await push(world, app('A', { warmMs: 1500 }))
  await push(world, app('B', { diesAfterMs: 400 }))
  const { wanted } = await statusOf(world)
  await until('the change', async () => /"auto-rollback".*"change begins"/.test(world.agentLog()))
  await world.stopAgent('SIGKILL')
  await world.startAgent()
  await webhook.until('auto-rollback')
  assert.equal(await world.get(), 'A')
  assert.deepEqual(await changesOf(world), [
    'auto-rollback done',
    'auto-rollback interrupted',
    'push done',
    'push done',
  ])
  const status = await statusOf(world)
  assert.deepEqual([status.wanted, status.state], [wanted, 'degraded'])
})

/** Respawn limits that no test reaches. */
function slowly(world: World): string {
  return `app = "shop"
[services.web]
command = "node server.js"
port = ${world.port}
[services.web.health]
path = "/"
interval = "100ms"
timeout = "20s"
[restart]
attempts = 1000
within = "20s"
delay = "100ms"
[environments.test]
hosts = ["${world.url}"]
`
}
