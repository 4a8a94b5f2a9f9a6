import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { layoutAt } from '../../agent/state/layout.ts'
import { makeTls } from '../../agent/state/tls.ts'
import { withPackages } from '../helpers/express-app.ts'
import { type App, control, openPort, openPrivate, startApp, until } from '../helpers/inherit.ts'
import { startLoad } from '../helpers/load.ts'

// Two processes on one socket, and traffic that moves between them while it flows: not one request may be lost.

const SWITCHES = 20
const FIXTURES = join(import.meta.dirname, '../fixtures')

interface Trial {
  argv: string[]
  env?: Record<string, string>
  tls?: boolean
}

test('20 switches under load lose not one request: http, CommonJS, no handler of its own', async (t) => {
  await switchUnderLoad(t, { argv: ['web.cjs'] })
})

test('20 switches under load lose not one request: http, ESM, its own SIGTERM handler', async (t) => {
  await switchUnderLoad(t, { argv: ['own-handler.mjs'] })
})

test('20 switches under load lose not one request: https', async (t) => {
  await switchUnderLoad(t, { argv: ['tls.cjs'], env: await keyPair(t), tls: true })
})

test('20 switches under load lose not one request: express', async (t) => {
  const dir = await withPackages(t, join(FIXTURES, 'express-app'))
  await switchUnderLoad(t, { argv: [join(dir, 'server.js')] })
})

test('20 switches under load lose not one request: fastify, on two addresses of localhost', async (t) => {
  const dir = await withPackages(t, join(FIXTURES, 'preload-apps/fastify'))
  await switchUnderLoad(t, { argv: [join(dir, 'server.mjs')] })
})

test('20 switches under load lose not one request: a cluster', async (t) => {
  await switchUnderLoad(t, { argv: ['cluster.cjs'] })
})

/** Start held → gate by its probe → activate → SIGTERM the old one, over and over, as a deploy does it. */
async function switchUnderLoad(t: TestContext, { argv, env, tls = false }: Trial): Promise<void> {
  const port = openPort(t)
  const slots = [openPrivate(t), openPrivate(t)]
  const startHeld = (release: number) => {
    const slot = slots[release % 2]
    assert.ok(slot)
    const descriptors = [port, ...slot.descriptors]
    const ours = { RELEASE: `release ${release}`, TARMAC_RELEASE: `release ${release}`, TARMAC_HOLD: '1', ...env }
    return { app: startApp(t, { argv, descriptors, env: ours }), slot }
  }
  const first = startHeld(0)
  await listening(first.app, first.slot.control)
  assert.deepEqual(await control(first.slot.control, 'activate'), ['ok'])

  const load = startLoad(port.port, { tls })
  const answersOf = (release: number) =>
    [...load.answers].filter(([body]) => body.endsWith(`release ${release}`)).reduce((sum, [, count]) => sum + count, 0)
  await until('the first answer', () => (answersOf(0) > 0 ? true : undefined))
  let old = first.app
  const stopsMs: number[] = []
  for (let release = 1; release <= SWITCHES; release++) {
    const { app, slot } = startHeld(release)
    await listening(app, slot.control)
    assert.equal(answersOf(release), 0, 'a held release answers nobody')
    assert.deepEqual(await control(slot.control, 'activate'), ['ok'])
    const stopped = performance.now()
    old.kill('SIGTERM')
    const { signal } = await old.ended
    stopsMs.push(performance.now() - stopped)
    assert.equal(signal, null, 'it ended by itself')
    await until(`release ${release} answers`, () => (answersOf(release) > 0 ? true : undefined))
    old = app
  }
  const { requests, failures, longestGapMs, longestRequestMs } = await load.stop()
  t.diagnostic(
    `${requests} requests, ${failures.length} failed; longest gap ${longestGapMs.toFixed(0)} ms, longest request ${longestRequestMs.toFixed(0)} ms, longest stop ${Math.max(...stopsMs).toFixed(0)} ms`,
  )
  assert.deepEqual(failures, [])
  assert.ok(requests > SWITCHES * 20, `${requests} requests`)
  assert.equal(
    [...load.answers.values()].reduce((sum, count) => sum + count, 0),
    requests,
  )
}

/** The gate: asked of the new process alone. What its probe answers is checked elsewhere. */
async function listening(app: App, controlPath: string): Promise<void> {
  await until(`listening: ${app.output()}`, async () => {
    const [status] = await control(controlPath, 'status')
    const { listening, held, pid } = JSON.parse(status ?? '{}')
    assert.equal(pid, app.pid)
    assert.equal(held, true)
    return listening === true ? true : undefined
  })
}

async function keyPair(t: TestContext): Promise<Record<string, string>> {
  const root = mkdtempSync(join(tmpdir(), 'tarmac-tls-'))
  t.after(() => rmSync(root, { recursive: true, force: true }))
  const layout = layoutAt(root, join(root, 'etc'))
  await makeTls(layout)
  return { KEY_FILE: layout.tlsKeyFile, CERT_FILE: layout.tlsCertFile }
}
