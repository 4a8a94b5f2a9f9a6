import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { isPaused } from '../helpers/fault-changes.ts'
import { brokenInvariants } from '../helpers/invariants.ts'
import { makeWorld, projectText, restarting, type World } from '../helpers/world.ts'

// Failures other than a broken release: each leaves what DESIGN.md's exit code says, and a way on.

const appOf = async (world: World) => JSON.parse((await world.tarmac('status', '--json')).stdout).hosts[0].apps[0]

test('a push that cannot prepare its switch exits 6: the old release never noticed', async (t) => {
  const world = await makeWorld(t)
  await world.tarmac('push')
  const before = await appOf(world)
  const inTheWay = join(world.root, 'apps/shop/env/web@b.env')
  mkdirSync(inTheWay)
  world.version('2')
  const { exit, stdout, stderr } = await world.tarmac('push')
  assert.equal(exit, 6, stderr)
  assert.match(stdout, new RegExp(`failed: ${before.running} serves on; nothing was changed`))
  assert.ok(stderr.includes(inTheWay), 'it says what is in the way')
  const after = await appOf(world)
  assert.deepEqual([await world.get(), after.services[0].pid], ['1', before.services[0].pid])
  assert.equal((await world.tarmac('status', '--check')).exit, 0)
  assert.deepEqual(readdirSync(join(world.root, 'apps/shop/staging')), [])
  rmSync(inTheWay, { recursive: true })
  assert.deepEqual([(await world.tarmac('push', '--force')).exit, await world.get()], [0, '2'])
})

test('a rollback that cannot prepare its switch says nothing of its release, and goes there once it can', async (t) => {
  const world = await makeWorld(t)
  await world.tarmac('push')
  world.version('2')
  await world.tarmac('push')
  const inTheWay = join(world.root, 'apps/shop/env/web@a.env')
  rmSync(inTheWay)
  mkdirSync(inTheWay)
  const { exit, stderr } = await world.tarmac('rollback')
  assert.equal(exit, 6, stderr)
  assert.equal(await world.get(), '2')
  rmSync(inTheWay, { recursive: true })
  const again = await world.tarmac('rollback')
  assert.deepEqual([again.exit, await world.get()], [0, '1'], again.stderr)
})

test('a push that fails before it has become a release leaves none in the ledger', async (t) => {
  const world = await makeWorld(t, { faults: true })
  await world.tarmac('push')
  world.version('2')
  world.fault('step.stored 1 pause')
  const push = world.tarmacBegin('push')
  while (!world.isFaultHit()) await sleep(5)
  const staging = join(world.root, 'apps/shop/staging')
  rmSync(staging, { recursive: true })
  writeFileSync(staging, 'in the way')
  const { pid } = JSON.parse(readFileSync(join(world.root, 'embedded/agent.json'), 'utf8'))
  await isPaused(pid)
  process.kill(pid, 'SIGCONT')
  assert.notEqual((await push.ended).exit, 0)
  rmSync(staging)
  mkdirSync(staging)
  assert.deepEqual(await brokenInvariants(world, { cut: true }), [])
  assert.deepEqual([(await world.tarmac('push')).exit, await world.get()], [0, '2'])
})

test('a push that cannot be written down leaves none of the files that came for it', async (t) => {
  const world = await makeWorld(t)
  await world.tarmac('push')
  world.version('2')
  const db = new DatabaseSync(join(world.root, 'ledger.db'))
  t.after(() => db.close())
  for (const table of ['deploys', 'releases']) {
    db.exec(`CREATE TRIGGER refused BEFORE INSERT ON ${table} BEGIN SELECT RAISE(ABORT, 'no room'); END`)
    assert.notEqual((await world.tarmac('push')).exit, 0)
    db.exec('DROP TRIGGER refused')
    assert.deepEqual(await brokenInvariants(world), [], table)
  }
  assert.deepEqual([(await world.tarmac('push')).exit, await world.get()], [0, '2'])
})

test('when the release before cannot come back either the exit is 8, it is said, and a fix is one push away', async (t) => {
  const world = await makeWorld(t)
  // Each release looks at what the one before it left: a migration that cannot be undone.
  const server = (version: string, poisons: boolean) => `const fs = require('node:fs')
if (${poisons}) { fs.writeFileSync('data/migrated', ''); process.exit(5) }
if (fs.existsSync('data/migrated') && ${version} < 3) { console.error('version ${version} cannot read this'); process.exit(6) }
require('node:http').createServer((q, r) => r.end('${version}')).listen(process.env.PORT)\n`
  const toml = `shared = ["data"]\n${restarting(projectText(world.port, world.url))}`
  world.write({ 'tarmac.toml': toml, 'server.js': server('1', false) })
  await world.tarmac('push')
  world.write({ 'server.js': server('2', true) })
  const { exit, stdout, stderr } = await world.tarmac('push', '--json')
  assert.equal(exit, 8, stderr)
  const failed = JSON.parse(stdout.trim().split('\n').at(-2) ?? '')
  assert.equal(failed.code, 'deploy_down')
  assert.deepEqual([failed.receipt.exit.code, failed.receipt.running], [5, null])
  assert.match(failed.receipt.undone[0], /going back to \S+ failed too: .*gave up after 3 starts/)
  const down = await appOf(world)
  assert.deepEqual([down.running, down.services[0].state, down.services[0].lastExit.code], [null, 'crash-looping', 6])
  assert.equal((await world.tarmac('status', '--check')).exit, 10)
  const restarted = await world.tarmac('restart')
  assert.equal(restarted.exit, 8)
  assert.match(restarted.stderr, /version 1 cannot read this/)

  world.write({ 'server.js': server('3', false) })
  assert.deepEqual([(await world.tarmac('push')).exit, await world.get()], [0, '3'])
  const back = await world.tarmac('rollback')
  assert.equal(back.exit, 7, 'the old one is still unable, and that is found out without losing the new one')
  assert.equal(await world.get(), '3')
})

/** Where the record of the unit in a slot would be written anew. */
const recordOf = (world: World, slot: string) => join(world.root, `embedded/units/shop/.web@${slot}.json.tmp`)

/** A push that finds something in its way from this place on. */
async function pushAgainst(world: World, { place, inTheWay }: { place: string; inTheWay: string }, ...argv: string[]) {
  world.fault(`${place} 1 pause`)
  const push = world.tarmacBegin('push', '--json', ...argv)
  while (!world.isFaultHit()) await sleep(5)
  const { pid } = JSON.parse(readFileSync(join(world.root, 'embedded/agent.json'), 'utf8'))
  await isPaused(pid)
  mkdirSync(inTheWay)
  process.kill(pid, 'SIGCONT')
  const ran = await push.ended
  rmSync(inTheWay, { recursive: true })
  return ran
}

test('what failed and cannot be disabled is no reason not to go back: the old one serves, and the change says so', async (t) => {
  const world = await makeWorld(t, { faults: true })
  world.write({ 'tarmac.toml': restarting(projectText(world.port, world.url)) })
  await world.tarmac('push')
  world.version('2')
  const at = { place: 'step.unhealthy', inTheWay: recordOf(world, 'b') }
  const { exit, stdout, stderr } = await pushAgainst(world, at, '--max-gap', '0')
  assert.equal(exit, 7, stderr)
  assert.match(stdout, /"step":"warning","[^\n]*disable what failed: /)
  assert.equal(await world.get(), '1')
  assert.deepEqual([(await world.tarmac('push')).exit, await world.get()], [0, '2'])
  assert.deepEqual(await brokenInvariants(world), [])
})

test('a release that was made current and cannot be enabled is left whole: the one before is current, or nothing is', async (t) => {
  const world = await makeWorld(t, { faults: true })
  const first = await pushAgainst(world, { place: 'env.bound', inTheWay: recordOf(world, 'a') })
  assert.equal(first.exit, 8, first.stderr)
  assert.deepEqual(await brokenInvariants(world), [])
  await world.tarmac('push')
  const [serving] = readdirSync(join(world.root, 'embedded/units/shop')).filter((name) => recordIsEnabled(world, name))
  world.version('2')
  const inTheWay = recordOf(world, serving === 'web@a.json' ? 'b' : 'a')
  const second = await pushAgainst(world, { place: 'env.bound', inTheWay })
  assert.equal(second.exit, 7, second.stderr)
  assert.deepEqual(await brokenInvariants(world), [])
  assert.deepEqual([(await world.tarmac('push')).exit, await world.get()], [0, '2'])
})

function recordIsEnabled(world: World, name: string): boolean {
  return JSON.parse(readFileSync(join(world.root, 'embedded/units/shop', name), 'utf8')).enabled
}

test('on a disk without a free byte what runs goes on and comes back, a push is refused, and room heals it', async (t) => {
  const world = await makeWorld(t, { started: false })
  const copy = join(world.dir, 'copy')
  cpSync(world.root, copy, { recursive: true })
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=24m,mode=755', 'tmpfs', world.root])
  if (mounted.status !== 0) return t.skip('only root may mount a small disk')
  try {
    cpSync(copy, world.root, { recursive: true })
    await world.startAgent()
    await world.tarmac('push')
    world.version('2')
    await world.tarmac('push')
    const { pid } = (await appOf(world)).services[0]
    const fill = join(world.root, 'fill')
    assert.throws(() => writeFileSync(fill, Buffer.alloc(64 * 1024 * 1024)), /ENOSPC/)
    world.version('3')
    const { exit, stdout } = await world.tarmac('push', '--json')
    assert.equal(exit, 3)
    assert.match(stdout, /"disk_full"/)
    assert.deepEqual([await world.get(), (await appOf(world)).services[0].pid], ['2', pid])
    process.kill(pid, 'SIGKILL')
    for (let tries = 0; tries < 100 && (await appOf(world)).services[0].pid === pid; tries++) await sleep(100)
    for (let tries = 0; tries < 100 && (await world.get()) !== '2'; tries++) await sleep(50)
    assert.equal(await world.get(), '2', 'an exit that cannot be noted is no reason not to respawn')
    assert.match((await world.tarmac('status')).stderr, /disk critical: bytes, .*: 0 B/)
    rmSync(fill)
    assert.deepEqual([(await world.tarmac('push')).exit, await world.get()], [0, '3'])
  } finally {
    await world.stopAgent()
    execFileSync('umount', [world.root])
  }
})
