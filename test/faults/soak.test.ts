import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { layoutAt } from '../../agent/state/layout.ts'
import { releasesOn } from '../../agent/state/release-store.ts'
import type { AppName } from '../../shared/names.ts'
import { quickProject } from '../helpers/fault-changes.ts'
import { brokenInvariants } from '../helpers/invariants.ts'
import { builtPrograms, freePort, makeWorld, projectText, type World } from '../helpers/world.ts'

// Random changes, most of them cut off by SIGKILL at a random place, some once more while the agent recovers; beside
// them a model of what may have come of each. A failure names its seed: TARMAC_SOAK_SEED=… runs the same again.

const isWhole = process.env.TARMAC_FAULTS === 'all'
const COUNT = Number(process.env.TARMAC_SOAK_COUNT ?? (isWhole ? 300 : 40))
/** The same each time in `npm test`, so that a red run is red again; a new one each time where one looks for faults. */
const SEED = Number(process.env.TARMAC_SOAK_SEED ?? (isWhole ? Date.now() % 2 ** 31 : 4))
const KEEP_GOOD = 3
/** A push comes by about 45 places. */
const PLACES = 50

const CHANGES = ['push', 'failing push', 'rollback', 'env', 'prune', 'restart', 'stop', 'start', 'nothing'] as const

interface Op {
  change: (typeof CHANGES)[number]
  /** Cut off at the so many-th place that it reaches. */
  cut: number | null
  /** And the agent that recovers from it, too. */
  again: number | null
}

const ops: fc.Arbitrary<Op[]> = fc.array(
  fc.record({
    change: fc.oneof(
      { weight: 5, arbitrary: fc.constant('push' as const) },
      { weight: 2, arbitrary: fc.constantFrom('failing push' as const, 'rollback' as const) },
      { weight: 3, arbitrary: fc.constantFrom(...CHANGES) },
    ),
    cut: fc.option(fc.integer({ min: 1, max: PLACES }), { freq: 3 }),
    again: fc.option(fc.integer({ min: 1, max: PLACES / 2 }), { freq: 2 }),
  }),
  { minLength: COUNT, maxLength: COUNT },
)

/** What is true of the host; versions stand for releases. */
interface Model {
  current: string | undefined
  isStopped: boolean
  /** Once healthy, oldest first. */
  good: string[]
  bad: string[]
}

test(`${COUNT} random changes, cut off at random, seed ${SEED}: what the model allows is there each time`, async (t) => {
  const world = await makeWorld(t, { faults: true, programs: await builtPrograms(t) })
  quickProject(world, 'slots')
  const toml = join(world.project, 'tarmac.toml')
  world.write({ 'tarmac.toml': readFileSync(toml, 'utf8').replace('releases = 2', `releases = ${KEEP_GOOD}`) })
  const neighbour = await pushNeighbour(world)
  let model: Model = { current: undefined, isStopped: false, good: [], bad: [] }
  const orphans = new Set<string>()
  const tally = { cut: 0, again: 0 }
  for (const [index, op] of (fc.sample(ops, { numRuns: 1, seed: SEED })[0] ?? []).entries()) {
    const version = String(index + 1)
    const target = rollbackTarget(model, versionsOn(world))
    const { exit, wasCut, wasCutAgain } = await carryOut(world, op, version)
    const may = outcomes(model, op, { version, target, exit, wasCut })
    const current = versionOf(world, 'current')
    const isUp = unitsOn(world).some(({ enabled }) => enabled)
    const about = `change ${index}, ${JSON.stringify(op)}, exit ${exit}, seed ${SEED}`
    const next = may.find((one) => one.current === current && (one.current === undefined || one.isStopped !== isUp))
    assert.ok(next, `${about}: ${current} is current, enabled ${isUp}; allowed: ${JSON.stringify(may)}`)
    model = next
    const there = versionsOn(world)
    const lost = model.good.slice(-KEEP_GOOD).filter((good) => !there.includes(good))
    const broken = await brokenInvariants(world, { stopped: model.isStopped, cut: wasCut, orphans })
    const beside = (await brokenInvariants(world, neighbour)).map((what) => `the other app: ${what}`)
    assert.deepEqual([...broken, ...beside, ...lost.map((version) => `${version} was good, and is gone`)], [], about)
    tally.cut += wasCut ? 1 : 0
    tally.again += wasCutAgain ? 1 : 0
  }
  t.diagnostic(`seed ${SEED}: ${COUNT} changes, ${tally.cut} of them cut off, ${tally.again} recoveries too`)
})

async function carryOut(world: World, { change, cut, again }: Op, version: string) {
  if (change === 'push' || change === 'failing push') {
    world.version(version, change === 'push' ? {} : { broken: 1 })
    world.write({ 'one.txt': `one ${version}\n` })
  }
  if (change === 'nothing') {
    await world.stopAgent(cut === null ? 'SIGTERM' : 'SIGKILL')
    await world.startAgent()
    return { exit: 0, wasCut: false, wasCutAgain: false }
  }
  if (cut !== null) world.fault(`* ${cut} kill`)
  const argv = { 'failing push': ['push'], env: ['env', 'set', `NUMBER=${version}`] }[change as string] ?? [change]
  const client = world.tarmacBegin(...argv, '--json')
  const wasCut = await Promise.race([
    client.ended.then(() => cut !== null && world.isFaultHit()),
    world.agentEnded().then(() => true),
  ])
  world.fault('')
  let wasCutAgain = false
  if (wasCut) {
    await world.agentEnded()
    if (again !== null) world.fault(`* ${again} kill`)
    // One that is cut off while it recovers is started once more.
    wasCutAgain = !(await world.startAgent().then(
      () => true,
      () => false,
    ))
    world.fault('')
    if (wasCutAgain) await world.startAgent()
  }
  return { exit: (await client.ended).exit, wasCut, wasCutAgain }
}

interface Seen {
  version: string
  target: string | undefined
  exit: number | null
  wasCut: boolean
}

/** Every state of the host that a change may have led to. */
function outcomes(model: Model, { change }: Op, { version, target, exit, wasCut }: Seen): Model[] {
  const { current, good, bad } = model
  if (change === 'nothing') return [model]
  // These know an app also by what an upload that was cut off has left of it.
  if (current === undefined && (change === 'env' || change === 'prune'))
    return [0, 2, 4].includes(exit ?? -1) ? [model] : []
  if (current === undefined && !change.endsWith('push')) return exit === 2 ? [model] : []
  if (change === 'rollback' && target === undefined) return exit === 2 ? [model] : []
  const running = { ...model, isStopped: false }
  const done: Model = {
    push: { ...running, current: version, good: [...good, version] },
    'failing push': running,
    rollback: { ...running, current: target, bad: current === undefined ? bad : [...bad, current] },
    env: model,
    prune: model,
    restart: running,
    stop: { ...model, isStopped: true },
    start: running,
  }[change]
  const exits = change === 'failing push' ? [current === undefined ? 8 : model.isStopped ? 7 : 6] : [0]
  if (!wasCut) return exits.includes(exit ?? -1) ? [done] : []
  // Not begun, and so as before; or undone, with the current one running; or finished, and then nothing else may be said.
  const undone = [model, running]
  const all =
    exit === 0 ? [done] : exit === 4 ? [...undone, done] : [...undone, ...(change === 'failing push' ? [done] : [])]
  return all
}

function rollbackTarget({ good, bad, current }: Model, there: string[]): string | undefined {
  return good.findLast((version) => version !== current && !bad.includes(version) && there.includes(version))
}

function versionsOn(world: World): string[] {
  const layout = layoutAt(world.root, join(world.root, 'etc'))
  return releasesOn(layout, 'shop' as AppName).flatMap((id) => versionOf(world, `releases/${id}`) ?? [])
}

function unitsOn(world: World): { enabled: boolean }[] {
  return globSync(join(world.root, 'embedded/units/shop/*.json')).map((path) => JSON.parse(readFileSync(path, 'utf8')))
}

function versionOf(world: World, release: string): string | undefined {
  try {
    const text = readFileSync(join(world.root, 'apps/shop', release, 'tree/server.js'), 'utf8')
    return /version (\d+)/.exec(text)?.[1]
  } catch {
    // Nothing is current yet.
    return undefined
  }
}

/** Another app of the host, with a name that begins alike: nothing of all this may touch it. */
async function pushNeighbour(world: World): Promise<{ app: string; port: number }> {
  const app = 'shop-two'
  const port = await freePort()
  const text = projectText(port, world.url).replace('app = "shop"', `app = "${app}"`)
  const server = 'require(\'node:http\').createServer((q, r) => r.end("neighbour")).listen(process.env.PORT)\n'
  world.write({ 'two/tarmac.toml': text, 'two/server.js': server })
  const { exit, stderr } = await world.tarmac('push', '--config', 'two/tarmac.toml')
  assert.equal(exit, 0, stderr)
  return { app, port }
}
