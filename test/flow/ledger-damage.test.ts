import assert from 'node:assert/strict'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test } from 'node:test'
import type { LedgerReport } from '../../shared/wire.ts'
import { makeWorld, type Ran, type World } from '../helpers/world.ts'

// What somebody, or a disk, does to the ledger behind the agent's back.

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
