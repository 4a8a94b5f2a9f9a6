import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { pino } from 'pino'
import { createEmbedded } from '../../agent/init/embedded.ts'
import { environmentOf } from '../../agent/init/embedded-environment.ts'
import { MAX_LINE_BYTES, MAX_LOG_BYTES } from '../../agent/init/embedded-log.ts'
import { stampOf } from '../../agent/init/embedded-process.ts'
import type { Account, InitSystem, UnitSpec } from '../../agent/init/init-system.ts'
import { Failure } from '../../shared/failure.ts'
import type { ServiceSpec } from '../../shared/manifest.ts'
import { parseAppName, parseServiceName } from '../../shared/names.ts'
import { initContract } from '../helpers/init-contract.ts'
import { eventually, firstRelease, freshApp, type InitUnderTest, isAlive } from '../helpers/init-trial.ts'

const log = pino({ level: 'silent' })
const isRoot = process.getuid?.() === 0
const NOBODY = 65_534
/** Root needs some other user to run as; which one is of no matter here. */
const account: Account = isRoot
  ? { user: 'nobody', uid: NOBODY, gid: NOBODY }
  : { user: userInfo().username, uid: undefined, gid: undefined }
const embeddedModule = new URL('../../agent/init/embedded.ts', import.meta.url).href
const key = { app: parseAppName('shop'), service: parseServiceName('web'), slot: 'a' } as const

initContract('embedded', async (t): Promise<InitUnderTest> => {
  const root = await freshRoot(t)
  const init = await createEmbedded({ dir: join(root, 'embedded'), log })
  return {
    // A user for each test would stay on the machine for ever; that one is made is a test of its own.
    init: isRoot ? { ...init, ensureAccount: async () => account } : init,
    root,
    startsAtBoot: (unit) => init.isEnabled(unit),
    filesOf: (app) => readdir(join(root, 'embedded', 'units', app)).catch(() => []),
  }
})

test('all of this holds without root too', { skip: whyNotAsNobody(), timeout: 120_000 }, () => {
  const argv = [...asNobody, process.execPath, fileURLToPath(import.meta.url)]
  const inner = spawnSync('setpriv', argv, { env: { PATH: '/usr/bin:/bin' }, encoding: 'utf8' })
  assert.equal(inner.status, 0, inner.stdout.slice(-4000) + inner.stderr.slice(-1000))
})

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

describe('embedded: what services say', () => {
  test('a line of 100 MB without an end costs neither memory nor the disk', { timeout: 60_000 }, async (t) => {
    const root = await freshRoot(t)
    const init = await embeddedIn(t, root)
    await init.install(
      await unitIn(
        root,
        'head -c 100000000 /dev/zero | tr "\\0" x; echo; echo the end; echo $$ > "$OUT/pids"; exec sleep 1000',
      ),
    )
    const before = process.memoryUsage().rss
    await init.start(key)
    await pidsIn(root, 1)
    const last = await eventually('the last line', async () => {
      const lines = await messagesOf(init, 3)
      return lines.at(-1) === 'the end' ? lines : undefined
    })
    assert.ok(process.memoryUsage().rss - before < 50_000_000)
    assert.equal(last[0]?.length, MAX_LINE_BYTES)
    assert.ok((await bytesOfLogs(root)) <= MAX_LOG_BYTES)
  })

  test('a follower sees each line once and in order while the log is rotated under it', {
    timeout: 60_000,
  }, async (t) => {
    const root = await freshRoot(t)
    const init = await embeddedIn(t, root)
    const count = 150_000
    const wide = 'x'.repeat(60)
    await init.install(
      await unitIn(root, `i=0; while [ $i -lt ${count} ]; do i=$((i+1)); echo "$i ${wide}"; done; exec sleep 1000`),
    )
    const enough = new AbortController()
    const following = (async () => {
      let seen = 0
      for await (const { message } of init.logs({ app: key.app, lines: 10, follow: true }, enough.signal)) {
        seen++
        if (message !== `${seen} ${wide}`) return assert.fail(`line ${seen} is ${message}`)
        if (seen === count) enough.abort()
      }
      return seen
    })()
    await init.start(key)
    assert.equal(await following, count)
    assert.ok(count * (wide.length + 30) > MAX_LOG_BYTES, 'enough to rotate twice')
    assert.ok((await bytesOfLogs(root)) <= MAX_LOG_BYTES)
    const newest = await messagesOf(init, 50_000)
    assert.equal(newest.length, 50_000, 'lines of the older half are there too')
    assert.equal(newest[0], `${count - 49_999} ${wide}`)
  })

  test('bytes that are no text, blank lines and a last line without an end are kept as lines', async (t) => {
    const root = await freshRoot(t)
    const init = await embeddedIn(t, root)
    await init.install(
      await unitIn(root, 'printf "\\377\\000\\n\\n\\r\\nno end"; [ -e "$OUT/x" ] && exec sleep 1000; touch "$OUT/x"'),
    )
    await init.start(key)
    const lines = await eventually('both starts', async () => {
      const all = await messagesOf(init, 100)
      return all.length >= 3 ? all : undefined
    })
    assert.deepEqual(lines.slice(0, 3), ['\ufffd\0', 'no end', '\ufffd\0'])
  })

  test('a forgotten release has no logs, and one that runs is logged on', async (t) => {
    const root = await freshRoot(t)
    const init = await embeddedIn(t, root)
    await init.install(await unitIn(root, 'echo hello; exec sleep 1000'))
    await init.start(key)
    await eventually('a line', async () => ((await messagesOf(init, 9)).length === 1 ? true : undefined))
    await init.stop(key)
    await init.forgetRelease(key.app, firstRelease)
    assert.deepEqual(await messagesOf(init, 9), [])
    assert.deepEqual(await readdir(join(root, 'embedded', 'logs', key.app)), [])
    await init.start(key)
    await eventually('a line', async () => ((await messagesOf(init, 9)).length === 1 ? true : undefined))
  })
})

const asNobody = [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups']

/** False when the tests can run as nobody from here. */
function whyNotAsNobody(): string | false {
  if (!isRoot) return 'this is not root'
  const look = spawnSync('setpriv', [...asNobody, process.execPath, '--check', fileURLToPath(import.meta.url)])
  if (look.error) return 'there is no setpriv'
  return look.status === 0 ? false : 'nobody may not read the checkout'
}

/** Below the directory for temporary files, and open to the user the services run as. */
async function freshRoot(t: TestContext): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'tarmac-embedded-'))
  await chmod(root, 0o755)
  t.after(() => rm(root, { recursive: true, force: true }))
  return root
}

async function embeddedIn(t: TestContext, root: string): Promise<InitSystem> {
  const init = await createEmbedded({ dir: join(root, 'embedded'), log })
  t.after(() => init.close())
  return init
}

async function unitIn(root: string, shell: string, spec: Partial<ServiceSpec> = {}): Promise<UnitSpec> {
  const [treeDir, out] = [join(root, 'tree'), join(root, 'out')]
  await mkdir(treeDir, { recursive: true })
  await mkdir(out, { recursive: true })
  await chmod(out, 0o777)
  return {
    ...key,
    release: firstRelease,
    spec: {
      command: { exec: ['/bin/sh', '-c', shell] },
      health: { intervalMs: 100, timeoutMs: 5000, settleMs: 0 },
      restart: { attempts: 5, withinMs: 30_000, delayMs: 100 },
      stopTimeoutMs: 3000,
      ...spec,
    },
    account,
    treeDir,
    appsDir: root,
    env: { OUT: out },
    envFile: join(root, 'env', 'web@a.env'),
    writableDirs: [out],
  }
}

/** A process that is nothing but an agent's init system with one enabled unit; "close" on its stdin closes it. */
async function agentProcess(t: TestContext, { root, unit }: { root: string; unit: UnitSpec }) {
  const program = join(root, 'agent.mjs')
  await writeFile(
    program,
    `const { createEmbedded } = await import(${JSON.stringify(embeddedModule)})
    const log = { info() {}, warn() {}, error() {} }
    const init = await createEmbedded({ dir: ${JSON.stringify(join(root, 'embedded'))}, log })
    const unit = ${JSON.stringify(unit)}
    await init.install(unit)
    await init.enable(unit)
    await init.start(unit)
    process.stdin.once('data', async () => { await init.close(); process.stdin.destroy() })
    console.log('started')`,
  )
  const agent = spawn(process.execPath, [program], { stdio: ['pipe', 'pipe', 'inherit'] })
  t.after(async () => {
    if (agent.exitCode === null) agent.kill('SIGKILL')
    // What it left is ended as the next agent would.
    await (await createEmbedded({ dir: join(root, 'embedded'), log })).close()
  })
  await once(agent.stdout, 'data')
  return agent
}

async function noteRun(root: string, run: { invocation: string; pid: number; stamp: string }): Promise<void> {
  const file = join(root, 'embedded', 'units', key.app, `${key.service}@${key.slot}.json`)
  await writeFile(file, JSON.stringify({ ...JSON.parse(await readFile(file, 'utf8')), run }))
}

async function pidsIn(root: string, count: number): Promise<number[]> {
  return eventually(`${count} pids`, async () => {
    const text = await readFile(join(root, 'out', 'pids'), 'utf8').catch(() => '')
    const pids = text.split('\n').filter(Boolean).map(Number)
    return pids.length >= count ? pids : undefined
  })
}

async function messagesOf(init: InitSystem, lines: number): Promise<string[]> {
  const messages: string[] = []
  for await (const line of init.logs({ app: key.app, lines }, AbortSignal.timeout(10_000))) messages.push(line.message)
  return messages
}

async function bytesOfLogs(root: string): Promise<number> {
  const dir = join(root, 'embedded', 'logs', key.app, firstRelease)
  const files = await Promise.all((await readdir(dir)).map((name) => readFile(join(dir, name))))
  return files.reduce((sum, file) => sum + file.length, 0)
}

/** A zombie that waits to be reaped by a slow PID 1 runs no more. */
function isRunning(pid: number): boolean {
  if (!isAlive(pid)) return false
  return !spawnSync('ps', ['-o', 'stat=', '-p', String(pid)], { encoding: 'utf8' }).stdout.startsWith('Z')
}
