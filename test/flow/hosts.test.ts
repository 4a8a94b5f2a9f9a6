import assert from 'node:assert/strict'
import { appendFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { makeWorld, type World } from '../helpers/world.ts'

// One project, two hosts, both on this machine: a service without a port, since both would want the same one.

async function makeTwo(t: TestContext): Promise<{ near: World; far: World }> {
  const near = await makeWorld(t)
  const far = await makeWorld(t, { trusted: false })
  await far.agentCommand('signers', 'add', 'ann', near.publicKey)
  await far.startAgent()
  appendFileSync(join(near.dir, 'home/.config/tarmac/known_agents'), `${far.url} ${far.pin}\n`)
  near.write({ 'tarmac.toml': toml([near.url, far.url]), 'worker.js': worker('1') })
  return { near, far }
}

const worker = (version: string) => `console.log('${version}'); setInterval(() => {}, 1000)\n`

const toml = (hosts: string[]) => `app = "jobs"
[services.worker]
command = "node worker.js"
[services.worker.health]
settle = "300ms"
interval = "50ms"
[restart]
attempts = 2
within = "20s"
delay = "50ms"
[environments.test]
hosts = ${JSON.stringify(hosts)}
`

const lastOf = (stdout: string) => JSON.parse(stdout.trim().split('\n').at(-1) ?? '')

test('hosts are changed one after the other, with a line for each', async (t) => {
  const { near, far } = await makeTwo(t)
  const { exit, stdout, stderr } = await near.tarmac('push')
  assert.equal(exit, 0, stderr)
  const lines = stdout.trim().split('\n')
  assert.deepEqual(
    lines.map((line) => line.split('  ')[0]),
    [near.url, far.url].map((url) => url.slice('https://'.length)),
  )
  for (const line of lines) assert.match(line, /jobs runs \d{8}T\d{6}Z-/)
  assert.ok(stderr.indexOf(`to ${far.url.slice(8)}`) > stderr.indexOf('switched'), 'the second began after the first')

  const { hosts } = JSON.parse((await near.tarmac('status', '--json')).stdout)
  const [first, second] = hosts.map((host: { apps: { running: string }[] }) => host.apps[0]?.running)
  assert.equal(first, second, 'the same release has the same name everywhere')
})

test('a release that fails on the first host never reaches the second', async (t) => {
  const { near } = await makeTwo(t)
  assert.equal((await near.tarmac('push')).exit, 0)
  near.write({ 'worker.js': 'process.exit(1)\n' })
  const { exit, stdout, stderr } = await near.tarmac('push')
  assert.equal(exit, 7, 'it has a worker, which was stopped')
  assert.equal(stdout.trim().split('\n').length, 1)
  assert.match(stderr, /not tried after that: 127\.0\.0\.1:\d+/)
  const { hosts } = JSON.parse((await near.tarmac('deploys', '--json')).stdout)
  assert.deepEqual(
    hosts.map((host: { deploys: unknown[] }) => host.deploys.length),
    [2, 1],
  )
})

test('when the hosts no longer run the same the exit is 9; the next push and a rollback settle it', async (t) => {
  const { near, far } = await makeTwo(t)
  await near.tarmac('push')
  await far.stopAgent()
  near.write({ 'worker.js': worker('2') })
  const half = await near.tarmac('push', '--json')
  assert.equal(half.exit, 9)
  const summary = lastOf(half.stdout)
  assert.deepEqual(
    [summary.exit, summary.hosts.map(({ exit }: { exit: number }) => exit), summary.hosts[1].code],
    [9, [0, 4], 'agent_unreachable'],
  )
  const said = await near.tarmac('push')
  assert.equal(said.exit, 9)
  assert.match(said.stdout, /already running[\s\S]*failed: connect/)

  await far.startAgent()
  assert.equal((await near.tarmac('push')).exit, 0)
  assert.equal((await near.tarmac('rollback')).exit, 0)
  assert.equal((await near.tarmac('status', '--check')).exit, 0)
})

test('a project with several environments must be told which one to change', async (t) => {
  const { near, far } = await makeTwo(t)
  near.write({
    'tarmac.toml': `${toml([near.url])}[environments.far]\nhosts = ["${far.url}"]\n`,
  })
  const unnamed = await near.tarmac('push')
  assert.deepEqual([unnamed.exit, /name it: -e test/.test(unnamed.stderr)], [2, true])
  assert.equal((await near.tarmac('push', '-e', 'nowhere')).exit, 2)
  assert.equal((await near.tarmac('push', '-e', 'far')).exit, 0)
  const { hosts } = JSON.parse((await near.tarmac('status', '--json')).stdout)
  assert.deepEqual(
    hosts.map((host: { apps: unknown[] }) => host.apps.length),
    [0, 1],
  )
})
