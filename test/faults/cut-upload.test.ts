import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { globSync, lstatSync, rmSync } from 'node:fs'
import { basename, join, relative } from 'node:path'
import { type TestContext, test } from 'node:test'
import { until } from '../helpers/inherit.ts'
import { type SmallDisk, smallDisk } from '../helpers/small-disk.ts'
import { makeWorld, type World } from '../helpers/world.ts'

const FILES = Array.from({ length: 8 }, (_, index) => `part-${index}.txt`)
const PLACED = 6
/** Less than a mebibyte is sent with no question what is there. */
const PART_BYTES = 256 * 1024
const HOUR_MS = 3_600_000

test('what a cut upload has brought is not sent again, whatever is pushed and pruned in between', async (t) => {
  const world = await makeWorld(t, { faults: true })
  await push(world)
  await cutUpload(world)
  takeAwayParts(world)
  world.version('2')
  await push(world)
  assert.equal((await world.tarmac('prune')).exit, 0)
  assert.equal(orphansOf(world).length, PLACED)

  writeParts(world)
  const { objectsSent, objectsReused } = await push(world)
  assert.equal(objectsSent, FILES.length - PLACED)
  assert.ok(objectsReused >= PLACED)
  assert.deepEqual(orphansOf(world), [])
})

test('what a cut upload has brought is removed by the first prune after a day, and not before', {
  skip: process.getuid?.() !== 0 && 'only root may mount a small disk',
}, async (t) => {
  const disk = smallDisk(t, { mebibytes: 40 })
  if (disk.kind !== 'ext4') return t.skip('the time of a change can be set on ext4 alone, and there is no loop device')
  const world = await makeWorld(t, { faults: true, root: disk.dir })
  await cutUpload(world)
  const [young = '', old = '', ahead = '', ...others] = orphansOf(world)
  assert.equal(others.length, PLACED - 3)
  await age(t, { world, disk }, { [young]: -23, [old]: -25, [ahead]: 25 })
  assert.equal((await world.tarmac('prune')).exit, 0)
  assert.deepEqual(orphansOf(world), [young, ...others].sort())

  const [aged = '', ...rest] = others
  await age(t, { world, disk }, { [aged]: -25 })
  takeAwayParts(world)
  await push(world)
  await until('soon after a push it goes too', () => !orphansOf(world).includes(aged) || undefined)
  assert.deepEqual(orphansOf(world), [young, ...rest].sort())
})

async function push(world: World): Promise<{ objectsSent: number; objectsReused: number }> {
  const { exit, stdout, stderr } = await world.tarmac('push', '--json')
  assert.equal(exit, 0, stderr)
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '')
}

function writeParts(world: World): void {
  world.write(Object.fromEntries(FILES.map((name) => [name, name.padEnd(PART_BYTES)])))
}

function takeAwayParts(world: World): void {
  for (const name of FILES) rmSync(join(world.project, name))
}

/** Nobody asks how it ended, and nothing but objects has come of it. */
async function cutUpload(world: World): Promise<void> {
  writeParts(world)
  world.fault(`disk.placed ${PLACED} kill`)
  assert.equal((await world.tarmac('push')).exit, 4)
  await world.agentEnded()
  await world.startAgent()
  assert.equal(orphansOf(world).length, PLACED)
}

/** Objects that no release has, by their paths in the store, in order. */
function orphansOf(world: World): string[] {
  const objects = join(world.root, 'apps/shop/objects')
  const orphans = globSync(`${objects}/??/*`).filter((path) => lstatSync(path).nlink === 1)
  return orphans.map((path) => relative(objects, path)).sort()
}

/** Sets when they came, in hours from now: no call can, and so it is done to the disk. */
async function age(
  t: TestContext,
  at: { world: World; disk: SmallDisk },
  hours: Record<string, number>,
): Promise<void> {
  const { world, disk } = at
  await world.stopAgent()
  disk.offline((image) => {
    for (const [object, by] of Object.entries(hours)) {
      const seconds = Math.round((Date.now() + by * HOUR_MS) / 1000)
      const ask = `set_inode_field /apps/shop/objects/${object} ctime @${seconds}`
      execFileSync('debugfs', ['-w', '-R', ask, image], { stdio: 'ignore' })
    }
  })
  for (const [object, by] of Object.entries(hours)) {
    const { ctimeMs } = lstatSync(join(disk.dir, 'apps/shop/objects', object))
    t.diagnostic(`${basename(object).slice(0, 8)} came ${((ctimeMs - Date.now()) / HOUR_MS).toFixed(1)} h from now`)
    assert.ok(Math.abs(ctimeMs - Date.now() - by * HOUR_MS) < HOUR_MS / 2)
  }
  await world.startAgent()
}
