import assert from 'node:assert/strict'
import { copyFileSync, existsSync, mkdirSync, readdirSync, rmSync, statSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { LedgerReport } from '../../shared/ledger-report.ts'
import type { ReleaseId } from '../../shared/names.ts'
import type { DeployEntry, Note, ReleaseEntry } from '../../shared/wire.ts'
import { makeWorld, projectText, type Ran, type World } from '../helpers/world.ts'

// What somebody, or a disk, does to the ledger behind the agent's back.

/** Three good releases, with a copy of the ledger after the first, then one that failed; the third one serves. At most three good ones and a failed one are kept. */
async function worldWithHistory(t: TestContext): Promise<{ world: World; good: ReleaseId[]; failed: ReleaseId }> {
  const world = await makeWorld(t)
  const toml = projectText(world.port, world.url)
  world.write({ 'tarmac.toml': toml.replace('[environments', '[keep]\nreleases = 3\nfailed = 1\n[environments') })
  assert.equal(await pushed(world, '1'), 0)
  editing(world, `VACUUM INTO '${join(world.root, 'ledger.db.older')}'`)
  for (const version of ['2', '3']) assert.equal(await pushed(world, version), 0)
  const good = (await releasesOf(world)).map(({ id }) => id).reverse()
  assert.equal(await pushed(world, '4', { broken: 1 }), 6)
  const [failed] = (await releasesOf(world)).filter(({ state }) => state === 'failed')
  assert.ok(failed)
  return { world, good, failed: failed.id }
}

async function releasesOf(world: World): Promise<ReleaseEntry[]> {
  return JSON.parse((await world.tarmac('releases', '--json')).stdout).hosts[0].releases
}

async function deploysOf(world: World): Promise<DeployEntry[]> {
  return JSON.parse((await world.tarmac('deploys', '--json')).stdout).hosts[0].deploys
}

function onDisk(world: World): string[] {
  return readdirSync(join(world.root, 'apps/shop/releases')).sort()
}

async function serves(world: World, text: string): Promise<void> {
  const deadline = Date.now() + 20_000
  while ((await world.get()) !== text) {
    assert.ok(Date.now() < deadline, `the app answers ${await world.get()}, not ${text}\n${world.agentLog()}`)
    await sleep(25)
  }
}

/** A plan that would remove a good one is refused as a whole: that is a step of the push too. */
async function assertPruned(world: World): Promise<void> {
  const [newest] = await deploysOf(world)
  assert.deepEqual(
    newest?.steps.filter(({ step }) => step === 'warning'),
    [],
  )
}

async function logged(world: World, what: RegExp): Promise<void> {
  const deadline = Date.now() + 20_000
  while (!what.test(world.agentLog())) {
    assert.ok(Date.now() < deadline, `the agent's log says no ${what}: ${world.agentLog()}`)
    await sleep(25)
  }
}

async function pushed(world: World, version: string, options?: { broken: number }): Promise<number | null> {
  world.version(version, options)
  return (await world.tarmac('push')).exit
}

function editing(world: World, sql: string): void {
  const db = new DatabaseSync(join(world.root, 'ledger.db'))
  db.exec(sql)
  db.close()
}

function reportIn({ stdout }: Ran): LedgerReport {
  const { hosts } = JSON.parse(stdout)
  assert.equal(hosts.length, 1)
  assert.deepEqual(Object.keys(hosts[0]), ['name', 'ledger'])
  return hosts[0].ledger
}

test('deploys --verify says ok of what the agent wrote, and by number what was edited; the exit is 0, and then 10', async (t) => {
  const world = await makeWorld(t)
  assert.deepEqual([await pushed(world, '1'), await pushed(world, '2')], [0, 0])
  const well = await world.tarmac('deploys', '--verify', '--json')
  assert.equal(well.exit, 0)
  const { head, ...report } = reportIn(well)
  assert.deepEqual(report, { ok: true, changes: 2, problems: [], notes: [] })
  assert.equal(head?.number, 2)
  assert.match(
    (await world.tarmac('deploys', '--verify')).stdout,
    /^127\.0\.0\.1 {2}ok: 2 changes, the newest 2 [0-9a-f]{64}\n$/,
  )

  editing(world, "UPDATE deploys SET who = 'eve' WHERE id = 1")
  const edited = await world.tarmac('deploys', '--verify')
  assert.equal(edited.exit, 10)
  assert.match(
    edited.stdout,
    /not what the agent wrote: 2 changes.*\n {2}✗ change 1 of shop is not what the agent wrote/,
  )
  const { ok, problems } = reportIn(await world.tarmac('deploys', '--verify', '--json'))
  assert.equal(ok, false)
  assert.deepEqual(problems, [{ problem: 'edited', deploy: 1, app: 'shop', text: 'is not what the agent wrote' }])
})

interface Damage {
  /** The rest of a sentence that begins with "the ledger". */
  how: string
  exit: number
  reason: RegExp
  damage: (file: string) => void
}

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31))

const DAMAGES: Damage[] = [
  {
    how: 'was deleted',
    exit: 0,
    reason:
      /^ledger\.db was missing or empty; 4 changes before this, and who made them, are not known; 4 releases were /,
    damage: (file) => rmSync(file),
  },
  {
    how: 'was deleted with all that lies beside it',
    exit: 0,
    reason:
      /^ledger\.db was missing or empty; what was changed before, and by whom, is not known; 4 releases were taken/,
    damage: (file) => {
      for (const name of [file, file.replace('.db', '.head')]) rmSync(name)
    },
  },
  {
    how: 'was put back from an older copy',
    exit: 10,
    reason:
      /^the last 3 changes are missing: an older copy was put back.*; 3 changes before this, .* 3 releases were taken in/,
    damage: (file) => copyFileSync(`${file}.older`, file),
  },
  {
    how: 'was cut at a random byte',
    exit: 0,
    reason: /^ledger\.db was damaged \(.*\) and is kept as ledger\.db\.damaged-\w+; 4 changes before this/s,
    // Not within its last page: what is missing there SQLite takes for zeros, and that is an edited row.
    damage: (file) => truncateSync(file, 1 + (seed % (statSync(file).size - 4096))),
  },
]

test('whatever became of the ledger, the agent starts, says what happened, serves, and removes nothing good', async (t) => {
  t.diagnostic(`SEED=${seed}`)
  const { world, good, failed } = await worldWithHistory(t)
  const all = onDisk(world)
  assert.deepEqual(all, [...good, failed].sort())
  const file = join(world.root, 'ledger.db')
  const kept = ['db', 'head'].map((suffix) => [join(world.root, `ledger.${suffix}`), join(world.dir, suffix)] as const)
  for (const { how, exit, reason, damage } of DAMAGES) {
    await t.test(`the ledger ${how}`, async () => {
      await world.stopAgent()
      for (const [there, copy] of kept) existsSync(copy) ? copyFileSync(copy, there) : copyFileSync(there, copy)
      damage(file)
      await world.startAgent()
      await serves(world, '3')

      const status = await world.tarmac('status', '--json', '--check')
      const [{ apps, notes }] = JSON.parse(status.stdout).hosts
      const { wanted, running, previousGood } = apps[0]
      // One that is known to have been good before one that may have been; the failed one in no case.
      const back = how.includes('older copy') ? good[0] : good[1]
      assert.deepEqual([wanted, running, previousGood], [good[2], good[2], back])
      assert.ok(notes.some(({ text }: Note) => text.startsWith('shop: the ledger was rebuilt at ')))
      if (exit === 0) assert.equal(status.exit, 0, 'what runs is well')
      const [entry] = await deploysOf(world)
      assert.deepEqual([entry?.kind, entry?.who, entry?.from, entry?.to], ['rebuilt', 'tarmac', null, null])
      assert.match(entry?.receipt?.reason ?? '', reason)
      assert.match(world.agentLog(), /"msg":"ledger rebuilt: /)
      const verified = await world.tarmac('deploys', '--verify')
      assert.equal(verified.exit, exit, verified.stdout)
      assert.match(verified.stdout, /releases were taken in from the disk/)
      const releases = await releasesOf(world)
      const expected = [failed, ...good.toReversed()].map((id) => [id, ['ann']])
      assert.deepEqual(
        releases.map(({ id, signers }) => [id, signers]),
        expected,
      )
    })
  }

  // A push prunes, and would remove the oldest of three good ones if the failed one were counted for one.
  assert.equal(await pushed(world, '5'), 0)
  assert.deepEqual(onDisk(world).slice(0, 4), all)
  await assertPruned(world)
  assert.equal((await world.tarmac('rollback', good[0] ?? '')).exit, 0)
  await world.stopAgent()
  await world.startAgent()
  await serves(world, '1')
  assert.deepEqual(
    (await deploysOf(world)).map(({ kind }) => kind),
    ['rollback', 'push', 'rebuilt'],
    'rebuilt once',
  )
  assert.equal(JSON.parse((await world.tarmac('status', '--json')).stdout).hosts[0].notes, undefined)
  assert.equal((await world.tarmac('deploys', '--verify')).exit, 0)
})

test('a row that was edited while the agent was away is told by its log, by status and by its number', async (t) => {
  const world = await makeWorld(t)
  assert.deepEqual([await pushed(world, '1'), await pushed(world, '2')], [0, 0])
  await world.stopAgent()
  editing(world, "UPDATE deploys SET who = 'eve', receipt = 'nonsense' WHERE id = 1")
  await world.startAgent()
  await serves(world, '2')
  await logged(world, /"problem":"edited","deploy":1,"app":"shop"/)
  const checked = await world.tarmac('status', '--check')
  assert.equal(checked.exit, 10)
  assert.match(
    checked.stderr,
    /the ledger is not what the agent wrote, in 1 place\n {2}see where: tarmac deploys --verify/,
  )
  assert.deepEqual(
    (await deploysOf(world)).map(({ who }) => who),
    ['ann', 'eve'],
    'the rest of the record is told',
  )
  assert.equal((await world.tarmac('deploys', '--verify')).exit, 10)
})

test('releases without a row are taken in when the agent starts, in their place, and none is lost to the next prune', async (t) => {
  const { world, good, failed } = await worldWithHistory(t)
  await world.stopAgent()
  editing(world, `DELETE FROM releases WHERE id IN ('${good[1]}', '${failed}')`)
  await world.startAgent()
  await serves(world, '3')
  assert.deepEqual(
    (await releasesOf(world)).map(({ id }) => id),
    [failed, ...good.toReversed()],
  )
  const [entry] = await deploysOf(world)
  assert.deepEqual([entry?.kind, entry?.result], ['rebuilt', 'done'])
  assert.match(entry?.receipt?.reason ?? '', /^2 releases were taken in from the disk that the ledger did not know/)
  assert.equal((await world.tarmac('deploys', '--verify')).exit, 0)
  assert.equal(await pushed(world, '5'), 0)
  assert.ok(good.every((id) => onDisk(world).includes(id)))
  await assertPruned(world)
})

test('with a ledger that cannot be written the agent serves and answers; the next push after that begins', async (t) => {
  const world = await makeWorld(t)
  assert.equal(await pushed(world, '1'), 0)
  await world.stopAgent()
  const file = join(world.root, 'ledger.db')
  rmSync(file)
  mkdirSync(file)
  await world.startAgent()
  await serves(world, '1')
  const status = await world.tarmac('status', '--check')
  assert.equal(status.exit, 10)
  assert.match(status.stderr, /the ledger cannot be written: EISDIR/)
  assert.equal((await deploysOf(world))[0]?.kind, 'rebuilt')
  world.version('2')
  const refused = await world.tarmac('push')
  assert.deepEqual([refused.exit, await world.get()], [3, '1'], refused.stderr)
  assert.match(refused.stderr, /error: .*write the ledger: EISDIR/)
  rmSync(file, { recursive: true })
  assert.equal((await world.tarmac('push')).exit, 0)
  assert.equal(await world.get(), '2')
  assert.equal((await releasesOf(world)).length, 2, 'what was taken from the disk was written down with it')
  assert.deepEqual(
    (await deploysOf(world)).map(({ kind }) => kind),
    ['push', 'rebuilt'],
  )
  assert.equal((await world.tarmac('deploys', '--verify')).exit, 0)
})
