import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, globSync, mkdirSync, readdirSync, readFileSync, rmSync, statfsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { storeObjects } from '../../agent/deploy/admit.ts'
import { assemble } from '../../agent/deploy/assemble.ts'
import { roomNeeded, roomTaken } from '../../agent/deploy/room-needed.ts'
import { layoutAt } from '../../agent/state/layout.ts'
import { makeAppDirs } from '../../agent/state/objects.ts'
import { surveyStore } from '../../agent/state/store-survey.ts'
import { objectsOf } from '../../shared/contents.ts'
import { parseManifest } from '../../shared/manifest.ts'
import { parseAppName, sha256 } from '../../shared/names.ts'
import { manifestOf } from '../helpers/raw-release.ts'
import { type SmallDisk, smallDisk } from '../helpers/small-disk.ts'
import { makeWorld, type World } from '../helpers/world.ts'

// A disk of 300 MB that gets full, of bytes and of inodes: peers.md 11 to 15.

const MB = 1_000_000
/** Seconds where milliseconds are needed: a loaded machine is no failure. */
const PATIENCE_MS = 60_000

const APP = 'apps/shop'

async function appOf(world: World) {
  return JSON.parse((await world.tarmac('status', '--json')).stdout).hosts[0].apps[0]
}

async function diskOf(world: World) {
  return JSON.parse((await world.tarmac('status', '--json')).stdout).hosts[0].disk
}

/** All that pushes leave behind: contents, what is on its way, releases. */
function groundOf({ root }: World): string[] {
  return globSync(`${APP}/{objects/*/*,staging/*,releases/*}`, { cwd: root }).sort()
}

/** Stops the agent as soon as there is such a file below its root, lets another program write, and lets it go on. */
async function meanwhile(world: World, pattern: string, write: () => void): Promise<void> {
  const { pid } = JSON.parse(readFileSync(join(world.root, 'embedded/agent.json'), 'utf8')) as { pid: number }
  for (const deadline = Date.now() + PATIENCE_MS; globSync(pattern, { cwd: world.root }).length === 0; ) {
    assert.ok(Date.now() < deadline, `${pattern} did not come to be`)
    await sleep(1)
  }
  process.kill(pid, 'SIGSTOP')
  try {
    write()
  } finally {
    process.kill(pid, 'SIGCONT')
  }
}

/** A project of directories with the same small file in each: little to send, much to assemble. */
function manyDirs(world: World, count: number): void {
  rmSync(join(world.project, 'dirs'), { recursive: true, force: true })
  for (let n = 0; n < count; n++) {
    mkdirSync(join(world.project, `dirs/d${n}`), { recursive: true })
    writeFileSync(join(world.project, `dirs/d${n}/same`), 'same')
  }
}

/** A project of small files, no two of which are equal. */
function manyFiles(world: World, count: number): void {
  rmSync(join(world.project, 'files'), { recursive: true, force: true })
  mkdirSync(join(world.project, 'files'))
  for (let n = 0; n < count; n++)
    writeFileSync(join(world.project, `files/f${n}`), `${n} ${randomBytes(8).toString('hex')}`)
}

/** What was refused, or failed, before anything live had changed. */
async function assertUntouched(world: World, before: { ground: string[]; pid: number; answer: string }): Promise<void> {
  assert.deepEqual(groundOf(world), before.ground, 'nothing is left of it')
  const { services } = await appOf(world)
  assert.deepEqual([services[0].pid, services[0].state, await world.get()], [before.pid, 'running', before.answer])
}

async function serving(world: World) {
  const { services } = await appOf(world)
  return { ground: groundOf(world), pid: services[0].pid as number, answer: (await world.get()) ?? '' }
}

/** What leads out of a full disk: to see it, to go back, to remove what may go, and it is written down. */
async function assertWayOut(world: World): Promise<void> {
  const seen = await world.tarmac('status')
  assert.deepEqual([seen.exit, /disk critical/.test(seen.stderr)], [0, true], seen.stderr)
  const { running, previousGood } = await appOf(world)
  const back = await world.tarmac('rollback')
  assert.equal(back.exit, 0, back.stderr)
  assert.equal((await appOf(world)).running, previousGood)
  // The agent prunes too, on its own, once a change has ended on such a disk: whoever types it then is told so.
  let pruned = await world.tarmac('prune', '--yes')
  for (const deadline = Date.now() + PATIENCE_MS; pruned.exit === 5 && Date.now() < deadline; await sleep(50))
    pruned = await world.tarmac('prune', '--yes')
  assert.equal(pruned.exit, 0, pruned.stderr)
  const { deploys } = JSON.parse((await world.tarmac('deploys', '--json')).stdout).hosts[0]
  const told = deploys.map(({ kind, from, to, result }: Record<string, string>) => `${kind} ${from} ${to} ${result}`)
  assert.ok(told.includes(`rollback ${running} ${previousGood} done`), told.join('\n'))
  assert.match(told[0], /^prune .* done$/)
}

async function worldOn(t: TestContext, disk: SmallDisk): Promise<World> {
  if (disk.kind === 'tmpfs') t.diagnostic('there are no loop devices here: a tmpfs with limits takes their place')
  const world = await makeWorld(t, { root: disk.dir })
  for (const version of ['1', '2']) {
    world.version(version)
    assert.equal((await world.tarmac('push')).exit, 0)
  }
  return world
}

test('on a disk of 300 MB without room for all', { timeout: 5 * PATIENCE_MS }, async (t) => {
  const disk = smallDisk(t, { mebibytes: 300 })
  const world = await worldOn(t, disk)
  const before = await serving(world)

  await t.test('a push that cannot fit is refused before a byte is sent, with both numbers (peers.md 14)', async () => {
    writeFileSync(join(world.project, 'big.bin'), randomBytes(150 * MB))
    disk.fill(140 * MB)
    const { exit, stdout, stderr } = await world.tarmac('push', '--json')
    assert.equal(exit, 3, stderr)
    const summary = JSON.parse(stdout.trim().split('\n').at(-1) ?? '')
    assert.deepEqual([summary.bytesSent, summary.hosts[0].code], [0, 'disk_full'])
    assert.match(
      summary.hosts[0].message,
      /needs 15\d MB, and \S+ has 140 MB free, of which 1\d(\.\d)? MB stay in reserve$/,
    )
    await assertUntouched(world, before)
  })

  await t.test('one that another program leaves no room for during the upload is refused as well', async () => {
    disk.empty()
    const pushing = world.tarmacBegin('push', '--json')
    await meanwhile(world, `${APP}/staging/*.part`, () => disk.fill())
    const { exit, stdout, stderr } = await pushing.ended
    assert.equal(exit, 3, stderr)
    assert.equal(JSON.parse(stdout.trim().split('\n').at(-1) ?? '').hosts[0].code, 'disk_full', stdout)
    await assertUntouched(world, before)
  })

  await t.test(
    'and one that runs out while it is assembled fails, with its contents gone and the old one serving',
    async () => {
      disk.empty()
      rmSync(join(world.project, 'big.bin'))
      manyDirs(world, 4_000)
      const pushing = world.tarmacBegin('push', '--json')
      await meanwhile(world, `${APP}/staging/*/tree/dirs/*`, () => disk.fill())
      const { exit, stdout, stderr } = await pushing.ended
      assert.equal(exit, 6, stderr)
      const failed = JSON.parse(stdout.trim().split('\n').at(-2) ?? '')
      assert.equal(failed.code, 'deploy_failed')
      assert.match(failed.message, /^push shop: the disk is full, \S+ k?B and \d+ inodes are free at .*ENOSPC/)
      await assertUntouched(world, before)
      disk.empty()
      assert.deepEqual([(await world.tarmac('push')).exit, (await appOf(world)).releasesKept], [0, 3])
    },
  )

  await t.test('with not a byte free status, rollback and prune work (peers.md 15)', async () => {
    assert.deepEqual(readdirSync(join(world.root, 'reserve')).length, 64)
    disk.fill()
    await assertWayOut(world)
    assert.ok(!existsSync(join(world.root, 'reserve')), 'the reserve was given back')
    disk.empty()
  })
})

test('on a disk of few inodes', { timeout: 5 * PATIENCE_MS }, async (t) => {
  const disk = smallDisk(t, { mebibytes: 60, inodes: 4_000 })
  const world = await worldOn(t, disk)
  const before = await serving(world)
  const all = disk.free().inodes

  await t.test(
    'a push with too many files is refused before a byte is sent, with both numbers (peers.md 11)',
    async () => {
      manyFiles(world, all)
      const { exit, stdout } = await world.tarmac('push', '--json')
      assert.equal(exit, 3)
      const summary = JSON.parse(stdout.trim().split('\n').at(-1) ?? '')
      assert.deepEqual([summary.bytesSent, summary.hosts[0].code], [0, 'disk_full'])
      assert.match(summary.hosts[0].message, /needs \d+ inodes, and \S+ has \d+ free, of which \d+ stay in reserve$/)
      await assertUntouched(world, before)
    },
  )

  await t.test('one that another program leaves no inodes for during the upload is refused as well', async () => {
    manyFiles(world, Math.floor(all / 2))
    const pushing = world.tarmacBegin('push', '--json')
    await meanwhile(world, `${APP}/objects/*/*`, () => disk.fillInodes())
    const { exit, stdout, stderr } = await pushing.ended
    assert.equal(exit, 3, stderr)
    assert.equal(JSON.parse(stdout.trim().split('\n').at(-1) ?? '').hosts[0].code, 'disk_full', stdout)
    await assertUntouched(world, before)
  })

  await t.test('with not an inode free status, rollback and prune work (peers.md 15)', async () => {
    disk.fillInodes()
    await world.stopAgent('SIGKILL')
    await world.startAgent()
    await assertWayOut(world)
    disk.empty()
    assert.equal((await world.tarmac('restart')).exit, 0)
    for (const deadline = Date.now() + PATIENCE_MS; !existsSync(join(world.root, 'reserve')); await sleep(50)) {
      assert.ok(Date.now() < deadline, 'with room again it is made again')
    }
  })
})

test('a disk that gets low is told in words, and pruned down to what must stay when it gets critical', async (t) => {
  const disk = smallDisk(t, { mebibytes: 60, inodes: 2_000 })
  const world = await worldOn(t, disk)
  manyDirs(world, 60)
  for (const version of ['3', '4', '5', '6']) {
    world.version(version)
    assert.equal((await world.tarmac('push')).exit, 0)
  }
  const pruned = async () => {
    const { deploys } = JSON.parse((await world.tarmac('deploys', '--json')).stdout).hosts[0]
    return deploys.filter(({ kind, who }: Record<string, string>) => kind === 'prune' && who === 'tarmac').length
  }
  const lookAgain = async (times: number) => {
    assert.equal((await world.tarmac('restart')).exit, 0)
    for (const deadline = Date.now() + PATIENCE_MS; (await pruned()) < times; await sleep(100)) {
      assert.ok(Date.now() < deadline, 'the agent did not prune')
    }
    return appOf(world)
  }
  disk.fillInodes(290)
  const said = await world.tarmac('status')
  assert.match(said.stderr, /disk low: inodes, [1-3] pushe?s? left: \d+ MB and \d+ inodes free at /)
  assert.match(said.stdout, /\d+ inodes free, low, [1-3] pushe?s? left/)
  const { scarce, state, pushesUntilFull, daysUntilFull } = await diskOf(world)
  assert.deepEqual([scarce, state, daysUntilFull], ['inodes', 'low', null])
  assert.ok(pushesUntilFull >= 1 && pushesUntilFull <= 3)
  const before = await appOf(world)
  const low = await lookAgain(1)
  assert.deepEqual([before.releasesKept, low.releasesKept], [6, 5], 'half of the ten that are kept otherwise')
  // With what the reserve gives back still fewer than a twentieth.
  disk.fillInodes(20)
  const critical = await lookAgain(2)
  assert.deepEqual([critical.releasesKept, critical.previousGood], [2, before.previousGood])
  assert.deepEqual([critical.running, await world.get()], [before.running, '6'])
  assert.equal((await world.tarmac('rollback')).exit, 0)
})

test('what is counted before a push is what it takes of the disk, and not much more', async (t) => {
  const disk = smallDisk(t, { mebibytes: 120 })
  const layout = layoutAt(disk.dir, join(disk.dir, 'etc'))
  const app = parseAppName('shop')
  const contents = new Map<string, Buffer>()
  const files: unknown[] = [{ path: 'bin/link-with-a-target-too-long-for-an-inode', link: `../${'x'.repeat(80)}` }]
  for (let n = 0; n < 2_000; n++) {
    const content = Buffer.from(`content ${n % 1_500}`.padEnd((n % 37) * 400))
    contents.set(sha256(content), content)
    const path = `node_modules/package-${n % 300}/lib/${n % 7}/module-with-a-longer-name-${n}.js`
    files.push({ path, mode: n % 50 === 0 ? '0755' : '0644', size: content.length, sha256: sha256(content) })
  }
  files.sort((a, b) => ((a as { path: string }).path < (b as { path: string }).path ? -1 : 1))
  const signed = parseManifest(JSON.stringify(manifestOf(files, { shared: ['uploads'] })))
  const { manifest, text } = signed
  const signatures = ['one', 'another']
  makeAppDirs(layout, app)
  execFileSync('sync', ['-f', disk.dir])
  const before = disk.free()
  const survey = await surveyStore(layout, manifest)
  const textBytes = Buffer.byteLength(text)
  const { bsize } = statfsSync(disk.dir)
  const coming = { manifest, textBytes, signatures: signatures.length, lacking: survey.lacking }
  const needed = roomNeeded(coming, roomTaken(coming, bsize), bsize)
  async function* bundle() {
    for (const [digest, size] of objectsOf(manifest)) {
      const bytes = contents.get(digest) ?? Buffer.alloc(0)
      const content = { atOnce: () => bytes, [Symbol.asyncIterator]: async function* () {} }
      yield { kind: 'object', sha256: digest, size, content } as const
    }
  }
  const rest = bundle()
  const entries = { first: await rest.next(), rest }
  await storeObjects(layout, { signed, signatures, signers: [] }, entries, { survey, spend: () => undefined })
  await assemble(layout, { signed, signatures })
  const after = disk.free()
  const taken = { bytes: before.bytes - after.bytes, inodes: before.inodes - after.inodes }
  t.diagnostic(`needed ${JSON.stringify(needed)}, taken ${JSON.stringify(taken)}`)
  assert.ok(taken.inodes > 2_000 && taken.inodes <= needed.inodes && needed.inodes <= taken.inodes + 20)
  assert.ok(taken.bytes > 10 * MB && taken.bytes <= needed.bytes && needed.bytes <= taken.bytes * 1.25 + MB)
  assert.deepEqual((await surveyStore(layout, manifest)).lacking.objects, [])
})
