import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  chmodSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { makeWorld, type World } from '../helpers/world.ts'

// What else a machine can say instead of writing a file. Each is told for what it is, and what serves goes on.

const MB = 1_000_000

async function serving(world: World) {
  const app = JSON.parse((await world.tarmac('status', '--json')).stdout).hosts[0].apps[0]
  return { running: app.running, pid: app.services[0].pid, answer: await world.get() }
}

/** How a command that failed ended, by its own last line. */
async function failed(
  world: World,
  ...argv: string[]
): Promise<{ exit: number | null; code: string; message: string }> {
  const { exit, stdout } = await world.tarmac(...argv, '--json')
  const { code, message } = JSON.parse(stdout.trim().split('\n').at(-1) ?? '').hosts[0]
  return { exit, code, message }
}

function groundOf({ root }: World): string[] {
  return globSync('apps/shop/{objects/*/*,staging/*,releases/*}', { cwd: root }).sort()
}

test('a file system that takes no writes refuses a push for that reason, and nothing is left of it', async (t) => {
  const world = await makeWorld(t)
  assert.equal((await world.tarmac('push')).exit, 0)
  const before = { ...(await serving(world)), ground: groundOf(world) }
  const staging = join(world.root, 'apps/shop/staging')
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'ro', 'tmpfs', staging])
  try {
    world.version('2')
    const { exit, code, message } = await failed(world, 'push')
    assert.deepEqual([exit, code], [3, 'disk_read_only'])
    assert.match(message, /^push shop: the disk takes no writes: EROFS/)
  } finally {
    execFileSync('umount', [staging])
  }
  assert.deepEqual({ ...(await serving(world)), ground: groundOf(world) }, before)
  assert.deepEqual([(await world.tarmac('push')).exit, await world.get()], [0, '2'])
})

test('an agent that may open no file more says so, and takes the next push when it may again', async (t) => {
  const world = await makeWorld(t)
  assert.equal((await world.tarmac('push')).exit, 0)
  const before = await serving(world)
  const { pid } = JSON.parse(readFileSync(join(world.root, 'embedded/agent.json'), 'utf8')) as { pid: number }
  const open = new Set(readdirSync(`/proc/${pid}/fd`).map(Number))
  const limit = (soft: string) => execFileSync('prlimit', ['--pid', String(pid), `--nofile=${soft}:`])
  // One is for the connection of the client, two for files: enough to store a release, and not for a program's pipes.
  let highest = 0
  for (let free = 0; free < 3; highest++) if (!open.has(highest)) free++
  limit(String(highest))
  world.version('2')
  const { exit, code, message } = await failed(world, 'push')
  assert.ok(exit === 3 ? code === 'files_exhausted' : exit === 6 && code === 'deploy_failed', `${exit} ${code}`)
  assert.match(message, /too many files are open/)
  limit('4096')
  assert.deepEqual(await serving(world), before)
  assert.deepEqual([(await world.tarmac('push')).exit, await world.get()], [0, '2'])
})

test('on a disk that dies in the middle of a push the old release serves on, and each change says why it cannot be', async (t) => {
  const dir = dyingDisk(t)
  if (dir === undefined) return t.skip('there are no loop devices here')
  const world = await makeWorld(t, { root: dir })
  assert.equal((await world.tarmac('push')).exit, 0)
  execFileSync('sync', ['-f', dir])
  const before = await serving(world)
  writeFileSync(join(world.project, 'big.bin'), randomBytes(60 * MB))
  world.version('2')
  const push = await failed(world, 'push')
  // The kernel writes when it likes: it may find out before the agent asks for it, and mount the disk read-only.
  assert.match(`${push.exit} ${push.code}`, /^(6 deploy_failed|3 disk_read_only|3 disk_failing)$/)
  assert.match(push.message, /: (No space left on device|Input\/output error|Read-only file system)|EROFS|EIO/)
  assert.deepEqual(await serving(world), before, 'status is answered, by what is in memory')
  for (const change of ['push', 'restart', 'prune']) {
    const { exit, code } = await failed(world, change, ...(change === 'prune' ? ['--yes'] : []))
    assert.ok(
      exit === 3 && /^(ledger_unwritable|disk_read_only|disk_failing)$/.test(code),
      `${change}: ${exit} ${code}`,
    )
  }
  assert.equal(await world.get(), '1')
})

/** An ext4 of 200 MB on a place that holds 24: what it promises it cannot keep. Undefined without loop devices. */
function dyingDisk(t: TestContext): string | undefined {
  const place = mkdtempSync(join(tmpdir(), 'tarmac-dying-'))
  const [small, dir] = [join(place, 'small'), join(place, 'disk')]
  chmodSync(place, 0o711)
  for (const each of [small, dir]) mkdirSync(each)
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=24m', 'tmpfs', small])
  t.after(() => {
    for (const each of [dir, small]) spawnSync('umount', ['-l', each])
    rmSync(place, { recursive: true, force: true })
  })
  const image = join(small, 'image')
  writeFileSync(image, '')
  truncateSync(image, 200 * MB)
  execFileSync('mkfs.ext4', ['-q', '-F', '-m', '0', image])
  return spawnSync('mount', ['-o', 'loop', image, dir]).status === 0 ? dir : undefined
}
