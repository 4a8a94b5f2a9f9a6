import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { globSync, lstatSync, lutimesSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { sha256 } from '../../shared/names.ts'
import { makeWorld, type World } from '../helpers/world.ts'

const BIG_BYTES = 8 * 1024 * 1024
const LITTLE_BYTES = BIG_BYTES / 10

test('of a big file that changed a little a little is sent; all of it when the old one goes or rots meanwhile', async (t) => {
  const world = await makeWorld(t, { faults: true })
  let content: Buffer = randomBytes(BIG_BYTES)
  assert.ok((await pushed(world, content)) > BIG_BYTES)
  for (let turn = 0; turn < 2; turn++) {
    content = edited(content)
    const bytes = await pushed(world, content)
    assert.ok(bytes < LITTLE_BYTES, `${bytes} bytes`)
  }
  const harms: [harm: (path: string) => void, isForgotten: boolean, mostBytes: number][] = [
    [(path) => rmSync(path), false, Number.POSITIVE_INFINITY],
    // The host is asked, and what rotted of its file is found to be new.
    [rot, false, BIG_BYTES / 4],
    [rot, true, Number.POSITIVE_INFINITY],
  ]
  for (const [harm, isForgotten, mostBytes] of harms) {
    const path = objectOf(world, content)
    if (isForgotten) rmSync(join(world.dir, 'home/.cache'), { recursive: true })
    world.fault('upload.begun 1 pause')
    const harmed = whenStopped(world, () => harm(path))
    content = edited(content)
    const bytes = await pushed(world, content)
    await harmed
    assert.ok(bytes < mostBytes && (mostBytes < BIG_BYTES || bytes > BIG_BYTES), `${bytes} bytes`)
  }
})

/** Gives what went over the wire. */
async function pushed(world: World, content: Buffer): Promise<number> {
  writeFileSync(join(world.project, 'big.bin'), content)
  const { exit, stdout, stderr } = await world.tarmac('push', '--json')
  assert.equal(exit, 0, stderr)
  assert.ok(readFileSync(join(world.root, 'apps/shop/current/tree/big.bin')).equals(content))
  assert.deepEqual(globSync(join(world.root, 'apps/shop/staging/*')), [])
  const { bytesSent } = JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as { bytesSent: number }
  return bytesSent
}

/** One insertion and two changes. */
function edited(content: Buffer): Buffer {
  const copy = Buffer.from(content)
  randomBytes(40).copy(copy, 1_000_000)
  randomBytes(40).copy(copy, 5_000_000)
  return Buffer.concat([copy.subarray(0, 3_000_000), randomBytes(1000), copy.subarray(3_000_000)])
}

function objectOf(world: World, content: Buffer): string {
  const digest = sha256(content)
  return join(world.root, 'apps/shop/objects', digest.slice(0, 2), digest.slice(2))
}

/** A bit of it turns, and its times do not tell. */
function rot(path: string): void {
  const { atimeMs, mtimeMs } = lstatSync(path)
  const content = readFileSync(path)
  content.writeUInt8(content.readUInt8(7_000_000) ^ 1, 7_000_000)
  writeFileSync(path, content)
  lutimesSync(path, atimeMs / 1000, mtimeMs / 1000)
}

/** Does it while the agent stands at the place where it was told to, and lets it go on. */
async function whenStopped(world: World, act: () => void): Promise<void> {
  const { pid } = JSON.parse(readFileSync(join(world.root, 'embedded/agent.json'), 'utf8')) as { pid: number }
  // The state follows the name, which stands in parentheses: proc_pid_stat(5).
  while (!readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.startsWith('T')) await sleep(5)
  act()
  process.kill(pid, 'SIGCONT')
}
