import { randomBytes } from 'node:crypto'
import { chown, mkdir, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { InitSystem, LogQuery, UnitExit, UnitKey, UnitSpec } from '../../agent/init/init-system.ts'
import { layoutAt } from '../../agent/state/layout.ts'
import type { Command, ServiceSpec } from '../../shared/manifest.ts'
import { type AppName, parseAppName, parseReleaseId, parseServiceName, type ReleaseId } from '../../shared/names.ts'
import type { LogLine } from '../../shared/wire.ts'

// What the contract suite of the init systems needs to try one: a release on the disk, a unit that runs it, and
// ways to look at what became of it.

/** An init system made for one test, and the questions only its own tools can answer. */
export interface InitUnderTest {
  init: InitSystem
  /** The agent's root: trees, env files and shared directories go below it. Visible to services, mode 0755. */
  root: string
  /** Does a boot start it? Left out where the init system is not asked at boot. */
  startsAtBoot?: (key: UnitKey) => Promise<boolean>
  /** Every file init keeps for this app, its env files aside; empty after `remove`. */
  filesOf: (app: AppName) => Promise<string[]>
}

export type MakeInit = (t: TestContext) => Promise<InitUnderTest>

interface Prepared extends InitUnderTest {
  /** Apps whose units go after the test. */
  apps: AppName[]
}

export interface Trial extends Prepared {
  key: UnitKey
  unit: UnitSpec
  /** Every exit the init system reported since the trial began. */
  exits: (UnitExit & { seenAt: number })[]
  /** The one directory the service may write; programs find it as $OUT. */
  out: string
}

export interface TrialOptions {
  /** The text of `./program` in the tree, run by /bin/sh. */
  program: string
  app?: string
  service?: string
  command?: Command
  env?: Record<string, string>
  spec?: Partial<ServiceSpec>
  release?: ReleaseId
}

const quickSpec: Omit<ServiceSpec, 'command'> = {
  health: { intervalMs: 100, timeoutMs: 5000, settleMs: 0 },
  restart: { attempts: 5, withinMs: 30_000, delayMs: 100 },
  stopTimeoutMs: 3000,
}

export const firstRelease = parseReleaseId('20261122T233851Z-3f9a1c2b')
export const secondRelease = parseReleaseId('20261123T101500Z-00c0ffee')

/** A name no other test uses: journals and units outlive a test. */
export function freshApp(prefix = 'trial'): AppName {
  return parseAppName(`${prefix}-${randomBytes(4).toString('hex')}`)
}

/** Makes an init system, an account and a release; nothing is installed yet. Everything is removed after the test. */
export async function beginTrial(t: TestContext, make: MakeInit, options: TrialOptions): Promise<Trial> {
  const made = await make(t)
  const apps: AppName[] = []
  t.after(async () => {
    for (const app of apps) for (const key of await made.init.installed(app)) await made.init.remove(key)
    await made.init.close()
  })
  const trial = await addTrial({ ...made, apps }, options)
  const { exits } = trial
  made.init.onExit((exit) => {
    if (exit.app === trial.key.app && exit.service === trial.key.service) exits.push({ ...exit, seenAt: Date.now() })
  })
  return trial
}

/** Another service on an init system a test already has; its exits are not collected. */
export async function addTrial(made: Prepared, options: TrialOptions): Promise<Trial> {
  const app = options.app === undefined ? freshApp() : parseAppName(options.app)
  made.apps.push(app)
  const key: UnitKey = { app, service: parseServiceName(options.service ?? 'web'), slot: 'a' }
  const layout = layoutAt(made.root, join(made.root, 'etc'))
  const account = await made.init.ensureAccount(app)
  const out = layout.sharedPath(app, 'out')
  await mkdir(out, { recursive: true })
  if (account.uid !== undefined && account.gid !== undefined) await chown(out, account.uid, account.gid)
  const release = options.release ?? firstRelease
  const treeDir = layout.treeDir(app, release)
  await mkdir(treeDir, { recursive: true })
  await writeFile(join(treeDir, 'program'), `#!/bin/sh\n${options.program}\n`, { mode: 0o755 })
  const unit: UnitSpec = {
    ...key,
    release,
    spec: { ...quickSpec, command: options.command ?? { exec: ['./program'] }, ...options.spec },
    account,
    treeDir,
    appsDir: layout.appsDir,
    env: { OUT: out, ...options.env },
    envFile: layout.slotEnv(app, key.service, key.slot),
    envRevision: 0,
    writableDirs: [out],
  }
  return { ...made, key, unit, exits: [], out }
}

/** The same service in the other slot, or of another release. */
export async function otherUnit(trial: Trial, change: Partial<UnitSpec>): Promise<UnitSpec> {
  const unit = { ...trial.unit, ...change }
  const layout = layoutAt(trial.root, join(trial.root, 'etc'))
  const treeDir = layout.treeDir(unit.app, unit.release)
  await mkdir(dirname(treeDir), { recursive: true })
  await mkdir(treeDir, { recursive: true })
  await writeFile(join(treeDir, 'program'), await readFile(join(trial.unit.treeDir, 'program')), { mode: 0o755 })
  return { ...unit, treeDir, envFile: layout.slotEnv(unit.app, unit.service, unit.slot) }
}

/** Lines a program appended to a file below $OUT; none when there is no such file yet. */
export async function linesOf(trial: Trial, name: string): Promise<string[]> {
  const text = await readFile(join(trial.out, name), 'utf8').catch(() => '')
  return text.split('\n').filter((line) => line !== '')
}

/** Asks again until the answer is not undefined; fails with what was awaited. */
export async function eventually<T>(what: string, ask: () => Promise<T | undefined>, timeoutMs = 10_000): Promise<T> {
  const end = Date.now() + timeoutMs
  while (Date.now() < end) {
    const answer = await ask()
    if (answer !== undefined) return answer
    await sleep(20)
  }
  throw new Error(`waited ${timeoutMs} ms in vain: ${what}`)
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

export async function logsOf(trial: Trial, query: Partial<LogQuery> = {}): Promise<LogLine[]> {
  const lines: LogLine[] = []
  const all = { app: trial.key.app, lines: 100, ...query }
  for await (const line of trial.init.logs(all, AbortSignal.timeout(10_000))) lines.push(line)
  return lines
}

/** Installed and started. */
export async function started(trial: Trial): Promise<Trial> {
  await trial.init.install(trial.unit)
  await trial.init.start(trial.key)
  return trial
}

/** The facts once they say so; for `eventually`. */
export async function factsWhen(trial: Trial, state: string) {
  const facts = await trial.init.facts(trial.key)
  return facts.state === state ? facts : undefined
}

export function nonEmpty(lines: string[]): string[] | undefined {
  return lines.length > 0 ? lines : undefined
}
