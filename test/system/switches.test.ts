import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Example, exampleOf } from '../helpers/example.ts'
import { startLoad } from '../helpers/load.ts'
import { installedHost, type SystemHost } from '../helpers/system-host.ts'
import { machineUnavailable } from '../helpers/systemd-machine.ts'
import { startWrk } from '../helpers/wrk.ts'

// The examples of docs/servers.md under real systemd: traffic moves from release to release, and not one request is lost.

const options = { skip: machineUnavailable() ?? false }
const PUSHES = 20
/** After these pushes: a rollback, or a push of each kind that must fail. */
const ROLLBACKS_AFTER = [2, 6, 11, 15, 19]
const BROKEN_AFTER: Record<number, keyof typeof BROKEN> = { 4: 'crashes', 8: 'sick', 13: 'deaf' }
const AGENT_RESTART_AFTER = 10
/** So little that five servers, their switches and the clients get along on two cores. */
const OUR_LOAD = { clientsOfEachKind: 1, maxThinkMs: 40 }
const ANSWERS_500 = 'createServer((q, s) => { s.statusCode = 500; s.end("sick\\n") })'

/** What a release does that must fail, for Node and for whoever takes LISTEN_FDS by itself; and what the push says. */
const BROKEN = {
  crashes: {
    node: ['node', '-e', 'console.error("no database"); process.exit(3)'],
    other: ['sh', '-c', 'echo no database >&2; exit 3'],
    said: /no database/,
  },
  sick: {
    node: ['node', '-e', `require("http").${ANSWERS_500}.listen(process.env.PORT)`],
    // Started by a shell, Node is no Node program to the agent: it is handed the descriptor alone.
    other: ['sh', '-c', `exec node -e '${`require("http").${ANSWERS_500}.listen({ fd: 3 })`}'`],
    said: /answered 500/,
  },
  deaf: {
    node: ['node', '-e', 'setInterval(() => {}, 1000)'],
    other: ['sleep', '1000'],
    said: /nothing listens|does not accept|no answer/,
  },
}

/** Port 80: below 1024 it is init that opens it. */
const UNDER_LOAD = { express: 80, fastify: 3001, nextjs: 3002, gunicorn: 3003, go: 3004 }
const OTHERS = { uvicorn: 3005, puma: 3006, rust: 3007 }
const RESTART = { restart: 3008 }

test('every server of docs/servers.md does what is said of it there', options, async (t) => {
  const host = await installedHost(t)
  const examples = async (ports: Record<string, number>) =>
    Promise.all(Object.entries(ports).map(([name, port]) => exampleOf(t, name, { port, url: host.url })))

  await t.test('pushes, rollbacks, failed pushes and an agent restart lose no request', async (t) => {
    const apps = await examples(UNDER_LOAD)
    await Promise.all(apps.map((app) => push(host, app, 0)))
    const what = `${PUSHES} pushes, ${ROLLBACKS_AFTER.length} rollbacks, ${Object.keys(BROKEN_AFTER).length} failed pushes`
    const loads = apps.map((app) => loadOn(t, host, app, what))
    const [first, second] = [
      (app: Example) => changes(host, app, { from: 1, to: AGENT_RESTART_AFTER }),
      (app: Example) => changes(host, app, { from: AGENT_RESTART_AFTER + 1, to: PUSHES }),
    ]
    await Promise.all(apps.map(first))
    await host.machine.run(['systemctl', 'restart', 'tarmac-agent'])
    await host.awaitAgent()
    await Promise.all(apps.map(second))
    await noneLost(t, loads)
  })

  await t.test('a port below 1024 is served on IPv6 too, and by units that read well', async () => {
    const code = 'fetch("http://[::1]/").then((answer) => answer.text()).then((text) => console.log(text))'
    assert.match(await host.machine.run(['node', '-e', code]), /^express, release /)
    const units = ['systemctl', 'list-units', '--all', '--no-legend', '--plain', 'tarmac-express-*']
    const names = (await host.machine.run(units)).trim().split('\n')
    assert.deepEqual(names.map((line) => line.split(/\s+/)[0]?.replace(/@[ab]/, '@x')).sort(), [
      'tarmac-express-web.service',
      'tarmac-express-web.socket',
      'tarmac-express-web@x.service',
      'tarmac-express-web@x.socket',
    ])
  })

  await t.test('the others that take a socket lose no request either', async (t) => {
    for (const app of await examples(OTHERS)) {
      await push(host, app, 0)
      const load = loadOn(t, host, app, '2 pushes')
      await push(host, app, 1)
      await push(host, app, 2)
      await noneLost(t, [load])
    }
  })

  await t.test('one that can do neither has a gap, which is measured and shown', async (t) => {
    for (const app of await examples(RESTART)) {
      await push(host, app, 0)
      await push(host, app, 1)
      const { stdout } = await host.tarmac(app.dir, 'deploys', '--json')
      const { gapMs } = JSON.parse(stdout).hosts[0].deploys[0]
      t.diagnostic(`${app.name}: a gap of ${gapMs} ms`)
      assert.ok(gapMs > 0)
    }
  })

  await t.test('after a power cut all of them serve what they served before', async () => {
    const ports = { ...UNDER_LOAD, ...OTHERS, ...RESTART }
    const asked = () => Promise.all(Object.values(ports).map((port) => host.get(port)))
    const before = await asked()
    await host.machine.reboot()
    await host.awaitAgent()
    for (let tries = 0; tries < 200 && (await asked()).includes(undefined); tries++) await sleep(100)
    assert.deepEqual(await asked(), before)
  })
})

/** Pushes a version, and sees that it is the one that answers. */
async function push(host: SystemHost, app: Example, version: number): Promise<void> {
  await app.configure()
  await writeFile(join(app.dir, 'VERSION'), `${version}\n`)
  const pushed = await host.tarmac(app.dir, 'push', '--json')
  assert.equal(pushed.exit, 0, `${app.name} ${version}: ${pushed.stderr}${pushed.stdout}`)
  const release = /"step":"done".*"release":"([^"]+)"/.exec(pushed.stdout)?.[1]
  assert.ok(release)
  const answer = (await host.get(app.port)) ?? ''
  assert.ok(answer.includes(release), `${app.name} answers ${answer}, not ${release}`)
}

async function changes(host: SystemHost, app: Example, { from, to }: { from: number; to: number }): Promise<void> {
  for (let version = from; version <= to; version++) {
    await push(host, app, version)
    if (ROLLBACKS_AFTER.includes(version)) {
      const back = await host.tarmac(app.dir, 'rollback')
      assert.equal(back.exit, 0, `${app.name}: ${back.stderr}`)
    }
    const broken = BROKEN_AFTER[version]
    if (broken !== undefined) await pushBroken(host, app, broken)
  }
}

async function pushBroken(host: SystemHost, app: Example, how: keyof typeof BROKEN): Promise<void> {
  const before = await host.get(app.port)
  const { node, other, said } = BROKEN[how]
  await app.configure({ command: app.isNode ? node : other, health: 'timeout = "4s"' })
  const pushed = await host.tarmac(app.dir, 'push', '--json')
  assert.equal(pushed.exit, 6, `${app.name} ${how}: ${pushed.stderr}${pushed.stdout}`)
  assert.match(pushed.stdout, said)
  assert.equal(await host.get(app.port), before)
}

interface Ended {
  requests: number
  failed: number
  /** Those of our own clients, who know why. */
  failures: string[]
  line: string
}

/** wrk and clients of ours, with keep-alive and without, until `end` or the end of the test. */
function loadOn(t: TestContext, host: SystemHost, { name, port }: Example, what: string): () => Promise<Ended> {
  const url = `http://${host.machine.ip}:${port}/`
  const theirs = [startWrk(url, 'keep-alive'), startWrk(url, 'close')]
  const ours = startLoad(port, { host: host.machine.ip, ...OUR_LOAD })
  const end = async () => {
    const [{ requests, failures, longestGapMs }, ...results] = await Promise.all([
      ours.stop(),
      ...theirs.map((wrk) => wrk.end()),
    ])
    const all = results.reduce((sum, result) => sum + result.requests, requests)
    const failed = results.reduce((sum, result) => sum + result.failed, failures.length)
    const gap = `longest gap ${longestGapMs.toFixed(0)} ms`
    return { requests: all, failed, failures, line: `${name}: ${failed} of ${all} requests failed, ${gap}, ${what}` }
  }
  t.after(end)
  return end
}

async function noneLost(t: TestContext, loads: (() => Promise<Ended>)[]): Promise<void> {
  const ended = await Promise.all(loads.map((end) => end()))
  for (const { line } of ended) t.diagnostic(line)
  for (const { line, requests, failed, failures } of ended) {
    assert.deepEqual(failures, [], line)
    assert.equal(failed, 0, line)
    assert.ok(requests > 100, line)
  }
}
