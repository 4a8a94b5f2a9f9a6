import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { createEmbedded } from '../../agent/init/embedded.ts'
import { environmentOf } from '../../agent/init/embedded-environment.ts'
import { awaitGone, killFamily, membersOf, signalFamily, stampOf } from '../../agent/init/embedded-process.ts'
import { Failure } from '../../shared/failure.ts'
import {
  account,
  agentProcess,
  embeddedIn,
  freshRoot,
  isRoot,
  isRunning,
  key,
  log,
  newRoot,
  noteRun,
  pidsIn,
  testWithoutRoot,
  unitIn,
} from '../helpers/embedded-trial.ts'
import { initContract } from '../helpers/init-contract.ts'
import { eventually, freshApp, type InitUnderTest } from '../helpers/init-trial.ts'
import { freePort, isFree } from '../helpers/world.ts'

/** One in six was seen as gone too early. */
const KILLS = 10

initContract('embedded', async (): Promise<InitUnderTest> => {
  const root = await newRoot()
  const init = await createEmbedded({ dir: join(root, 'embedded'), log })
  return {
    init: {
      ...init,
      // A user for each test would stay on the machine for ever; that one is made is a test of its own.
      ensureAccount: isRoot ? async () => account : init.ensureAccount,
      // The suite closes last of all.
      async close() {
        await init.close()
        await rm(root, { recursive: true, force: true })
      },
    },
    root,
    startsAtBoot: (unit) => init.isEnabled(unit),
    filesOf: (app) => readdir(join(root, 'embedded', 'units', app)).catch(() => []),
  }
})

testWithoutRoot(import.meta.url)

describe('embedded: the agent and its services', () => {
  test('what an agent that was killed left is gone before anything starts, children of children too', async (t) => {
    const root = await freshRoot(t)
    const unit = await unitIn(root, 'setsid sleep 1000 & echo $! >> "$OUT/pids"; echo $$ >> "$OUT/pids"; wait')
    const agent = await agentProcess(t, { root, unit })
    const pids = await pidsIn(root, 2)
    agent.kill('SIGKILL')
    await once(agent, 'exit')
    assert.deepEqual(pids.filter(isRunning), pids, 'both outlived their agent')

    const init = await embeddedIn(t, root)
    assert.deepEqual(pids.filter(isRunning), [])
    const facts = await init.facts(key)
    assert.equal(facts.state, 'running', 'an enabled unit starts, as at a boot')
    assert.ok(facts.pid !== undefined && !pids.includes(facts.pid))
  })

  test('what was killed is gone when its port is free, and not when the first of its threads has ended', async () => {
    const port = await freePort()
    const server = `require('node:http').createServer().listen(${port}, () => console.log('listening'))`
    const taken: number[] = []
    for (let round = 0; round < KILLS; round++) {
      const child = spawn(process.execPath, ['-e', server], { detached: true, stdio: ['ignore', 'pipe', 'inherit'] })
      await once(child.stdout, 'data')
      const ended = once(child, 'exit')
      const family = { group: child.pid, invocation: 'e'.repeat(32) }
      signalFamily(family, 'SIGKILL')
      while (membersOf(family).length > 0);
      if (!(await isFree(port))) taken.push(round)
      await ended
    }
    assert.deepEqual(taken, [])
  })

  test('a stranger that was given the pid of a service lives on', async (t) => {
    const root = await freshRoot(t)
    const first = await createEmbedded({ dir: join(root, 'embedded'), log })
    await first.install(await unitIn(root, 'exec sleep 1000'))
    await first.close()
    const stranger = spawn('sleep', ['1000'], { detached: true, stdio: 'ignore' })
    t.after(() => stranger.kill('SIGKILL'))
    await once(stranger, 'spawn')
    const { pid = 0 } = stranger
    const stamp = (await stampOf(pid)) ?? ''

    await noteRun(root, { invocation: 'f'.repeat(32), pid, stamp: `${stamp}0` })
    await (await createEmbedded({ dir: join(root, 'embedded'), log })).close()
    assert.ok(isRunning(pid))

    await noteRun(root, { invocation: 'f'.repeat(32), pid, stamp })
    await (await createEmbedded({ dir: join(root, 'embedded'), log })).close()
    assert.equal(isRunning(pid), false, 'with its own start time it is ours, and ends')
  })

  test('close ends every service and lets the agent end', async (t) => {
    const root = await freshRoot(t)
    const unit = await unitIn(root, 'sleep 1000 & echo $! >> "$OUT/pids"; echo $$ >> "$OUT/pids"; wait')
    const agent = await agentProcess(t, { root, unit })
    const pids = await pidsIn(root, 2)
    agent.stdin?.end('close\n')
    const ended = await Promise.race([once(agent, 'exit'), sleep(5000, 'still there', { ref: false })])
    assert.deepEqual(ended, [0, null])
    assert.deepEqual(pids.filter(isRunning), [])
  })

  test('a second agent is refused a directory while the first one lives', async (t) => {
    const root = await freshRoot(t)
    const unit = await unitIn(root, 'echo $$ >> "$OUT/pids"; exec sleep 1000')
    await agentProcess(t, { root, unit })
    const pids = await pidsIn(root, 1)
    await assert.rejects(createEmbedded({ dir: join(root, 'embedded'), log }), (error) => {
      assert.ok(error instanceof Failure)
      assert.equal(error.code, 'busy')
      return true
    })
    assert.deepEqual(pids.filter(isRunning), pids)
  })

  test('a process that left its group dies with its service', { skip: process.platform !== 'linux' }, async (t) => {
    const root = await freshRoot(t)
    const init = await embeddedIn(t, root)
    await init.install(await unitIn(root, 'setsid sleep 1000 & echo $! >> "$OUT/pids"; echo $$ >> "$OUT/pids"; wait'))
    await init.start(key)
    const pids = await pidsIn(root, 2)
    await init.stop(key)
    assert.deepEqual(pids.filter(isRunning), [])
  })

  test('a process that becomes other programs all the time is not taken for gone', {
    skip: process.platform !== 'linux',
  }, async (t) => {
    const invocation = randomUUID().replaceAll('-', '')
    // In the middle of an exec(2) it shows no environment, and so no mark.
    const restless = 'select undef, undef, undef, 0.004; exec "perl", "-e", $ENV{RESTLESS}'
    const child = spawn('perl', ['-e', restless], {
      detached: true,
      env: { ...process.env, RESTLESS: restless, INVOCATION_ID: invocation },
      stdio: 'ignore',
    })
    t.after(() => child.kill('SIGKILL'))
    await once(child, 'spawn')
    for (let round = 0; round < 3; round++) {
      assert.equal(await awaitGone({ group: undefined, invocation }, 1_000), false)
    }
    assert.equal(await killFamily({ group: undefined, invocation }), true)
    assert.equal(isRunning(child.pid ?? 0), false)
  })

  test('a service that ends now and then, less often than the limit, is not given up', async (t) => {
    const root = await freshRoot(t)
    const init = await embeddedIn(t, root)
    const restart = { attempts: 3, withinMs: 1000, delayMs: 400 }
    await init.install(await unitIn(root, 'echo $$ >> "$OUT/pids"; exit 1', { restart }))
    await init.start(key)
    await pidsIn(root, 6)
    assert.notEqual((await init.facts(key)).state, 'gave-up')
    assert.ok((await init.facts(key)).respawns >= 5)
  })

  test('a stop between two respawns ends them', async (t) => {
    const root = await freshRoot(t)
    const init = await embeddedIn(t, root)
    const restart = { attempts: 5, withinMs: 30_000, delayMs: 60_000 }
    await init.install(await unitIn(root, 'exit 1', { restart }))
    await init.start(key)
    await eventually('the exit', async () => ((await init.facts(key)).state === 'respawning' ? true : undefined))
    const before = Date.now()
    await init.stop(key)
    assert.ok(Date.now() - before < 3000)
    assert.equal((await init.facts(key)).state, 'stopped')
  })

  test('with root each app has its user', { skip: !isRoot || process.platform !== 'linux' }, async (t) => {
    const init = await embeddedIn(t, await freshRoot(t))
    const app = freshApp()
    t.after(() => spawnSync('userdel', [`tarmac-${app}`]))
    const made = await init.ensureAccount(app)
    assert.ok((made.uid ?? 0) > 0)
    assert.deepEqual(await init.ensureAccount(app), made)
  })

  test('only without root is the Node of the agent first in PATH', async () => {
    const root = await environmentOf({ user: 'root', uid: 0, gid: 0 }, { PATH: '/opt/bin' }, 'f'.repeat(32))
    assert.equal(root.PATH, '/opt/bin')
    assert.equal(root.USER, 'root')
    assert.equal(root.HOME, '/root')
    const own = await environmentOf({ user: 'me', uid: undefined, gid: undefined }, {}, 'f'.repeat(32))
    assert.equal(
      own.PATH,
      `${join(process.execPath, '..')}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`,
    )
  })
})
