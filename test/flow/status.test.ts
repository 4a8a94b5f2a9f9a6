import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort, makeWorld, type Ran, type World } from '../helpers/world.ts'

// The JSON that scripts read, key by key: DESIGN.md section 10. A key more or less is a break of the contract.

/** A type's name, several with "|", a pattern, a list of one shape, or an object with exactly these keys. */
type Shape = string | RegExp | [Shape] | { [key: string]: Shape }

function assertShape(value: unknown, shape: Shape, path = '$'): void {
  if (typeof shape === 'string') {
    const kind = value === null ? 'null' : typeof value
    assert.ok(shape.split('|').includes(kind), `${path} is ${JSON.stringify(value)}, not ${shape}`)
  } else if (shape instanceof RegExp) assert.match(String(value), shape, path)
  else if (Array.isArray(shape)) {
    assert.ok(Array.isArray(value), `${path} is no list`)
    for (const [index, item] of value.entries()) assertShape(item, shape[0], `${path}[${index}]`)
  } else {
    assert.ok(typeof value === 'object' && value !== null, `${path} is no object`)
    assert.deepEqual(Object.keys(value).sort(), Object.keys(shape).sort(), path)
    for (const [key, one] of Object.entries(value)) assertShape(one, shape[key] ?? 'never', `${path}.${key}`)
  }
}

const INSTANT = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/
const RELEASE = /^\d{8}T\d{6}Z-[0-9a-f]{8}$/
const RELEASE_OR_NULL = /^(null|\d{8}T\d{6}Z-[0-9a-f]{8})$/
const EXIT = { code: 'number|null', signal: 'string|null', oom: 'boolean', at: INSTANT }

function serviceShape(of: { runs: boolean; exited: boolean }): Shape {
  return {
    name: 'string',
    state: /^(running|starting|crash-looping|failed|stopped|degraded)$/,
    release: RELEASE,
    slot: /^[ab]$/,
    pid: of.runs ? 'number' : 'null',
    since: of.runs ? INSTANT : 'null',
    respawns: {
      sinceSwitch: 'number',
      lastHour: 'number',
      limit: { attempts: 'number', withinSeconds: 'number' },
    },
    lastExit: of.exited ? EXIT : 'null',
    memoryBytes: of.runs ? 'number' : 'null',
    port: 'number',
  }
}

function hostShape(service: Shape): Shape {
  return {
    name: 'string',
    url: /^https:\/\/127\.0\.0\.1:\d+$/,
    reachable: /^true$/,
    agent: { version: 'string', init: /^embedded$/, startedAt: INSTANT },
    disk: {
      path: 'string',
      totalBytes: 'number',
      freeBytes: 'number',
      totalInodes: 'number',
      freeInodes: 'number',
      state: /^(ok|low|critical)$/,
      scarce: /^(bytes|inodes)$|null/,
      daysUntilFull: 'number|null',
      pushesUntilFull: 'number|null',
    },
    memory: { totalBytes: 'number', availableBytes: 'number' },
    load: ['number'],
    apps: [
      {
        app: /^shop$/,
        wanted: RELEASE,
        running: RELEASE_OR_NULL,
        previousGood: RELEASE_OR_NULL,
        bytesOnDisk: 'number',
        releasesKept: 'number',
        damaged: [RELEASE],
        envRevision: 'number',
        lastSwitch: 'object|null',
        services: [service],
      },
    ],
  }
}

const STEP = {
  host: /^127\.0\.0\.1$/,
  step: /^(stored|assembled|stopped|started|healthy|switched|draining|probed|rehearsed|unhealthy|going-back|gone-back|pruned|waiting)$/,
  at: INSTANT,
  ms: 'number',
}
const DONE = { ...STEP, step: /^done$/, deploy: 'number', app: 'string', release: RELEASE, previous: RELEASE_OR_NULL }
const OUTCOME = {
  name: 'string',
  url: 'string',
  exit: 'number',
  release: RELEASE_OR_NULL,
  running: RELEASE_OR_NULL,
  previous: RELEASE_OR_NULL,
  code: 'string|null',
  message: 'string|null',
}
const SUMMARY = { step: /^summary$/, exit: 'number', hosts: [OUTCOME] as [Shape] }
const SENT = { bytesSent: 'number', objectsSent: 'number', objectsReused: 'number', seconds: 'number' }

function linesOf({ stdout }: Ran) {
  return stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
}

async function hostsOf(world: World): Promise<{ hosts: { apps: { services: { state: string }[] }[] }[] }> {
  const { stdout } = await world.tarmac('status', '--json')
  assert.equal(stdout.trim().split('\n').length, 1)
  return JSON.parse(stdout)
}

test('status --json has exactly the documented keys for what runs, and for what was stopped', async (t) => {
  const world = await makeWorld(t)
  assert.deepEqual((await hostsOf(world)).hosts[0]?.apps, [])
  assert.equal((await world.tarmac('status', '--check')).exit, 10, 'an app that is not there is not well')
  await world.tarmac('push')
  assertShape(await hostsOf(world), { hosts: [hostShape(serviceShape({ runs: true, exited: false }))] })
  assert.equal((await world.tarmac('status', '--check')).exit, 0)

  await world.tarmac('stop')
  const stopped = await hostsOf(world)
  assertShape(stopped, { hosts: [hostShape(serviceShape({ runs: false, exited: true }))] })
  assert.equal(stopped.hosts[0]?.apps[0]?.services[0]?.state, 'stopped')
  assert.equal((await world.tarmac('status')).exit, 0)
  const checked = await world.tarmac('status', '--check')
  assert.equal(checked.exit, 10)
  assert.match(checked.stderr, /shop web is stopped\n {2}start it: tarmac start --app shop/)
})

test('status says crash-looping of a service that gave up after its switch, with its respawns and its last exit', async (t) => {
  const world = await makeWorld(t)
  world.write({
    'server.js': `require('node:http').createServer((q, r) => r.end()).listen(process.env.PORT)
setTimeout(() => process.exit(4), 700)\n`,
  })
  assert.equal((await world.tarmac('push')).exit, 0, 'it was healthy when it was asked')
  for (let tries = 0; tries < 50; tries++) {
    if (world.agentLog().includes('gave up')) break
    await sleep(200)
  }
  const status = await hostsOf(world)
  assertShape(status, { hosts: [hostShape(serviceShape({ runs: false, exited: true }))] })
  const { running, services } = JSON.parse(JSON.stringify(status)).hosts[0].apps[0]
  assert.equal(running, null)
  assert.equal(services[0].state, 'crash-looping')
  assert.deepEqual(services[0].respawns.limit, { attempts: 3, withinSeconds: 20 })
  assert.ok(services[0].respawns.sinceSwitch >= 2)
  assert.ok(services[0].respawns.lastHour >= 3)
  assert.deepEqual([services[0].lastExit.code, services[0].lastExit.oom], [4, false])
  assert.equal((await world.tarmac('status', '--check')).exit, 10)
})

test('a host that does not answer is a row of its own beside one that does; the exit is 4, with --check 10', async (t) => {
  const world = await makeWorld(t)
  await world.tarmac('push')
  const nobody = `https://127.0.0.1:${await freePort()}`
  const both = ['--host', world.url, '--host', nobody]
  const { exit, stdout } = await world.tarmac('status', '--json', ...both)
  assert.equal(exit, 4)
  const [well, gone] = JSON.parse(stdout).hosts
  assertShape(well, { ...(hostShape(serviceShape({ runs: true, exited: false })) as object), name: 'string' })
  assertShape(gone, {
    name: 'string',
    url: 'string',
    reachable: /^false$/,
    error: { code: /^agent_unreachable$/, message: 'string', hint: 'string' },
    apps: ['never'],
  })
  assert.equal(gone.url, nobody)
  assert.equal((await world.tarmac('status', '--check', ...both)).exit, 10)
  assert.match((await world.tarmac('status', ...both)).stdout, /unreachable/)
})

test('every line of push --json names its host, and the last one is the summary, also of a refused push', async (t) => {
  const world = await makeWorld(t)
  const first = linesOf(await world.tarmac('push', '--json'))
  assertShape(first.pop(), { ...SUMMARY, ...SENT })
  assertShape(first.pop(), DONE)
  for (const { release, service, slot, message, deploy, ...line } of first) assertShape(line, STEP)

  const again = linesOf(await world.tarmac('push', '--json'))
  assert.equal(again.length, 2)
  assertShape(again[0], { ...DONE, deploy: 'null', alreadyRunning: /^true$/ })
  assertShape(again[1], { ...SUMMARY, ...SENT })

  world.version('2', { broken: 3 })
  const failed = linesOf(await world.tarmac('push', '--json'))
  const summary = failed.pop()
  assertShape(summary, { ...SUMMARY, ...SENT })
  assert.deepEqual([summary.exit, summary.hosts[0].code], [6, 'deploy_failed'])
  assertShape(failed.pop(), {
    ...STEP,
    step: /^failed$/,
    deploy: 'number',
    code: /^deploy_failed$/,
    message: 'string',
    hint: 'string',
    receipt: {
      app: /^shop$/,
      release: RELEASE,
      service: /^web$/,
      phase: /^gate$/,
      reason: 'string',
      exit: EXIT,
      respawns: 'number',
      output: ['string'],
      running: RELEASE,
      undone: ['string'],
      next: ['string'],
    },
  })

  const nobody = `https://127.0.0.1:${await freePort()}`
  const refused = await world.tarmac('push', '--json', '--host', nobody)
  const [line, last, ...more] = linesOf(refused)
  assert.deepEqual([refused.exit, more], [4, []])
  assertShape(line, {
    host: 'string',
    step: /^failed$/,
    at: INSTANT,
    code: /^agent_unreachable$/,
    message: 'string',
    hint: 'string',
  })
  assertShape(last, { ...SUMMARY, ...SENT })
  assert.equal(last.exit, 4)
})

test('releases, deploys, rollback, stop and start speak JSON of one shape each', async (t) => {
  const world = await makeWorld(t)
  await world.tarmac('push')
  world.version('2')
  await world.tarmac('push')
  const releases = linesOf(await world.tarmac('releases', '--json'))
  assertShape(releases, [
    {
      hosts: [
        {
          name: 'string',
          releases: [
            {
              id: RELEASE,
              state: /^healthy$/,
              current: 'boolean',
              createdAt: /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/,
              signers: ['string'],
              bytes: 'number',
              envRevision: 'number',
              keep: 'string',
            },
          ],
        },
      ],
    },
  ])
  const [{ hosts }] = releases
  assert.deepEqual(
    hosts[0].releases.map(({ current, keep }: { current: boolean; keep: string }) => [current, keep]),
    [
      [true, 'current'],
      [false, 'previous good: rollback goes here'],
    ],
  )
  const [listed] = linesOf(await world.tarmac('rollback', '--list', '--json'))
  assert.deepEqual(listed, releases[0])

  for (const argv of [['rollback'], ['stop'], ['start'], ['restart']]) {
    const lines = linesOf(await world.tarmac(...argv, '--json'))
    assertShape(lines.pop(), SUMMARY)
    assertShape(lines.pop(), DONE)
    for (const { release, service, slot, message, deploy, ...line } of lines) assertShape(line, STEP)
  }
  const [deploys] = linesOf(await world.tarmac('deploys', '--json', '-n', '3'))
  assertShape(deploys, {
    hosts: [
      {
        name: 'string',
        deploys: [
          {
            id: 'number',
            kind: /^(restart|start|stop)$/,
            who: /^ann$/,
            key: /^SHA256:/,
            from: RELEASE,
            to: RELEASE,
            result: /^done$/,
            code: 'null',
            startedAt: INSTANT,
            seconds: 'number',
            gapMs: 'number|null',
            probe: 'object|null',
            steps: ['object'],
            receipt: 'null',
          },
        ],
      },
    ],
  })
  assert.equal(deploys.hosts[0].deploys.length, 3)
})
