import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { brokenInvariants } from '../helpers/invariants.ts'
import { makeWorld, type World } from '../helpers/world.ts'

async function until(what: string, ask: () => boolean | Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 800; tries++) {
    if (await ask()) return
    await sleep(25)
  }
  assert.fail(`${what} did not come`)
}

/** Types a command, and lets the agent die at a place of it. */
async function cutOff(world: World, fault: string, ...argv: string[]) {
  world.fault(`${fault} kill`)
  const client = world.tarmacBegin(...argv)
  await world.agentEnded()
  return client
}

test('while an app is recovered the agent answers, and says why the app is busy', async (t) => {
  const world = await makeWorld(t, { faults: true })
  const warmMs = 3000
  world.write({
    'server.js': `const warm = Date.now() + ${warmMs}
require('node:http').createServer((q, r) => {
  r.statusCode = Date.now() < warm ? 503 : 200
  r.end("1")
}).listen(process.env.PORT) // version 1\n`,
  })
  assert.equal((await world.tarmac('push')).exit, 0)
  const client = await cutOff(world, 'init.start 1', 'restart')
  const recovered = world.startAgent()
  await until('the agent', () => world.agentLog().includes('"listening"'))
  const status = await world.tarmac('status')
  assert.equal(status.exit, 0, status.stderr)
  const refused = await world.tarmac('stop')
  assert.equal(refused.exit, 5)
  assert.match(refused.stderr, /change shop: tarmac has been busy with a recovery since .* \((warning|started)\)/)
  assert.ok(!world.agentLog().includes('"recovered"'), 'it was asked in the middle of it')
  await recovered
  assert.equal((await client.ended).exit, 0, 'what was asked for is done, and who asked is told')
  assert.deepEqual(await brokenInvariants(world), [])
})

test('without a ledger an agent that was killed in a switch still leaves nothing of it', async (t) => {
  const world = await makeWorld(t, { faults: true })
  assert.equal((await world.tarmac('push')).exit, 0)
  world.version('2')
  // Both slots are enabled, and `current` is the new one: a boot starts both.
  const client = await cutOff(world, 'init.enable 1', 'push')
  client.kill('SIGKILL')
  for (const name of ['ledger.db', 'ledger.db-wal', 'ledger.db-shm', 'ledger.head']) {
    rmSync(join(world.root, name), { force: true })
  }
  await world.startAgent()
  assert.match(world.agentLog(), /there are units that its current release does not need/)
  assert.deepEqual(await brokenInvariants(world, { rebuilt: true }), [])
  assert.equal(await world.get(), '2')
})

test('a client whose agent dies before the change begins says that it knows nothing, at once', async (t) => {
  const world = await makeWorld(t, { faults: true })
  const client = await cutOff(world, 'upload.begun 1', 'push')
  const { exit, stderr } = await client.ended
  assert.equal(exit, 4, stderr)
  assert.match(stderr, /see how it ended: tarmac deploys/)
})

test('what was stopped and is restarted is started by a boot too', async (t) => {
  const world = await makeWorld(t)
  for (const command of ['push', 'stop', 'restart']) assert.equal((await world.tarmac(command)).exit, 0, command)
  await world.stopAgent('SIGKILL')
  await world.startAgent()
  assert.deepEqual(await brokenInvariants(world), [])
})
