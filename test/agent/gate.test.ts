import assert from 'node:assert/strict'
import { createServer as createHttp } from 'node:http'
import { type AddressInfo, createServer, type Server } from 'node:net'
import { type TestContext, test } from 'node:test'
import { awaitHealthy, NotHealthy } from '../../agent/deploy/gate.ts'
import type { InitSystem, UnitFacts, UnitKey } from '../../agent/init/init-system.ts'
import { parseAppName, parseServiceName } from '../../shared/names.ts'
import type { ServiceSpec } from '../../shared/service-spec.ts'

// The gate asks init one thing only, what it says of a unit: the answers are written down here, the sockets are real.

const unit: UnitKey = { app: parseAppName('shop'), service: parseServiceName('web'), slot: 'a' }
const running: UnitFacts = {
  state: 'running',
  pid: 1,
  since: '2026-11-22T23:38:51.000Z',
  respawns: 0,
  lastExit: undefined,
  memoryBytes: undefined,
}

/** Says each of these in turn, and the last one from then on. */
function initSaying(...facts: UnitFacts[]): { init: InitSystem; asked: () => number } {
  let asked = 0
  const init = { facts: async () => facts[Math.min(asked++, facts.length - 1)] } as unknown as InitSystem
  return { init, asked: () => asked }
}

function specOf(health: Partial<ServiceSpec['health']>, port?: number): ServiceSpec {
  return {
    command: { exec: ['x'] },
    ...(port === undefined ? {} : { port }),
    health: { intervalMs: 50, timeoutMs: 1000, settleMs: 200, ...health },
    restart: { attempts: 3, withinMs: 20_000, delayMs: 0 },
    stopTimeoutMs: 1000,
  }
}

async function listening(t: TestContext, server: Server, host = '127.0.0.1'): Promise<number> {
  t.after(() => server.close())
  await new Promise<void>((resolve) => void server.listen(0, host, resolve))
  return (server.address() as AddressInfo).port
}

async function refusal(init: InitSystem, spec: ServiceSpec): Promise<string> {
  const error = await awaitHealthy(init, unit, spec).catch((reason: unknown) => reason)
  assert.ok(error instanceof NotHealthy, String(error))
  assert.equal(error.unit, unit)
  return error.message
}

test('a service with a path is healthy at its first 2xx, or at the one status it names', async (t) => {
  let status = 503
  const port = await listening(
    t,
    createHttp((request, response) => {
      response.statusCode = request.url === '/ready?now=1' ? status : 404
      response.end()
    }),
  )
  const { init } = initSaying(running)
  setTimeout(() => {
    status = 204
  }, 200)
  const began = Date.now()
  await awaitHealthy(init, unit, specOf({ path: '/ready?now=1', settleMs: 10_000 }, port))
  assert.ok(Date.now() - began >= 190 && Date.now() - began < 900)
  await awaitHealthy(init, unit, specOf({ path: '/nowhere', status: 404 }, port))
  assert.match(
    await refusal(init, specOf({ path: '/nowhere' }, port)),
    /not healthy within 1 s: GET \/nowhere answered 404, not 2xx/,
  )
})

test('an app that listens on ::1 only is healthy too', async (t) => {
  const server = createHttp((_request, response) => response.end())
  const port = await listening(t, server, '::1').catch(() => undefined)
  if (port === undefined) return t.skip('no IPv6 here')
  await awaitHealthy(initSaying(running).init, unit, specOf({ path: '/' }, port))
})

test('without a path it must stay up, as one process, with its port open', async (t) => {
  const port = await listening(t, createServer())
  const again = { ...running, since: '2026-11-22T23:38:52.000Z', respawns: 1 }
  const { init, asked } = initSaying(running, running, { ...running, state: 'respawning' }, again)
  const began = Date.now()
  await awaitHealthy(init, unit, specOf({}, port))
  assert.ok(Date.now() - began >= 255, 'the second process had to stay up from its own start')
  assert.ok(asked() >= 6)
  const gone = specOf({ timeoutMs: 1000 }, 1)
  assert.match(
    await refusal(initSaying(running).init, gone),
    /nothing listens on port 1; does it listen on the port in PORT\?/,
  )
})

test('a unit that gave up, failed or went away is refused at once, not at the deadline', async () => {
  const spec = specOf({ timeoutMs: 30_000 })
  const began = Date.now()
  const gaveUp: UnitFacts = { ...running, state: 'gave-up', respawns: 3 }
  assert.equal(await refusal(initSaying(running, gaveUp).init, spec), 'gave up after 3 starts within 20 s')
  for (const state of ['failed', 'stopped', 'absent'] as const)
    assert.equal(await refusal(initSaying({ ...running, state }).init, spec), `is ${state}`)
  assert.ok(Date.now() - began < 2000)
})

test('an answer that never comes, or comes byte by byte, ends with the deadline', async (t) => {
  const silent = createServer(() => {})
  const slow = createServer((socket) => {
    const drip = setInterval(() => socket.write('H'), 100)
    socket.on('error', () => {}).once('close', () => clearInterval(drip))
    socket.write('HTTP/1.1 200 OK\r\nx: ')
  })
  for (const server of [silent, slow]) {
    const port = await listening(t, server)
    const began = Date.now()
    const why = await refusal(initSaying(running).init, specOf({ path: '/' }, port))
    assert.match(why, /not healthy within 1 s: GET \/: no answer within [01]\.\d s/)
    assert.ok(Date.now() - began < 2500)
  }
})
