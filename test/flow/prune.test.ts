import assert from 'node:assert/strict'
import {
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statfsSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { DeployEntry, PruneAnswer, StepLine } from '../../shared/wire.ts'
import { brokenInvariants } from '../helpers/invariants.ts'
import { makeWorld, projectText, type World } from '../helpers/world.ts'

/** Four good ones and two failed ones stay while the disk has room. */
function projectOf(world: World): string {
  const quick = projectText(world.port, world.url).replace('attempts = 3', 'attempts = 1')
  return quick.replace('[environments', '[keep]\nreleases = 4\nfailed = 2\n[environments')
}

async function push(world: World, version: string, options?: { broken: number }): Promise<string> {
  world.version(version, options)
  const { exit, stdout, stderr } = await world.tarmac('push', '--json')
  assert.equal(exit, options ? 6 : 0, stderr)
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '').hosts[0].release
}

async function explained(world: World): Promise<PruneAnswer> {
  const { exit, stdout, stderr } = await world.tarmac('prune', '--explain', '--json')
  assert.equal(exit, 0, stderr)
  return JSON.parse(stdout).hosts[0]
}

/** Free space is so many times the reserve. */
async function restartWithRoom(world: World, times: number): Promise<void> {
  await world.stopAgent()
  const { bavail, bsize } = statfsSync(world.root)
  const file = join(world.root, 'etc/agent.toml')
  const text = readFileSync(file, 'utf8').replace(/\[disk\]\n.*\n/, '')
  writeFileSync(file, `${text}[disk]\nreserve_bytes = ${Math.floor((bavail * bsize) / times)}\n`)
  await world.startAgent()
}

const releasesOn = (world: World) => readdirSync(join(world.root, 'apps/shop/releases')).sort()

test('prune --explain says what goes, what stays and why, and changes nothing; prune does it, says how much was freed, and writes it down', async (t) => {
  const world = await makeWorld(t)
  world.write({ 'tarmac.toml': projectOf(world), 'lib/same.txt': 'in every release' })
  const first = await push(world, '1')
  world.write({ 'big.bin': 'x'.repeat(300_000) })
  const second = await push(world, '2')
  rmSync(join(world.project, 'big.bin'))
  const third = await push(world, '3')
  const bad = await push(world, '4', { broken: 1 })
  const fourth = await push(world, '5')
  assert.deepEqual(
    (await explained(world)).releases.map(({ id, keep, why }) => [id, keep, why]),
    [
      [fourth, true, 'current'],
      [bad, true, 'never healthy, 1 of the 2 kept'],
      [third, true, 'previous good: rollback goes here'],
      [second, true, 'once healthy, 3 of the 4 kept'],
      [first, true, 'once healthy, 4 of the 4 kept'],
    ],
  )
  const nothing = await world.tarmac('prune')
  assert.deepEqual([nothing.exit, nothing.stdout], [0, `127.0.0.1  shop: nothing to remove\n`])

  await restartWithRoom(world, 2)
  const before = releasesOn(world)
  const low = await explained(world)
  assert.equal(low.pressure, 'low')
  assert.deepEqual(
    low.releases.filter(({ keep }) => !keep).map(({ id, why }) => [id, why]),
    [
      [bad, 'never healthy, beyond the 0 kept, while the disk is low'],
      [first, 'once healthy, beyond the 3 kept, while the disk is low'],
    ],
  )
  const shown = await world.tarmac('prune', '--explain')
  assert.match(shown.stdout, new RegExp(`${first} +remove +once healthy, beyond the 3 kept`))
  assert.match(shown.stdout, /tarmac prune would remove 2 of 5 releases, and free \d+ B \(the disk is low\)/)
  assert.deepEqual(releasesOn(world), before, 'it only explained')

  const done = await world.tarmac('prune', '--json')
  assert.equal(done.exit, 0, done.stderr)
  const lines = done.stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  const steps = lines.filter(({ step }) => step === 'pruned') as StepLine[]
  assert.deepEqual(steps.map(({ release }) => release).sort(), [bad, first].sort())
  const promised = low.releases.reduce((sum, { freesBytes }) => sum + freesBytes, 0)
  assert.ok(promised > 0)
  assert.deepEqual(lines.at(-1).pruned, [{ name: '127.0.0.1', releases: 2, freedBytes: promised }])
  assert.deepEqual(releasesOn(world), [second, third, fourth].sort())
  assert.deepEqual(readdirSync(join(world.root, 'apps/shop/staging')), [])
  const [entry] = JSON.parse((await world.tarmac('deploys', '--json')).stdout).hosts[0].deploys as DeployEntry[]
  assert.deepEqual([entry?.kind, entry?.who, entry?.result, entry?.to], ['prune', 'ann', 'done', null])
  assert.equal(await world.get(), '5')

  await restartWithRoom(world, 0.5)
  const held = await world.tarmac('releases', '--hold', second)
  assert.match(held.stdout, new RegExp(`${second} .*held by ann`), held.stderr)
  assert.equal((await world.tarmac('prune')).stdout, '127.0.0.1  shop: nothing to remove\n')
  assert.equal((await world.tarmac('releases', '--hold', first)).exit, 2, 'it is not there any more')
  assert.equal((await world.tarmac('releases', '--unhold', second)).exit, 0)
  const critical = await explained(world)
  const gone = critical.releases.filter(({ keep }) => !keep)
  assert.deepEqual([critical.pressure, gone.map(({ id }) => id)], ['critical', [second]])
  assert.ok((gone[0]?.freesBytes ?? 0) >= 300_000, 'what only it had')
  assert.match((await world.tarmac('prune')).stdout, /shop: 1 release removed, 300 kB freed/)
  assert.deepEqual([(await world.tarmac('rollback')).exit, await world.get()], [0, '3'], 'there is a way back still')
})

test('a release that is pruned leaves no unit that names it', async (t) => {
  const world = await makeWorld(t)
  world.write({ 'tarmac.toml': projectOf(world) })
  await push(world, '1')
  await push(world, '2', { broken: 1 })
  await restartWithRoom(world, 0.5)
  assert.equal((await world.tarmac('prune')).exit, 0)
  assert.equal(releasesOn(world).length, 1)
  assert.deepEqual(await brokenInvariants(world), [])
})

test('a prune that was cut off between the renames and the deleting goes on to its end when the agent starts', async (t) => {
  const world = await makeWorld(t, { faults: true })
  world.write({ 'tarmac.toml': projectOf(world) })
  for (const version of ['1', '2', '3', '4']) await push(world, version)
  await restartWithRoom(world, 0.5)
  const doomed = (await explained(world)).releases.filter(({ keep }) => !keep)
  assert.equal(doomed.length, 2)
  world.fault('disk.renamed 1 kill')
  const cut = world.tarmacBegin('prune')
  await world.agentEnded()
  await world.startAgent()
  assert.deepEqual((await cut.ended).exit, 0, 'the client hears how it ended')
  assert.deepEqual(releasesOn(world).length, 2)
  assert.deepEqual(readdirSync(join(world.root, 'apps/shop/staging')), [])
  const [entry] = JSON.parse((await world.tarmac('deploys', '--json')).stdout).hosts[0].deploys as DeployEntry[]
  assert.deepEqual([entry?.kind, entry?.result], ['prune', 'done'])
  assert.equal(await world.get(), '4')
})

test('peers 3, https://github.com/deployphp/deployer/issues/3111, and 5, https://github.com/deployphp/deployer/issues/558: what is no release of ours is told and stays, and a current that was made by hand is current', async (t) => {
  const world = await makeWorld(t)
  world.write({ 'tarmac.toml': projectOf(world) })
  const [first, second, third] = [await push(world, '1'), await push(world, '2'), await push(world, '3')]
  const releases = join(world.root, 'apps/shop/releases')
  const current = join(world.root, 'apps/shop/current')
  const strays = ['20200101T000000Z-00000000', `${first}.bak`, 'release', 'runtime']
  for (const name of strays.slice(0, 2)) mkdirSync(join(releases, name, 'tree'), { recursive: true })
  symlinkSync(second, join(releases, 'release'))
  writeFileSync(join(releases, 'runtime'), 'a file')
  await restartWithRoom(world, 0.5)
  // The oldest by name and time: only what it is says that it serves.
  rmSync(current)
  symlinkSync(join(releases, 'release'), current)
  utimesSync(join(releases, third), 0, 0)
  const plan = await explained(world)
  assert.deepEqual(
    plan.strays.sort(),
    strays.filter((name) => !plan.releases.some(({ id }) => id === name)),
  )
  assert.equal(plan.releases.find(({ id }) => id === second)?.why, 'current')
  assert.equal((await world.tarmac('prune')).exit, 0)
  for (const name of strays.slice(1)) assert.ok(lstatSync(join(releases, name)), name)
  assert.ok(releasesOn(world).includes(second))

  rmSync(current)
  symlinkSync('releases/nowhere', current)
  const left = releasesOn(world)
  const refused = await world.tarmac('prune')
  assert.equal(refused.exit, 6)
  assert.match(refused.stderr, /leads to no release that is known here: nothing is removed/)
  assert.deepEqual(releasesOn(world), left)
  assert.equal(readlinkSync(current), 'releases/nowhere')
})

test('what only a pruned release had goes also where a spare tree of it is half made or half removed', async (t) => {
  const world = await makeWorld(t)
  world.write({ 'tarmac.toml': projectOf(world), 'only.txt': 'in the first release alone' })
  const first = await push(world, '1')
  rmSync(join(world.project, 'only.txt'))
  for (const version of ['2', '3', '4']) await push(world, version)
  const app = join(world.root, 'apps/shop')
  const only = join(app, 'releases', first, 'tree/only.txt')
  const { ino } = lstatSync(only)
  // What clears up behind the last push is over by then.
  await sleep(2_000)
  for (const name of [`${first}.spare.part`, `${first}.spare.spoilt-1`]) {
    mkdirSync(join(app, 'staging', name, 'tree'), { recursive: true })
    linkSync(only, join(app, 'staging', name, 'tree/only.txt'))
  }
  await push(world, '5')
  const objects = readdirSync(join(app, 'objects'), { recursive: true, withFileTypes: true })
  const left = objects.filter((entry) => entry.isFile() && lstatSync(join(entry.parentPath, entry.name)).ino === ino)
  assert.deepEqual(left, [])
  assert.deepEqual(await brokenInvariants(world), [])
})

test('of a pruned release the contents go that no other has, wherever they lay, and all others stay', async (t) => {
  const world = await makeWorld(t)
  const write = (files: Record<string, string>) => world.write({ 'tarmac.toml': projectOf(world), ...files })
  const objects = () =>
    readdirSync(join(world.root, 'apps/shop/objects'), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => readFileSync(join(entry.parentPath, entry.name), 'utf8'))
  // Each has the same paths, so that they are compared as text.
  write({ 'a.txt': 'first of a', 'b.txt': 'moves', 'c.txt': 'stays', 'd.txt': 'only of the first' })
  await push(world, '1')
  write({ 'a.txt': 'second of a', 'b.txt': 'second of b', 'c.txt': 'stays', 'd.txt': 'moves' })
  await push(world, '2')
  for (const version of ['3', '4', '5']) await push(world, version)
  const left = objects()
  for (const gone of ['first of a', 'only of the first']) assert.ok(!left.includes(gone), gone)
  for (const kept of ['moves', 'stays', 'second of a', 'second of b']) assert.ok(left.includes(kept), kept)
  assert.deepEqual(await brokenInvariants(world), [])
})

test('a small push that may not fit is asked about first, and refused before a byte is sent', async (t) => {
  const world = await makeWorld(t)
  await push(world, '1')
  await restartWithRoom(world, 0.5)
  world.version('2')
  const { exit, stdout } = await world.tarmac('push', '--json')
  const { bytesSent, hosts } = JSON.parse(stdout.trim().split('\n').at(-1) ?? '')
  assert.deepEqual([exit, bytesSent, hosts[0].code], [3, 0, 'disk_full'])
  assert.equal(await world.get(), '1')
})
