import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync, readlinkSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import type { KnownAnswer } from '../../shared/wire.ts'
import { rawRequest } from '../helpers/raw-client.ts'
import { makeHandKey, tempDir } from '../helpers/ssh.ts'
import { makeWorld, projectText, restarting } from '../helpers/world.ts'

test('a first push serves, a second of the same tree changes nothing, and --force makes a new release', async (t) => {
  const world = await makeWorld(t)
  assert.equal(await world.get(), undefined)
  const first = await world.tarmac('push', '--json')
  assert.equal(first.exit, 0, first.stderr)
  assert.equal(await world.get(), '1')
  const current = () => readlinkSync(join(world.root, 'apps/shop/current'))
  const before = current()
  const again = await world.tarmac('push')
  assert.equal(again.exit, 0)
  assert.match(again.stdout, /already running/)
  assert.equal(current(), before)
  await new Promise((resolve) => setTimeout(resolve, 1000))
  const forced = await world.tarmac('push', '--force', '--json')
  const summary = JSON.parse(forced.stdout.trim().split('\n').at(-1) ?? '')
  assert.deepEqual([summary.exit, summary.objectsSent], [0, 0])
  assert.notEqual(current(), before)
})

test('of two first pushes at once one is refused, at its question or while it sends, and the other serves', async (t) => {
  const world = await makeWorld(t)
  const key = makeHandKey('ssh-ed25519')
  assert.equal((await world.agentCommand('signers', 'add', 'eve', key.publicLine)).exit, 0)
  const known = async () => {
    const { body } = await rawRequest(world, key, {
      method: 'POST',
      target: '/v1/apps/shop/known',
      body: Buffer.from('{}'),
    })
    return JSON.parse(body) as KnownAnswer
  }
  const { empty, roomBytes } = await known()
  assert.ok(empty && roomBytes > 2 ** 30, 'all of it is to be sent, and there is room')
  for (let n = 0; n < 8; n++) writeFileSync(join(world.project, `big${n}`), randomBytes(4 * 1024 * 1024))
  const ends = await Promise.all([world.tarmac('push'), world.tarmac('push')])
  assert.deepEqual(ends.map(({ exit }) => exit).sort(), [0, 5], ends.map(({ stderr }) => stderr).join('\n'))
  assert.match(ends.find(({ exit }) => exit === 5)?.stderr ?? '', /busy with a push/)
  assert.equal(await world.get(), '1')
  assert.deepEqual(readdirSync(join(world.root, 'apps/shop/staging')), [])
  assert.equal((await known()).empty, false)
})

test('a push with five changed files sends five objects', async (t) => {
  const world = await makeWorld(t)
  const names = Array.from({ length: 40 }, (_, index) => `lib/file-${index}.txt`)
  world.write(Object.fromEntries(names.map((name) => [name, `${name} as it was`])))
  assert.equal((await world.tarmac('push')).exit, 0)
  world.write(Object.fromEntries(names.slice(0, 5).map((name) => [name, `${name} changed`])))
  const { exit, stdout } = await world.tarmac('push', '--json')
  const summary = JSON.parse(stdout.trim().split('\n').at(-1) ?? '')
  assert.equal(exit, 0)
  assert.equal(summary.objectsSent, 5)
  assert.equal(summary.objectsReused, 36)
})

test('what runs already is not signed, and of what changed only the difference is sent, or all of it where there is none', async (t) => {
  const bin = tempDir(t)
  const signed = join(bin, 'signed')
  const spy = `#!/bin/sh\necho "$@" >> '${signed}'\nPATH='${process.env.PATH}' exec ssh-keygen "$@"\n`
  writeFileSync(join(bin, 'ssh-keygen'), spy, { mode: 0o755 })
  const world = await makeWorld(t, { environment: { PATH: `${bin}:${process.env.PATH}` } })
  const names = Array.from({ length: 400 }, (_, index) => `lib/file-${index}.txt`)
  world.write(Object.fromEntries(names.map((name) => [name, name])))
  const pushed = async () => {
    rmSync(signed, { force: true })
    const { exit, stdout, stderr } = await world.tarmac('push', '--json')
    assert.equal(exit, 0, stderr)
    const summary = JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as Record<'bytesSent' | 'objectsSent', number>
    return { ...summary, signatures: readFileSync(signed, 'utf8').match(/(?<=-n )\S+/g) }
  }
  const first = await pushed()
  assert.ok(first.bytesSent > 15_000, `${first.bytesSent} bytes`)
  assert.deepEqual((await pushed()).signatures, ['tarmac-session'])

  world.write({ 'lib/file-7.txt': 'changed' })
  const second = await pushed()
  assert.deepEqual([second.objectsSent, second.signatures], [1, ['tarmac-session', 'tarmac-release']])
  assert.ok(second.bytesSent < 1_500, `${second.bytesSent} bytes`)

  const cache = join(world.dir, 'home/.cache/tarmac')
  const [kept = ''] = readdirSync(cache).filter((name) => name.startsWith('release-'))
  assert.equal(statSync(join(cache, kept)).mode & 0o777, 0o600)
  writeFileSync(join(cache, kept), 'what no host has')
  world.write({ 'lib/file-8.txt': 'changed too' })
  const third = await pushed()
  assert.equal(third.objectsSent, 1)
  assert.ok(third.bytesSent > 15_000, `${third.bytesSent} bytes`)
})

test('a release that dies at its start beside the old one is given up, and the push exits 6: the old one serves on', async (t) => {
  const world = await makeWorld(t)
  await world.tarmac('push')
  world.version('2', { broken: 3 })
  const { exit, stdout, stderr } = await world.tarmac('push')
  assert.equal(exit, 6, stderr)
  assert.match(stdout, /serves on/)
  assert.match(stderr, /0 of \d+ probes failed/)
  assert.equal(await world.get(), '1')
})

test('with switch = "restart" it exits 7, and the one before answers again', async (t) => {
  const world = await makeWorld(t)
  world.write({ 'tarmac.toml': restarting(projectText(world.port, world.url)) })
  await world.tarmac('push')
  assert.equal(await world.get(), '1')
  const before = readlinkSync(join(world.root, 'apps/shop/current'))
  world.version('2', { broken: 3 })
  const { exit, stdout } = await world.tarmac('push', '--json')
  assert.equal(exit, 7)
  const lines = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  const failed = lines.find(({ step }) => step === 'failed')
  assert.equal(failed.code, 'deploy_rolled_back')
  assert.equal(failed.receipt.exit.code, 3)
  assert.ok(failed.receipt.output.includes('version 2 is broken'))
  assert.equal(`releases/${failed.receipt.running}`, before)
  assert.equal(await world.get(), '1')
  assert.equal(readlinkSync(join(world.root, 'apps/shop/current')), before)
  world.version('3')
  assert.equal((await world.tarmac('push')).exit, 0)
  assert.equal(await world.get(), '3')
})

test('a first release that dies at its start exits 8, and says that nothing serves', async (t) => {
  const world = await makeWorld(t)
  world.version('1', { broken: 1 })
  const { exit, stderr } = await world.tarmac('push')
  assert.equal(exit, 8)
  assert.match(stderr, /runs now {4}nothing/)
  assert.equal((await world.tarmac('status', '--check')).exit, 10)
})

test('a client that hangs up in the middle does not stop the deploy', async (t) => {
  const world = await makeWorld(t)
  await world.tarmac('push')
  world.version('2')
  const push = world.tarmacBegin('push', '--json')
  for (;;) {
    if (world.agentLog().split('"change begins"').length > 2) break
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  push.kill('SIGKILL')
  await push.ended
  // While a switch is under way both releases may answer: only the ledger says that it is over.
  const results = async (): Promise<string[]> => {
    const { stdout } = await world.tarmac('deploys', '--json')
    return JSON.parse(stdout).hosts[0].deploys.map(({ result }: { result: string }) => result)
  }
  for (let tries = 0; tries < 100 && (await results()).join() !== 'done,done'; tries++)
    await new Promise((resolve) => setTimeout(resolve, 100))
  assert.deepEqual([await results(), await world.get()], [['done', 'done'], '2'])
  assert.deepEqual(readdirSync(join(world.root, 'apps/shop/staging')), [])
})
