import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { makeWorld, projectText, restarting, type World } from '../helpers/world.ts'

// What a switch costs callers, with servers that take their socket themselves (LISTEN_FDS), which accept as soon as they
// run, and the limit that a push can set.

/** Not `node`, so our preload has no part in it. */
const COMMAND = 'sh run.sh'
/** Ends as docs/servers.md asks of a server: what it has accepted it answers first. */
const listening = (body: string) => `const http = require('node:http')
const server = http.createServer((q, r) => { ${body} }).listen({ fd: 3 })
process.on('SIGTERM', () => server.close())\n`
const good = (version: string) =>
  listening(`r.setHeader('connection', 'close'); setTimeout(() => r.end('${version}'), 60)`)

async function inherited(t: Parameters<typeof makeWorld>[0]): Promise<World> {
  const world = await makeWorld(t)
  const toml = projectText(world.port, world.url)
    .replace('node server.js', COMMAND)
    .replace('timeout = "20s"', 'timeout = "5s"')
  world.write({ 'tarmac.toml': toml, 'run.sh': 'exec node server.js\n', 'server.js': good('1') })
  assert.equal((await world.tarmac('push')).exit, 0)
  assert.equal(await world.get(), '1')
  return world
}

async function lastDeploy(world: World) {
  return JSON.parse((await world.tarmac('deploys', '--json', '-n', '1')).stdout).hosts[0].deploys[0]
}

test('a server that takes its own socket is rehearsed on another one, and callers notice neither a good nor a bad release', async (t) => {
  const world = await inherited(t)
  world.write({ 'server.js': good('2') })
  const { exit, stderr } = await world.tarmac('push', '--max-gap', '0')
  assert.equal(exit, 0, stderr)
  assert.match(stderr, /rehearsed web/)
  assert.equal(await world.get(), '2')

  const bad = {
    'answered 500': listening("r.statusCode = 500; r.end('sick')"),
    'does not accept connections': 'setInterval(() => {}, 1000)\n',
    'exit code 3': 'process.exit(3)\n',
  }
  for (const [why, server] of Object.entries(bad)) {
    // What answers a caller would be taken; without a path there is only the queue of the socket to look at.
    const toml = projectText(world.port, world.url).replace('node server.js', COMMAND)
    const quick = toml.replace('timeout = "20s"', 'timeout = "2s"\nsettle = "500ms"')
    world.write({
      'server.js': server,
      'tarmac.toml': why.includes('accept') ? quick.replace('path = "/"\n', '') : quick,
    })
    const failed = await world.tarmac('push')
    assert.equal(failed.exit, 6, failed.stderr)
    assert.ok(failed.stderr.includes(why), failed.stderr)
    assert.equal(await world.get(), '2')
    const { probe, gapMs, result } = await lastDeploy(world)
    assert.deepEqual([result, gapMs, probe?.failed ?? 0], ['failed', 0, 0], why)
  }
})

test('a push that allows no gap goes back when its switch had one, and says how long it was', async (t) => {
  const world = await makeWorld(t)
  world.write({ 'tarmac.toml': restarting(projectText(world.port, world.url)) })
  assert.equal((await world.tarmac('push')).exit, 0)
  world.version('2')
  const { exit, stderr, stdout } = await world.tarmac('push', '--max-gap', '0')
  assert.equal(exit, 7, stderr)
  assert.match(stderr, /in gap: its switch had a gap of \d+ ms, and 0 ms were allowed/)
  assert.match(stdout, /serves again/)
  assert.equal(await world.get(), '1')
  const { gapMs, probe } = await lastDeploy(world)
  assert.ok(gapMs > 0 && probe.failed > 0 && probe.failed <= probe.sent, JSON.stringify({ gapMs, probe }))
  assert.equal((await world.tarmac('push', '--max-gap', '10m')).exit, 0)
  const status = JSON.parse((await world.tarmac('status', '--json')).stdout).hosts[0].apps[0]
  assert.ok(status.lastSwitch.gapMs > 0)
  assert.match((await world.tarmac('status')).stderr, /shop was last switched .* ago, gap \d/)
  assert.equal((await world.tarmac('push', '--max-gap', 'soon')).exit, 2)
})

test('a worker that may overlap starts beside the old one; one that says nothing starts after it', async (t) => {
  const world = await makeWorld(t)
  const worker = `const fs = require('node:fs')
fs.appendFileSync('log/seen', 'start ' + process.pid + '\\n')
process.on('SIGTERM', () => { fs.appendFileSync('log/seen', 'end ' + process.pid + '\\n'); process.exit(0) })
setInterval(() => {}, 1000)\n`
  const toml = (overlap: string) => `app = "shop"\nshared = ["log"]
[services.worker]
command = "node worker.js"
${overlap}
[services.worker.health]
settle = "300ms"
[environments.test]
hosts = ["${world.url}"]\n`
  const order = async (overlap: string) => {
    world.write({ 'tarmac.toml': toml(overlap), 'worker.js': worker, 'server.js': String(Math.random()) })
    const before = seen(world).length
    const { exit, stderr } = await world.tarmac('push')
    assert.equal(exit, 0, stderr)
    return seen(world)
      .slice(before)
      .map((line) => line.split(' ')[0])
  }
  assert.deepEqual(await order(''), ['start'])
  assert.deepEqual(await order(''), ['end', 'start'])
  assert.deepEqual(await order('overlap = true'), ['start', 'end'])
  world.write({ 'tarmac.toml': `${toml('').replace('command', 'port = 9\noverlap = true\ncommand')}` })
  const refused = await world.tarmac('push')
  assert.equal(refused.exit, 2)
  assert.match(refused.stderr, /services\.worker: overlap: it has a port/)
})

function seen(world: World): string[] {
  const file = `${world.root}/apps/shop/shared/log/seen`
  return existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n') : []
}
