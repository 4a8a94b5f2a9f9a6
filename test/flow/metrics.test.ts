import assert from 'node:assert/strict'
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import * as library from '@prometheus-io/client'
import { familiesOf } from '../../agent/watch/metric-families.ts'
import { registryOf } from '../../agent/watch/metrics.ts'
import type { AppName, ServiceName } from '../../shared/names.ts'
import type { AgentStatus } from '../../shared/wire.ts'
import { type MetricsText, parseMetrics } from '../helpers/metrics-text.ts'
import { rawRequest } from '../helpers/raw-client.ts'
import { makeHandKey } from '../helpers/ssh.ts'
import { freePort, makeWorld } from '../helpers/world.ts'

const WEB = { app: 'shop', service: 'web' }
const STATES = ['running', 'starting', 'crash-looping', 'failed', 'stopped', 'degraded']

const statesOf = (metrics: MetricsText) =>
  STATES.filter((state) => metrics.value('tarmac_service_state', { ...WEB, state }) === 1)
const changes = (metrics: MetricsText, kind: string, result: string) =>
  metrics.value('tarmac_changes_total', { app: 'shop', kind, result })

test('what happened can be scraped by a signer, and on loopback by anybody; nobody else learns a number', async (t) => {
  const world = await makeWorld(t, { started: false })
  const port = await freePort()
  appendFileSync(join(world.root, 'etc/agent.toml'), `\n[metrics]\nlisten = "127.0.0.1:${port}"\n`)
  await world.startAgent()
  const eve = makeHandKey('ssh-ed25519')
  const signed = () => rawRequest(world, eve, { target: '/v1/metrics' })
  const refused = await signed()
  assert.deepEqual([refused.status, refused.code], [403, 'signer_unknown'])
  const nobody = await rawRequest(world, undefined, { target: '/v1/metrics' })
  assert.deepEqual([nobody.status, nobody.code], [401, 'authorization_missing'])
  for (const { body } of [refused, nobody]) assert.doesNotMatch(body, /tarmac_|process_/)
  await world.agentCommand('signers', 'add', 'eve', eve.publicLine)

  const loopback = async () => {
    const answer = await fetch(`http://127.0.0.1:${port}/metrics`)
    assert.equal(answer.headers.get('content-type'), 'text/plain; version=0.0.4; charset=utf-8')
    return parseMetrics(await answer.text())
  }
  assert.equal((await loopback()).value('tarmac_changes_total'), undefined, 'there is no app yet')
  const beganAt = Date.now() / 1000
  assert.equal((await world.tarmac('push')).exit, 0)
  world.version('2', { broken: 4 })
  assert.equal((await world.tarmac('push')).exit, 6)
  world.version('3')
  assert.equal((await world.tarmac('push')).exit, 0)

  const answer = await signed()
  assert.equal(answer.status, 200)
  for (const metrics of [parseMetrics(answer.body), await loopback()]) {
    assert.deepEqual(statesOf(metrics), ['running'])
    assert.equal(changes(metrics, 'push', 'done'), 2)
    assert.equal(changes(metrics, 'push', 'failed'), 1)
    assert.equal(changes(metrics, 'auto-rollback', 'done'), 0, 'those to come are there, at 0')
    assert.equal(metrics.value('tarmac_exits_total', { ...WEB, cause: 'exit' }), 3)
    assert.equal(metrics.value('tarmac_exits_total', { ...WEB, cause: 'oom' }), 0)
    assert.equal(metrics.value('tarmac_service_respawns', WEB), 0)
    assert.equal(metrics.value('tarmac_releases_kept', { app: 'shop' }), 3)
    assert.equal(metrics.value('tarmac_app_busy', { app: 'shop' }), 0)
    const switchedAt = metrics.value('tarmac_last_switch_timestamp_seconds', { app: 'shop' }) ?? 0
    assert.ok(switchedAt > beganAt && switchedAt <= Date.now() / 1000, String(switchedAt))
    const gap = metrics.value('tarmac_last_switch_gap_seconds', { app: 'shop' }) ?? -1
    assert.ok(gap >= 0 && gap < 60, `${gap} s`)
    assert.equal(metrics.value('tarmac_last_switch_failed_probes', { app: 'shop' }), 0)
    const free = metrics.value('tarmac_disk_free_bytes') ?? 0
    assert.ok(free > 0 && free < (metrics.value('tarmac_disk_size_bytes') ?? 0))
    assert.ok((metrics.value('nodejs_eventloop_lag_seconds') ?? -1) >= 0)
    assert.ok((metrics.value('process_resident_memory_bytes') ?? 0) > 0)
  }
  assert.equal(
    (await fetch(`http://127.0.0.1:${port}/v1/status`)).status,
    404,
    'the port without names has nothing else',
  )
  assert.equal((await world.tarmac('stop')).exit, 0)
  assert.deepEqual(statesOf(await loopback()), ['stopped'])
})

test('metrics without authentication are told on a loopback address, or the agent does not start', async (t) => {
  const world = await makeWorld(t, { started: false })
  const file = join(world.root, 'etc/agent.toml')
  const before = readFileSync(file, 'utf8')
  for (const listen of ['0.0.0.0:9433', '[::]:9433', 'localhost:9433', '127.0.0.1.example.com:9433', '10.0.0.1:9433']) {
    writeFileSync(file, `${before}\n[metrics]\nlisten = "${listen}"\n`)
    const { exit, stderr } = await world.agentCommand('run', '--init', 'embedded')
    assert.equal(exit, 2, listen)
    assert.ok(stderr.includes(`metrics.listen: "${listen}" is no loopback address`), stderr)
  }
  // Where the agent itself listens: a port that cannot be had ends it too, instead of leaving half an agent.
  writeFileSync(file, `${before}\n[metrics]\nlisten = "${new URL(world.url).host}"\n`)
  const { exit, stderr } = await world.agentCommand('run', '--init', 'embedded')
  assert.deepEqual([exit, /EADDRINUSE/.test(stderr)], [2, true], stderr)
})

test('a name with everything that ends a label or a line stays one value, and what has gone leaves no series', async () => {
  // No app can be called so (shared/names.ts); what writes labels must not depend on it.
  const app = 'a"} 1\n# TYPE evil counter\\' as AppName
  const service = { name: 'web' as ServiceName, state: 'running', memoryBytes: 5, respawns: { sinceSwitch: 7 } }
  const appStatus = { app, services: [service], releasesKept: 1, bytesOnDisk: 3, lastSwitch: null }
  const disk = { totalBytes: 2, freeBytes: 1, totalInodes: 0, freeInodes: 0, state: 'low' }
  const status = { agent: { version: '1', init: 'embedded' }, disk, apps: [appStatus] }
  const facts = { busy: [], exits: [], changes: [] }
  const textOf = async (status: unknown) =>
    registryOf(library, familiesOf({ ...facts, status: status as AgentStatus })).metrics()
  const metrics = parseMetrics(await textOf(status))
  assert.equal(metrics.value('tarmac_service_respawns', { app, service: 'web' }), 7)
  assert.ok(!metrics.types.has('evil'))
  assert.doesNotMatch(await textOf({ ...status, apps: [] }), /evil|service/)
})
