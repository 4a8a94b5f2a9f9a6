import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { isErrno, reasonOf } from '../../shared/failure.ts'
import { brokenByPush, isPaused, KINDS, type Kind, type Mode, quickProject } from '../helpers/fault-changes.ts'
import { brokenInvariants } from '../helpers/invariants.ts'
import { type SmallDisk, smallDisk } from '../helpers/small-disk.ts'
import { builtPrograms, makeWorld, type Programs, type World } from '../helpers/world.ts'

// Another program fills the disk at any place of a change: bytes, or inodes. The change ends by itself, something serves,
// and nothing is left of what failed. `npm run test:faults` takes each place of each change, `npm test` some of some.

const isWhole = process.env.TARMAC_FAULTS === 'all'
const EACH_NTH = isWhole ? 1 : 24
/** The agent's own prune takes milliseconds. */
const SETTLE_MS = 20_000
/** Done; refused before it began; failed with the old one serving on; gone back. Never 1, a bug, and never 8, down. */
const EXITS = [0, 3, 6, 7]
/** With nothing before it to go back to, a first push that fails leaves nothing that serves, and must say so. */
const FIRST_EXITS = [...EXITS, 8]

type What = 'bytes' | 'inodes'
type Column = [kind: string, mode: Mode, what: What]

const COLUMNS: Column[] = [
  ['push', 'slots', 'bytes'],
  ['push', 'restart', 'inodes'],
  ['rollback', 'slots', 'inodes'],
]
const OTHERS: Column[] = [
  ['push', 'slots', 'inodes'],
  ['push', 'restart', 'bytes'],
  ['first push', 'slots', 'inodes'],
  ['failing push', 'slots', 'bytes'],
  ['failing push', 'restart', 'inodes'],
  ['rollback', 'slots', 'bytes'],
  ['env', 'slots', 'bytes'],
  ['env', 'slots', 'inodes'],
  ['restart', 'restart', 'bytes'],
  ['prune', 'slots', 'inodes'],
]

test('a disk that another program fills at any place of a change ends no app', {
  skip: process.getuid?.() !== 0 && 'only root may mount a small disk',
  concurrency: availableParallelism() + 1,
}, async (t) => {
  const programs = await builtPrograms(t)
  const columns = isWhole ? [...COLUMNS, ...OTHERS] : COLUMNS
  await Promise.all(
    columns.map((column) =>
      t.test(`${column[0]}, switch = "${column[1]}", no ${column[2]}`, (t) => fillAll(t, programs, column)),
    ),
  )
})

async function fillAll(t: TestContext, programs: Programs, [name, mode, what]: Column): Promise<void> {
  const kind = KINDS.find((kind) => kind.name === name)
  assert.ok(kind !== undefined)
  const disk = smallDisk(t, { mebibytes: 40, ...(what === 'inodes' ? { inodes: 1_000 } : {}) })
  const world = await makeWorld(t, { faults: true, root: disk.dir, programs })
  quickProject(world, mode)
  for (const version of ['1', '2', '3']) {
    world.version(version)
    assert.equal((await world.tarmac('push')).exit, 0)
  }
  const wrong: string[] = []
  let places = 0
  for (let nth = 1; ; nth += EACH_NTH) {
    const broken = await fillAt(world, {
      kind,
      nth,
      fill: () => (what === 'bytes' ? disk.fill() : disk.fillInodes()),
      disk,
    })
    if (broken === undefined) break
    places++
    if (broken.length > 0) wrong.push(`place ${nth}: ${broken.join('; ')}`)
  }
  t.diagnostic(`${name}, switch = "${mode}", no ${what}: ${places} places`)
  assert.ok(places > 0)
  assert.deepEqual(wrong, [])
}

/** What is wrong afterwards; undefined when the change has fewer places. */
async function fillAt(
  world: World,
  { kind, nth, fill, disk }: { kind: Kind; nth: number; fill: () => void; disk: SmallDisk },
): Promise<string[] | undefined> {
  await kind.prepare(world)
  world.fault(`* ${nth} pause`)
  const ended = kind.run(world)
  if (!(await Promise.race([ended.then(() => world.isFaultHit()), untilHit(world)]))) {
    world.fault('')
    return undefined
  }
  const pid = pidOf(world)
  await isPaused(pid)
  fill()
  process.kill(pid, 'SIGCONT')
  const exit = await ended
  const wrong = await brokenWhenIdle(world, kind)
  const exits = kind.name === 'first push' ? FIRST_EXITS : EXITS
  if (!exits.includes(exit ?? -1)) wrong.push(`exit ${exit}: ${world.agentLog().slice(-2_000)}`)
  disk.empty()
  return [...wrong, ...(await brokenByPush(world)).filter((what) => !isMeant(what, kind))]
}

/** A change that fills a disk is followed by the agent's own prune. */
async function brokenWhenIdle(world: World, kind: Kind): Promise<string[]> {
  for (const deadline = Date.now() + SETTLE_MS; ; await sleep(100)) {
    const seen = await brokenInvariants(world, kind.expected).catch((error: unknown) => {
      // What the agent removes just now was there a moment ago.
      if (isErrno(error, 'ENOENT')) return [reasonOf(error)]
      throw error
    })
    const wrong = seen.filter((what) => !isMeant(what, kind))
    if (wrong.length === 0 || Date.now() > deadline) return wrong
  }
}

/** On a critical disk current and the previous good one are kept, and not what was gone back from. */
function isMeant(what: string, { name }: Kind): boolean {
  return name === 'rollback' && what.endsWith('was good, and is gone')
}

async function untilHit(world: World): Promise<boolean> {
  while (!world.isFaultHit()) await sleep(5)
  return true
}

function pidOf(world: World): number {
  return (JSON.parse(readFileSync(join(world.root, 'embedded/agent.json'), 'utf8')) as { pid: number }).pid
}
