import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test } from 'node:test'
import type { Check } from '../../shared/wire-doctor.ts'
import { freePort, makeWorld, type World } from '../helpers/world.ts'

async function examined(
  world: World,
  ...argv: string[]
): Promise<{ exit: number | null; hosts: { ok: boolean; checks: Check[] }[] }> {
  const { exit, stdout } = await world.tarmac('doctor', '--json', ...argv)
  const { hosts } = JSON.parse(stdout)
  for (const host of hosts) {
    assert.deepEqual(Object.keys(host), ['name', 'url', 'ok', 'checks'])
    for (const check of host.checks) assert.deepEqual(Object.keys(check).sort(), ['check', 'hint', 'state', 'what'])
  }
  return { exit, hosts }
}

test('doctor looks at the way to each host and at what is on it; what should be known is no fault, and damage is', async (t) => {
  const world = await makeWorld(t)
  assert.equal((await world.tarmac('push')).exit, 0)
  const well = await examined(world)
  assert.deepEqual([well.exit, well.hosts[0]?.ok], [0, true])
  const states = Object.fromEntries(well.hosts[0]?.checks.map(({ check, state }) => [check, state]) ?? [])
  // The disk of a test machine may be anything.
  assert.deepEqual(
    { ...states, disk: 'ok' },
    {
      ...{ reachable: 'ok', pin: 'ok', clock: 'ok', version: 'ok', signers: 'ok', disk: 'ok', logs: 'ok' },
      ...{ ledger: 'ok', apps: 'ok', files: 'ok', init: 'warn' },
    },
  )

  writeFileSync(join(world.root, 'apps/shop/notes.txt'), '')
  const db = new DatabaseSync(join(world.root, 'ledger.db'))
  db.exec("UPDATE deploys SET who = 'eve'")
  db.close()
  const sick = await world.tarmac('doctor')
  assert.equal(sick.exit, 10)
  assert.match(sick.stdout, /^127\.0\.0\.1\n {2}ok {4}reachable {2}https:/)
  assert.match(
    sick.stdout,
    /bad {3}ledger {5}it is not what the agent wrote, in 1 place\n +see where: tarmac deploys --verify\n/,
  )
  assert.match(sick.stdout, /warn {2}files {6}not ours: \S+\/apps\/shop\/notes\.txt\n/)

  const nobody = `https://127.0.0.1:${await freePort()}`
  const both = await examined(world, '--host', world.url, '--host', nobody)
  assert.equal(both.exit, 10)
  assert.deepEqual(
    both.hosts[1]?.checks.map(({ check, state }) => [check, state]),
    [['reachable', 'bad']],
  )
})

test('doctor tells a host that has another key from one that does not let this person in', async (t) => {
  const world = await makeWorld(t)
  const known = join(world.dir, 'home/.config/tarmac/known_agents')
  writeFileSync(known, `${world.url} sha256//${'A'.repeat(43)}=\n`)
  const other = await examined(world)
  assert.deepEqual([other.exit, other.hosts[0]?.checks.at(-1)?.check], [10, 'pin'])
  writeFileSync(known, `${world.url} ${world.pin}\n`)
  await world.agentCommand('signers', 'remove', 'ann')
  await world.agentCommand(
    'signers',
    'add',
    'bob',
    'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0000000000000000000000000000000000000000000',
  )
  const refused = await examined(world)
  assert.deepEqual([refused.exit, refused.hosts[0]?.checks.at(-1)?.check], [10, 'answer'])
})
