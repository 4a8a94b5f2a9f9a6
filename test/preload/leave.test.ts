import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect as connectHttp2 } from 'node:http2'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { layoutAt } from '../../agent/state/layout.ts'
import { makeTls } from '../../agent/state/tls.ts'
import { type App, control, get, openPort, openPrivate, startApp, until } from '../helpers/inherit.ts'

// What SIGTERM does. TARMAC_LINGER_MS makes the six seconds short; one test has them whole.

const LINGER_MS = 600

test('a request of 2 s in flight is answered after SIGTERM, and a second SIGTERM changes nothing', async (t) => {
  const { app, port } = await running(t, { argv: ['web.cjs'] })
  const slow = get({ port, host: '127.0.0.1' }, '/slow?ms=2000')
  await sleep(100)
  app.kill('SIGTERM')
  await sleep(300)
  app.kill('SIGTERM')
  assert.equal(await slow, 'slow\n')
  assert.equal((await app.ended).code, 0)
})

test('with no connection the end comes at once', async (t) => {
  const { app } = await running(t, { argv: ['web.cjs'] })
  const begun = performance.now()
  app.kill('SIGTERM')
  assert.equal((await app.ended).code, 0)
  assert.ok(performance.now() - begun < 500)
})

test('an idle connection is left open, its next request is answered and is the last', async (t) => {
  const { app, port } = await running(t, { argv: ['web.cjs'] })
  const socket = await opened(t, port)
  assert.match(await ask(socket, '/'), /Connection: keep-alive/)
  app.kill('SIGTERM')
  await sleep(200)
  assert.equal(socket.readyState, 'open')
  const answer = await ask(socket, '/')
  assert.match(answer, /^HTTP\/1.1 200 OK\r\n/)
  assert.match(answer, /\r\nConnection: close\r\n/)
  assert.equal((await app.ended).code, 0)
})

test('a Connection header of the app’s own does not keep the connection', async (t) => {
  const { app, port } = await running(t, { argv: ['web.cjs'] })
  const socket = await opened(t, port)
  assert.match(await ask(socket, '/keep'), /Connection: keep-alive/)
  app.kill('SIGTERM')
  await sleep(50)
  assert.match(await ask(socket, '/keep'), /Connection: close/)
  assert.equal((await app.ended).code, 0)
})

test('idle connections are closed only when they have lingered: 6 s', async (t) => {
  const { app, port } = await running(t, { argv: ['web.cjs'], env: {} })
  const socket = await opened(t, port)
  const begun = performance.now()
  app.kill('SIGTERM')
  await once(socket, 'close')
  assert.equal((await app.ended).code, 0)
  const ms = performance.now() - begun
  assert.ok(ms > 5900 && ms < 7000, `${ms} ms`)
})

test('WebSockets live on until the connections have lingered, event streams too', async (t) => {
  const { app, port } = await running(t, { argv: ['web.cjs'] })
  const socket = await opened(t, port)
  socket.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n')
  await once(socket, 'data')
  const events = await opened(t, port)
  assert.match(await ask(events, '/events'), /data: first/)
  const begun = performance.now()
  app.kill('SIGTERM')
  await sleep(100)
  socket.write('still here')
  assert.equal(String((await once(socket, 'data'))[0]), 'still here')
  await Promise.all([once(socket, 'close'), once(events, 'close')])
  assert.ok(performance.now() - begun >= LINGER_MS - 50)
  assert.equal((await app.ended).code, 0)
})

test('the app’s own SIGTERM handler runs when all is answered; its close has no error, its exit code stands', async (t) => {
  const { app, port } = await running(t, { argv: ['own-handler.mjs'] })
  const socket = await opened(t, port)
  await ask(socket, '/')
  app.kill('SIGTERM')
  await sleep(200)
  assert.doesNotMatch(app.output(), /app handler/)
  await ask(socket, '/')
  const { code, output } = await app.ended
  assert.match(output, /app handler\nclosed well\n$/)
  assert.equal(code, 7)
})

test('a handler that ends the process only when it is the last one, as signal-exit has it, finds that it is', async (t) => {
  const { app } = await running(t, { argv: ['last-listener.cjs'] })
  app.kill('SIGTERM')
  assert.deepEqual(await app.ended, { code: null, signal: 'SIGTERM', output: 'listens\n' })
})

test('SIGTERM also ends an app that is held, or does not listen yet', async (t) => {
  for (const env of [{ TARMAC_HOLD: '1' }, { TARMAC_HOLD: '1', BOOT_MS: '60000' }]) {
    const slot = openPrivate(t)
    const app = startApp(t, { argv: ['web.cjs'], descriptors: [openPort(t), ...slot.descriptors], env })
    await control(slot.control, 'status')
    app.kill('SIGTERM')
    assert.deepEqual((await app.ended).code, 0)
  }
})

test('HTTP/2 clients are told, their open streams answered, plain and over TLS', async (t) => {
  const root = mkdtempSync(join(tmpdir(), 'tarmac-h2-'))
  t.after(() => rmSync(root, { recursive: true, force: true }))
  const { tlsKeyFile, tlsCertFile } = layoutAt(root, join(root, 'etc'))
  const { cert } = await makeTls(layoutAt(root, join(root, 'etc')))
  for (const tls of [false, true]) {
    const env = tls ? { KEY_FILE: tlsKeyFile, CERT_FILE: tlsCertFile } : {}
    const { app, port } = await running(t, { argv: ['http2.cjs'], env: { TARMAC_LINGER_MS: '60000', ...env } })
    const session = connectHttp2(`${tls ? 'https' : 'http'}://127.0.0.1:${port}`, {
      ca: cert,
      checkServerIdentity: () => undefined,
    })
    const stream = session.request({ ':path': '/?ms=600' }).setEncoding('utf8')
    const told = once(session, 'goaway')
    await sleep(200)
    app.kill('SIGTERM')
    const [code, lastStream] = await told
    assert.deepEqual([code, lastStream], [0, 2 ** 31 - 1])
    let body = ''
    for await (const part of stream) body += part
    assert.equal(body, 'two\n')
    assert.equal((await app.ended).code, 0)
  }
})

test('workers of a cluster answer from the inherited socket, drain, and are gone before their primary', async (t) => {
  const port = openPort(t)
  const slot = openPrivate(t)
  const env = { TARMAC_HOLD: '1' }
  const app = startApp(t, { argv: ['cluster.cjs'], descriptors: [port, ...slot.descriptors], env })
  await app.said(/listens \d+\n.*listens \d+/s)
  assert.equal(await get({ socketPath: slot.probe }), 'worker\n')
  assert.deepEqual(await control(slot.control, 'activate'), ['ok'])
  const workers = [...app.output().matchAll(/listens (\d+)/g)].map(([, pid]) => Number(pid))
  const found = JSON.parse(await get({ port: port.port, host: '127.0.0.1' }, '/env'))
  assert.deepEqual(
    Object.keys(found).filter((name) => /^LISTEN|^TARMAC|^NODE_OPTIONS$/.test(name)),
    [],
  )
  const socket = await opened(t, port.port)
  await ask(socket, '/')
  app.kill('SIGTERM')
  await sleep(300)
  assert.match(await ask(socket, '/'), /Connection: close/)
  const { code, output } = await app.ended
  assert.deepEqual([code, output.split('\n').length], [0, 3], 'nobody was forked in their place')
  for (const pid of workers) assert.throws(() => process.kill(pid, 0), { code: 'ESRCH' })
})

test('a cluster whose only worker crashes serves again with the next one', async (t) => {
  const port = openPort(t)
  const app = startApp(t, { argv: ['cluster.cjs'], descriptors: [port], env: { WORKERS: '1' } })
  for (let crash = 1; crash <= 3; crash++) {
    const times = (word: string) => app.output().split(word).length - 1
    await until(`start ${crash}`, () => (times('listens') === crash ? true : undefined))
    await assert.rejects(get({ port: port.port, host: '127.0.0.1' }, '/crash'))
    await until(`crash ${crash}`, () => (times('forks') === crash ? true : undefined)) // now nobody listens
    assert.equal(await get({ port: port.port, host: '127.0.0.1' }), 'worker\n')
  }
})

async function running(
  t: TestContext,
  { argv, env = { TARMAC_LINGER_MS: String(LINGER_MS) } }: { argv: string[]; env?: Record<string, string> },
): Promise<{ app: App; port: number }> {
  const port = openPort(t)
  const app = startApp(t, { argv, descriptors: [port, ...openPrivate(t).descriptors], env })
  await app.said(/listens/)
  return { app, port: port.port }
}

async function opened(t: TestContext, port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  t.after(() => socket.destroy())
  socket.on('error', () => {})
  await once(socket, 'connect')
  return socket
}

/** One request on a connection that is kept; gives the first packet of the answer. */
async function ask(socket: Socket, path: string): Promise<string> {
  socket.write(`GET ${path} HTTP/1.1\r\nHost: app\r\n\r\n`)
  const [data] = await once(socket, 'data')
  return String(data)
}
