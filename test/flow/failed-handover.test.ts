import assert from 'node:assert/strict'
import { test } from 'node:test'
import { makeWorld, projectText, restarting, type World } from '../helpers/world.ts'

// Pushes that fail where ports are handed over: what the receipt says of the old release is what is there.

const withSlots = (world: World) => projectText(world.port, world.url)

test('a first push with switch = "slots" that fails gives the port back to the release that opens its own', async (t) => {
  const world = await makeWorld(t)
  world.write({ 'tarmac.toml': restarting(withSlots(world)), 'run.sh': 'exec node server.js\n' })
  await world.tarmac('push')
  const before = await world.get()
  for (const command of ['node server.js', 'sh run.sh']) {
    world.version('2', { broken: 3 })
    world.write({ 'tarmac.toml': withSlots(world).replace('node server.js', command) })
    const { exit, stderr } = await world.tarmac('push')
    assert.equal(exit, 7, stderr)
    assert.equal(await world.get(), before)
    assert.equal(stderr.includes('LISTEN_FDS'), command.startsWith('sh'), 'whoever must speak it is told so')
  }
  world.version('3')
  world.write({ 'tarmac.toml': withSlots(world) })
  assert.deepEqual([(await world.tarmac('push')).exit, await world.get()], [0, '3'])
})

test('a failed push says that the old release serves on only when it runs; else it is started again', async (t) => {
  const world = await makeWorld(t)
  world.write({ 'tarmac.toml': withSlots(world) })
  assert.equal((await world.tarmac('push')).exit, 0)
  const before = await world.get()
  world.version('2', { broken: 3 })
  assert.deepEqual([(await world.tarmac('push')).exit, await world.get()], [6, before])
  assert.equal((await world.tarmac('stop')).exit, 0)
  const { exit, stderr, stdout } = await world.tarmac('push', '--force')
  assert.equal(exit, 7, stderr)
  assert.match(stdout, /serves again/)
  assert.equal(await world.get(), before)
})
