import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { control, get, openPort, openPrivate, startApp, until } from '../helpers/inherit.ts'

test('listen in every form is served from the inherited socket, and on the probe', async (t) => {
  const forms = [
    'port',
    'port and host',
    'port, host and backlog',
    'a string',
    'options',
    'options with a name',
    'an event',
    'a plain server',
    'after asking whether the port is free',
    'an aborted one first',
  ]
  for (const form of forms) {
    const port = openPort(t)
    const slot = openPrivate(t)
    const app = startApp(t, { argv: ['forms.cjs', form], descriptors: [...slot.descriptors, port] })
    await app.said(/^listens$/m)
    assert.equal(await get({ port: port.port, host: '127.0.0.1' }), `${form}\n`)
    assert.equal(await get({ socketPath: slot.probe }), `${form}\n`)
    app.kill('SIGTERM')
    assert.deepEqual(await app.ended, { code: 0, signal: null, output: 'listens\n' })
  }
})

test('address, events and close are those of the public port; other ports and paths are the app’s own', async (t) => {
  const port = openPort(t)
  const dir = mkdtempSync(join(tmpdir(), 'tarmac-unix-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  const unix = join(dir, 'app.sock')
  const env = { UNIX_PATH: unix, PUBLIC_HOST: '127.0.0.1' }
  const app = startApp(t, { argv: ['servers.cjs'], descriptors: [port, ...openPrivate(t).descriptors], env })
  await app.said(/"taken"/)
  const said = () =>
    Object.fromEntries(
      app
        .output()
        .split('\n')
        .filter((line) => line.startsWith('{'))
        .map((line) => JSON.parse(line))
        .map(({ what, value }) => [what, value]),
    )
  assert.deepEqual(said().address, { address: '127.0.0.1', family: 'IPv4', port: port.port })
  assert.deepEqual(said().second, { address: '::1', family: 'IPv6', port: port.port }, 'as fastify has on localhost')
  assert.equal(said()['second closed'], 'well')
  assert.equal(said().unix, unix)
  assert.equal(said().taken, 'EADDRINUSE')
  assert.equal(await get({ port: said().other.port, host: '127.0.0.1' }), 'other\n')
  for (let asked = 0; asked < 5; asked++) assert.equal(await get({ port: port.port, host: '127.0.0.1' }), 'first\n')

  app.stdin.write('close\n')
  const { code, output } = await app.ended
  assert.equal(code, 0, 'nothing of ours keeps a process alive that has closed its servers')
  assert.deepEqual(said()['after close'], { listening: false, address: null })
  assert.equal(said()['close event'], false)
  assert.equal(said().closed, 'well')
  assert.equal(said().again, 'EADDRINUSE')
  assert.match(output, /^tarmac: port \d+ was closed by the app: its inherited socket cannot be opened a second time$/m)
})

test('several sockets of one port are all served, by the same server', async (t) => {
  const port = openPort(t)
  const other = openPort(t, '::1', port.port)
  const app = startApp(t, { argv: ['web.cjs'], descriptors: [port, other] })
  await app.said(/listens/)
  assert.equal(await get({ port: port.port, host: '127.0.0.1' }), 'web\n')
  assert.equal(await get({ port: port.port, host: '::1' }), 'web\n')
})

test('a held app answers its probe, and nobody else until it is activated', async (t) => {
  const { app, port, slot } = await heldApp(t)
  const early = get({ port: port.port, host: '127.0.0.1' })
  const raced = await Promise.race([early, get({ socketPath: slot.probe }, '/slow?ms=300')])
  assert.equal(raced, 'slow\n', 'the probe was answered, the public waits')
  assert.equal(await get({ socketPath: slot.probe }, '/count'), '1\n', 'it counts its own connections only')
  assert.deepEqual(await control(slot.control, 'activate'), ['ok'])
  assert.equal(await early, 'web\n', 'who came early has waited, and is answered')
  app.kill('SIGTERM')
  assert.equal((await app.ended).code, 0)
})

test('activate before the app listens opens it as soon as it does', async (t) => {
  const port = openPort(t)
  const slot = openPrivate(t)
  const early = control(slot.control, 'status', 'activate', 'status') // before there is a process at all
  const env = { TARMAC_HOLD: '1', BOOT_MS: '300' }
  const app = startApp(t, { argv: ['web.cjs'], descriptors: [port, ...slot.descriptors], env })
  const [before, ok, after] = await early
  assert.deepEqual(JSON.parse(before ?? ''), { ...idle, pid: app.pid, held: true, listening: false })
  assert.equal(ok, 'ok')
  assert.deepEqual(JSON.parse(after ?? ''), { ...idle, pid: app.pid, listening: false })
  assert.equal(await get({ port: port.port, host: '127.0.0.1' }), 'web\n')
})

test('control answers status, unknown words and lines in pieces, and outlives those who hang up', async (t) => {
  const { app, slot } = await heldApp(t)
  assert.deepEqual(await control(slot.control, 'what', ''), ['unknown', 'unknown'])
  const slow = get({ socketPath: slot.probe }, '/slow?ms=400')
  const status = await until('a request in flight', async () => {
    const [line] = await control(slot.control, 'status')
    const found = JSON.parse(line ?? '')
    return found.requests === 1 ? found : undefined
  })
  assert.deepEqual(status, { ...idle, pid: app.pid, held: true, connections: 1, requests: 1 })
  await slow

  const rude = connect(slot.control)
  rude.write('x'.repeat(1000))
  await new Promise((resolve) => rude.on('error', () => {}).on('close', resolve))
  const pieces = connect(slot.control).setEncoding('utf8')
  for (const piece of ['sta', 'tus\nwh', 'at\r\n']) {
    pieces.write(piece)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  let text = ''
  for await (const part of pieces) {
    text += part
    if (text.split('\n').length > 2) break
  }
  assert.match(text, /^\{"pid":\d+.*\}\nunknown\n$/)
})

test('drain by control leaves the process alive, closed to all, and says when it is done', async (t) => {
  const { app, port, slot } = await heldApp(t)
  assert.deepEqual(await control(slot.control, 'activate'), ['ok'])
  const slow = get({ port: port.port, host: '127.0.0.1' }, '/slow?ms=300')
  await until('a request in flight', async () => {
    const [line] = await control(slot.control, 'status')
    return JSON.parse(line ?? '').requests === 1 ? true : undefined
  })
  const drained = control(slot.control, 'drain')
  assert.equal(await Promise.race([drained, slow]), 'slow\n')
  assert.deepEqual(await drained, ['drained'])
  const [status, ...rest] = await control(slot.control, 'status', 'drain', 'activate')
  assert.deepEqual(JSON.parse(status ?? ''), { ...idle, pid: app.pid, draining: true })
  assert.deepEqual(rest.sort(), ['drained', 'draining'])
  app.kill('SIGTERM')
  assert.deepEqual((await app.ended).code, 0)
})

const idle = { held: false, draining: false, listening: true, connections: 0, requests: 0 }

async function heldApp(t: TestContext) {
  const port = openPort(t)
  const slot = openPrivate(t)
  const env = { TARMAC_HOLD: '1' }
  const app = startApp(t, { argv: ['web.cjs'], descriptors: [port, ...slot.descriptors], env })
  await app.said(/listens/)
  return { app, port, slot }
}
