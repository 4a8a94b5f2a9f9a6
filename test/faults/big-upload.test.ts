import assert from 'node:assert/strict'
import { randomFillSync } from 'node:crypto'
import { statfsSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { brokenInvariants } from '../helpers/invariants.ts'
import { makeWorld } from '../helpers/world.ts'

const FILES = 250
const FILE_BYTES = 2_000_000
/** The tree, what the agent stores of it, the reserve that it keeps, and room for others. */
const NEEDED_BYTES = 4e9

test('of a 500 MB upload whose agent was killed in the middle only what is missing is sent again', async (t) => {
  const { bavail, bsize } = statfsSync(tmpdir())
  if (bavail * bsize < NEEDED_BYTES) return t.skip(`${tmpdir()} has less than ${NEEDED_BYTES / 1e9} GB free`)
  const world = await makeWorld(t, { faults: true })
  const bytes = Buffer.alloc(FILE_BYTES)
  for (let index = 0; index < FILES; index++) {
    writeFileSync(join(world.project, `${index}.bin`), randomFillSync(bytes))
  }
  const placed = FILES / 2
  world.fault(`disk.placed ${placed} kill`)
  const cut = await world.tarmac('push')
  assert.equal(cut.exit, 4, cut.stderr)
  await world.agentEnded()
  await world.startAgent()
  assert.deepEqual(await brokenInvariants(world, { cut: true }), [])

  const began = Date.now()
  const again = await world.tarmac('push', '--json')
  assert.equal(again.exit, 0, again.stderr)
  const { objectsSent, objectsReused, bytesSent } = JSON.parse(again.stdout.trim().split('\n').at(-1) ?? '')
  t.diagnostic(
    `sent ${objectsSent} objects, ${bytesSent} bytes, in ${Date.now() - began} ms; ${objectsReused} were there`,
  )
  // The program itself is one more.
  assert.deepEqual([objectsSent, objectsReused], [FILES + 1 - placed, placed])
  assert.ok(bytesSent < (FILES + 1 - placed) * FILE_BYTES * 1.01, `${bytesSent} bytes`)
  assert.deepEqual(await brokenInvariants(world), [])
})
