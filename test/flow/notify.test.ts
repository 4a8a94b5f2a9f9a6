import assert from 'node:assert/strict'
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { createLog } from '../../agent/log.ts'
import { newsOfDisk } from '../../agent/watch/news.ts'
import { bodyOf, createNotifier } from '../../agent/watch/notify.ts'
import type { DiskState } from '../../shared/wire.ts'
import { startWebhook } from '../helpers/webhook.ts'
import { freePort, makeWorld, type World } from '../helpers/world.ts'

async function worldWith(t: TestContext, toml: string): Promise<World> {
  const world = await makeWorld(t, { started: false })
  appendFileSync(join(world.root, 'etc/agent.toml'), `\n${toml}\n`)
  return world
}

test('a failed push is told with who, what and why; the output of the app and the address stay here', async (t) => {
  const webhook = await startWebhook(t, [500, 503])
  const world = await worldWith(t, `[notify]\nwebhook = "${webhook.url}"`)
  await world.startAgent()
  assert.equal((await world.tarmac('push')).exit, 0)
  world.write({ 'server.js': "console.error('password=hunter2'); process.exit(4)\n" })
  assert.equal((await world.tarmac('push')).exit, 6)
  const told = await webhook.until('push-failed')
  const { deploys } = JSON.parse((await world.tarmac('deploys', '--json')).stdout).hosts[0]
  const [{ to, from, id }] = deploys
  assert.deepEqual(
    { ...told, text: '', at: '', reason: '' },
    {
      text: '',
      at: '',
      reason: '',
      event: 'push-failed',
      host: hostname(),
      app: 'shop',
      release: to,
      deploy: id,
      who: 'ann',
      code: 'deploy_failed',
      running: from,
    },
  )
  assert.match(told.at, /^\d{4}-\d\d-\d\dT[\d:.]+Z$/)
  assert.ok(told.text.startsWith(`${hostname()}: shop: push of ${to} by ann failed: web `), told.text)
  assert.ok(told.text.endsWith(`${from} serves.`), told.text)
  assert.match(deploys[0].receipt.output.join(), /hunter2/, 'it is there for those who may see it')
  assert.doesNotMatch(JSON.stringify(told), /hunter2/)
  assert.equal(webhook.asked(), 3, 'two refusals, and then it was taken')
  assert.equal(webhook.told.length, 1, 'a push that went well is no news')
  assert.doesNotMatch(world.agentLog(), /token-5f3a/)
})

test('a webhook that nobody answers at holds no push up', async (t) => {
  const world = await worldWith(t, `[notify]\nwebhook = "http://127.0.0.1:${await freePort()}/token-5f3a"`)
  await world.startAgent()
  world.version('1', { broken: 4 })
  assert.equal((await world.tarmac('push')).exit, 8)
  world.version('2')
  assert.equal((await world.tarmac('push')).exit, 0)
  const began = Date.now()
  await world.stopAgent()
  assert.ok(Date.now() - began < 10_000, 'nor the end of the agent')
  assert.doesNotMatch(world.agentLog(), /token-5f3a/)
})

test('an agent that starts on a full disk says so, once', async (t) => {
  const webhook = await startWebhook(t)
  const world = await worldWith(t, `[notify]\nwebhook = "${webhook.url}"\n[disk]\nreserve_bytes = ${2 ** 52}`)
  await world.startAgent()
  const { text } = await webhook.until('disk-critical')
  assert.match(text, /disk critical: \d+ bytes and \d+ inodes are free at /)
  await world.tarmac('push')
  await sleep(500)
  assert.equal(webhook.told.length, 1)
  await world.stopAgent()
  const config = join(world.root, 'etc/agent.toml')
  writeFileSync(config, readFileSync(config, 'utf8').replace(/reserve_bytes.*/, 'reserve_bytes = 0'))
  await world.startAgent()
  assert.equal((await world.tarmac('push')).exit, 0)
  await sleep(500)
  assert.equal(webhook.told.length, 1, 'all is well now')
})

test('a disk is told when it gets low and when it gets critical, and not on its way up', () => {
  const states: DiskState[] = ['ok', 'ok', 'low', 'low', 'critical', 'critical', 'low', 'ok', 'critical']
  const disk = {
    blockBytes: 4096,
    path: '/',
    totalBytes: 9,
    freeBytes: 1,
    totalInodes: 9,
    freeInodes: 1,
    reserveBytes: 1,
    reserveInodes: 1,
  }
  const told = states.flatMap((now, index) => newsOfDisk(states[index - 1] ?? 'ok', now, disk)?.event ?? [])
  assert.deepEqual(told, ['disk-low', 'disk-critical', 'disk-critical'])
})

test('an address in the clear, or with a password, is refused at the start and not repeated', async (t) => {
  for (const address of ['http://example.com/token-5f3a', 'https://ann:token-5f3a@example.com/', 'token-5f3a']) {
    const world = await worldWith(t, `[notify]\nwebhook = "${address}"`)
    const { exit, stderr } = await world.agentCommand('run', '--init', 'embedded')
    assert.equal(exit, 2)
    assert.match(stderr, /notify\.webhook/)
    assert.doesNotMatch(stderr, /token-5f3a/)
  }
  const world = await worldWith(t, '[watch]\nprobation = "10"')
  const { exit, stderr } = await world.agentCommand('run', '--init', 'embedded')
  assert.deepEqual([exit, /watch\.probation: "10" is no duration/.test(stderr)], [2, true], stderr)
})

test('what a webhook shows cannot call a whole channel, move a cursor, or be endless', () => {
  const at = new Date('2026-11-22T12:00:00Z')
  const body = (text: string) => JSON.parse(bodyOf({ event: 'x', text }, { host: 'h', at }))
  assert.deepEqual(body('<!channel> & \u001b[2J\n'), {
    text: 'h: &lt;!channel&gt; &amp; \\u{1b}[2J\\n',
    event: 'x',
    host: 'h',
    app: null,
    release: null,
    at: at.toISOString(),
  })
  assert.ok(body('x'.repeat(1e6)).text.length < 2_000)
})

test('a receiver that says no is not asked again, nor does a redirect lead elsewhere; news that piles up is bounded', async (t) => {
  const elsewhere = await startWebhook(t)
  const webhook = await startWebhook(t, [404, 302, 307], elsewhere.url)
  const log = createLog()
  log.level = 'silent'
  const notifier = createNotifier(new URL(webhook.url), log)
  for (let index = 0; index < 200; index++) notifier.tell({ event: `e${index}`, text: 'x' })
  await notifier.drained()
  assert.ok(webhook.asked() <= 51, `${webhook.asked()} requests`)
  assert.equal(webhook.told.length, webhook.asked() - 3)
  assert.equal(webhook.told.at(-1)?.event, 'e199', 'the newest is kept')
  assert.equal(elsewhere.asked(), 0)
})
