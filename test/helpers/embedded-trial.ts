import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { pino } from 'pino'
import { createEmbedded } from '../../agent/init/embedded.ts'
import type { Account, InitSystem, UnitSpec } from '../../agent/init/init-system.ts'
import type { ServiceSpec } from '../../shared/manifest.ts'
import { parseAppName, parseServiceName } from '../../shared/names.ts'
import { eventually, firstRelease, isAlive } from './init-trial.ts'

// What the tests of the embedded init need: one app with one service below a root of its own, and agents to kill.

export const log = pino({ level: 'silent' })
export const isRoot = process.getuid?.() === 0
const NOBODY = 65_534
const asNobody = [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups']
/** Root needs some other user to run as; which one is of no matter here. */
export const account: Account = isRoot
  ? { user: 'nobody', uid: NOBODY, gid: NOBODY }
  : { user: userInfo().username, uid: undefined, gid: undefined }
export const key = { app: parseAppName('shop'), service: parseServiceName('web'), slot: 'a' } as const
const embeddedModule = new URL('../../agent/init/embedded.ts', import.meta.url).href

/** Runs a whole test file once more, as a user who may do nothing but run his own processes. */
export function testWithoutRoot(url: string): void {
  const file = fileURLToPath(url)
  test('all of this holds without root too', { skip: whyNotAsNobody(file), timeout: 120_000 }, () => {
    const argv = [...asNobody, process.execPath, file]
    const inner = spawnSync('setpriv', argv, { env: { PATH: '/usr/bin:/bin' }, encoding: 'utf8' })
    assert.equal(inner.status, 0, inner.stdout.slice(-4000) + inner.stderr.slice(-1000))
  })
}

/** False when the tests can run as nobody from here. */
function whyNotAsNobody(file: string): string | false {
  if (!isRoot) return 'this is not root'
  const look = spawnSync('setpriv', [...asNobody, process.execPath, '--check', file])
  if (look.error) return 'there is no setpriv'
  return look.status === 0 ? false : 'nobody may not read the checkout'
}

/** node:test ends things in the order they were made; a directory must outlive what runs in it. */
const endings = new WeakMap<TestContext, (() => Promise<void>)[]>()

function atEnd(t: TestContext, end: () => Promise<void>): void {
  const before = endings.get(t)
  if (before) return void before.unshift(end)
  const all = [end]
  endings.set(t, all)
  t.after(async () => {
    for (const each of all) await each()
  })
}

/** Below the directory for temporary files, and open to the user the services run as. */
export async function newRoot(): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'tarmac-embedded-'))
  await chmod(root, 0o755)
  return root
}

export async function freshRoot(t: TestContext): Promise<string> {
  const root = await newRoot()
  atEnd(t, () => rm(root, { recursive: true, force: true }))
  return root
}

export async function embeddedIn(t: TestContext, root: string): Promise<InitSystem> {
  const init = await createEmbedded({ dir: join(root, 'embedded'), log })
  atEnd(t, () => init.close())
  return init
}

export async function unitIn(root: string, shell: string, spec: Partial<ServiceSpec> = {}): Promise<UnitSpec> {
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
    envRevision: 0,
    writableDirs: [out],
  }
}

/** A process that is nothing but an agent's init system with one enabled unit; "close" on its stdin closes it. */
export async function agentProcess(t: TestContext, { root, unit }: { root: string; unit: UnitSpec }) {
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
  atEnd(t, async () => {
    if (agent.exitCode === null && agent.signalCode === null) {
      agent.kill('SIGKILL')
      await once(agent, 'exit')
    }
    // What it left is ended as the next agent would.
    await (await createEmbedded({ dir: join(root, 'embedded'), log })).close()
  })
  await once(agent.stdout, 'data')
  return agent
}

export async function noteRun(root: string, run: { invocation: string; pid: number; stamp: string }): Promise<void> {
  const file = join(root, 'embedded', 'units', key.app, `${key.service}@${key.slot}.json`)
  await writeFile(file, JSON.stringify({ ...JSON.parse(await readFile(file, 'utf8')), run }))
}

export async function pidsIn(root: string, count: number): Promise<number[]> {
  return eventually(`${count} pids`, async () => {
    const text = await readFile(join(root, 'out', 'pids'), 'utf8').catch(() => '')
    const pids = text.split('\n').filter(Boolean).map(Number)
    return pids.length >= count ? pids : undefined
  })
}

/** A zombie that waits to be reaped by a slow PID 1 runs no more. */
export function isRunning(pid: number): boolean {
  if (!isAlive(pid)) return false
  return !spawnSync('ps', ['-o', 'stat=', '-p', String(pid)], { encoding: 'utf8' }).stdout.startsWith('Z')
}
