import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { brokenInvariants, type Expected, processesBelow } from './invariants.ts'
import { projectText, type World } from './world.ts'

// The kinds of change that a host knows, each ready to be cut off at any place, and what is to be true afterwards.

export type Mode = 'slots' | 'restart'

export interface Kind {
  name: string
  /** Brings the host to where the change can begin, with no fault armed. */
  prepare(world: World): Promise<unknown>
  /** Carries it out, to the exit of the client. The agent may end meanwhile. */
  run(world: World): Promise<number | null>
  /** The exits it may have when nothing is cut off. */
  exits: number[]
  /** What must be true when it was cut off, and the agent started again. */
  expected?: Expected
  /** The places that belong to it; all when not given. */
  places?: RegExp
}

export interface Cell {
  point: string
  nth: number
  /** What earlier cuts have left among the objects. */
  orphans: Set<string>
}

/** Two starts, and the way back; on a loaded machine. */
const LOOP_MS = 20_000
const PAUSE_MS = 60_000
const SOON_MS = 2_000
/** What a change that was cut off may end with: as if nothing had happened, or with what the agent says of it. */
const CUT_EXITS = [0, 4, 6, 7, 8, null]

export const KINDS: readonly Kind[] = [
  { name: 'push', prepare: next, run: push, exits: [0] },
  { name: 'first push', prepare: wipe, run: push, exits: [0] },
  { name: 'failing push', prepare: (world) => next(world, { broken: 1 }), run: push, exits: [6, 7] },
  { name: 'cut upload', prepare: next, run: pushAndDie, exits: [0], places: /^upload|placed$/ },
  { name: 'rollback', prepare: async () => {}, run: typed('rollback'), exits: [0] },
  { name: 'env', prepare: async () => {}, run: setVariable, exits: [0] },
  { name: 'prune', prepare: async () => {}, run: typed('prune'), exits: [0] },
  { name: 'restart', prepare: async () => {}, run: typed('restart'), exits: [0] },
  {
    name: 'stop',
    prepare: async () => {},
    run: typed('stop'),
    exits: [0],
    expected: { stopped: true },
    // Half a second after the push before it: it may come before the stop has begun.
    places: /^(?!ledger\.setBytesOnDisk$)/,
  },
  { name: 'start', prepare: typed('stop'), run: typed('start'), exits: [0] },
  { name: 'auto-rollback', prepare: pushNext, run: crashLoop, exits: [0] },
  { name: 'undoing', prepare: cutPush('init.start 1'), run: startAgent, exits: [0] },
  { name: 'finishing', prepare: cutPush('init.enable 1'), run: startAgent, exits: [0] },
]

async function pushNext(world: World): Promise<void> {
  await next(world)
  await push(world)
}

async function next(world: World, options?: { broken: number }): Promise<string> {
  const version = String(Number(/version (\d+)/.exec(readFileSync(join(world.project, 'server.js'), 'utf8'))?.[1]) + 1)
  world.version(version, options)
  world.write({ 'one.txt': `one ${version}\n`, 'two.txt': `two ${version}\n` })
  return version
}

function typed(...argv: string[]): (world: World) => Promise<number | null> {
  return async (world) => (await world.tarmac(...argv)).exit
}

function push(world: World): Promise<number | null> {
  return typed('push')(world)
}

async function setVariable(world: World): Promise<number | null> {
  return typed('env', 'set', `NUMBER=${await next(world)}`)(world)
}

/** Kills what serves until init gives it up, and waits until the agent has gone back from it. */
async function crashLoop(world: World): Promise<number | null> {
  const before = autoRollbacks(world)
  let isGone = false
  void world.agentEnded().then(() => {
    isGone = true
  })
  const [first] = processesOf(world)
  for (const end = Date.now() + LOOP_MS; Date.now() < end && !isGone; await sleep(20)) {
    if (autoRollbacks(world) > before) return 0
    for (const { pid, cwd } of processesOf(world)) if (cwd === first?.cwd) kill(pid)
  }
  return null
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It has ended by itself.
  }
}

function processesOf(world: World): { pid: number; cwd: string }[] {
  return processesBelow(join(world.root, 'apps/shop'))
}

/** Those that have ended. */
function autoRollbacks(world: World): number {
  const db = new DatabaseSync(join(world.root, 'ledger.db'), { readOnly: true })
  const sql = "SELECT count(*) AS n FROM deploys WHERE kind = 'auto-rollback' AND result <> 'running'"
  try {
    return Number(db.prepare(sql).get()?.n)
  } finally {
    db.close()
  }
}

/** The client dies with the agent, and nobody asks how it ended. */
async function pushAndDie(world: World): Promise<number | null> {
  const client = world.tarmacBegin('push')
  void world.agentEnded().then(() => client.kill('SIGKILL'))
  return (await client.ended).exit
}

/** A push that was cut off at this place, with the agent still away. */
function cutPush(place: string): (world: World) => Promise<void> {
  return async (world) => {
    await next(world)
    world.fault(`${place} kill`)
    await pushAndDie(world)
    await world.agentEnded()
  }
}

function startAgent(world: World): Promise<number | null> {
  return world.startAgent().then(
    () => 0,
    () => null,
  )
}

async function wipe(world: World): Promise<void> {
  await world.stopAgent()
  for (const name of ['apps', 'embedded', 'ledger.db', 'ledger.db-wal', 'ledger.db-shm', 'ledger.head'])
    rmSync(join(world.root, name), { recursive: true, force: true })
  await world.startAgent()
  await next(world)
}

/**
 * A project small and quick enough to be pushed a thousand times. With a worker where the port is handed over; none that
 * Node runs, as its start would be a tenth of all.
 */
export function quickProject(world: World, mode: Mode): void {
  const text = projectText(world.port, world.url)
    .replace(/^port = .*$/m, `$&\nswitch = "${mode}"`)
    .replace('interval = "100ms"', 'interval = "50ms"')
    .replace('attempts = 3', 'attempts = 2')
    .replace('delay = "100ms"', 'delay = "20ms"')
  const keep = '[keep]\nreleases = 2\nfailed = 1\n'
  const worker = mode === 'slots' ? '[services.worker]\ncommand = "sleep 1000"\nhealth = { settle = "50ms" }\n' : ''
  world.write({ 'tarmac.toml': text.replace('[restart]', `${worker}${keep}[restart]`) })
}

/** Which places a change reaches, and how often, in the order of the first time. */
export async function placesOf(world: World, kind: Kind): Promise<Map<string, number>> {
  await kind.prepare(world)
  world.fault('none 1 kill')
  // An agent that is started now has a log of its own.
  const from = kind.run === startAgent ? 0 : world.agentLog().length
  const exit = await kind.run(world)
  world.fault('')
  const log = world.agentLog().slice(from)
  const wrong = kind.exits.includes(exit ?? -1) ? await brokenByPush(world) : [`exit ${exit}: ${log}`]
  if (wrong.length > 0) throw new Error(`${kind.name}, not cut off: ${wrong.join('; ')}`)
  const points = new Map<string, number>()
  for (const [, point = ''] of log.matchAll(/"point":"([^"]+)","msg":"fault point"/g)) {
    if (kind.places?.test(point) ?? true) points.set(point, (points.get(point) ?? 0) + 1)
  }
  return points
}

/** Cuts a change off at a place by SIGKILL, starts the agent again, and says what is wrong then; undefined: not reached. */
export async function cutOff(world: World, kind: Kind, { point, nth, orphans }: Cell): Promise<string[] | undefined> {
  await kind.prepare(world)
  world.fault(`${point} ${nth} kill`)
  const ended = kind.run(world)
  const wasHit = await Promise.race([ended.then(() => isHitSoon(world)), world.agentEnded().then(() => true)])
  if (!wasHit) {
    world.fault('')
    return undefined
  }
  await world.agentEnded()
  await world.startAgent()
  const exit = await ended
  const wrong = await brokenInvariants(world, { cut: exit !== 0, orphans, ...kind.expected })
  if (!CUT_EXITS.includes(exit)) wrong.push(`exit ${exit}`)
  return [...wrong, ...(await brokenByPush(world, orphans))]
}

/** Whoever looks at the ledger may see the end of a change before the agent comes to the place behind it. */
async function isHitSoon(world: World): Promise<boolean> {
  for (const deadline = Date.now() + SOON_MS; ; await sleep(20)) {
    if (world.isFaultHit()) return true
    if (Date.now() > deadline) return false
  }
}

/** Nothing is to be unlocked, repaired or waited for: a push is taken at once, and clears the rest. */
export async function brokenByPush(world: World, orphans?: Set<string>): Promise<string[]> {
  const version = await next(world)
  const { exit, stdout, stderr } = await world.tarmac('push')
  if (exit !== 0) return [`the next push exited ${exit}: ${stdout}${stderr}`]
  const answer = await world.get()
  const wrong = answer === version ? [] : [`after the next push the port answers ${answer}, not ${version}`]
  return [
    ...wrong,
    ...(await brokenInvariants(world, orphans && { orphans })).map((what) => `after the next push: ${what}`),
  ]
}

/** Returns when an agent that was told to pause at a place stands still there. */
export async function isPaused(pid: number): Promise<void> {
  for (const deadline = Date.now() + PAUSE_MS; ; await sleep(5)) {
    // The state follows the name, which stands in parentheses: proc_pid_stat(5).
    if (readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.startsWith('T')) return
    if (Date.now() > deadline) throw new Error('the agent did not pause')
  }
}
