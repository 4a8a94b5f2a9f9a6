import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type RawAnswer, type RawConnection, type RawRequest, rawConnect, rawRequest } from '../helpers/raw-client.ts'
import { fileEntry, groundOf, manifestOf, RELEASES, releaseOf } from '../helpers/raw-release.ts'
import { type HandKey, makeHandKey } from '../helpers/ssh.ts'
import { makeWorld, type World } from '../helpers/world.ts'

// Requests that no client of ours would send. Each is refused before anything looks at what it asks for, strangers
// learn nothing, and the agent answers the next one as before.

async function stageOf(t: TestContext): Promise<{ world: World; eve: HandKey }> {
  const world = await makeWorld(t)
  const eve = makeHandKey('ssh-ed25519')
  assert.equal((await world.agentCommand('signers', 'add', 'eve', eve.publicLine)).exit, 0)
  return { world, eve }
}

async function serving({ world, eve }: { world: World; eve: HandKey }): Promise<void> {
  const body = releaseOf(eve, manifestOf([fileEntry('a', 'a')]), ['a'])
  const answer = await rawRequest(world, eve, { method: 'POST', target: RELEASES, body })
  assert.equal(answer.lines.at(-1)?.step, 'done', answer.body)
}

/** Long enough for every answer that is given at once; the rest the agent's own patience ends, later. */
const PATIENCE_MS = 1_500

/** Sends these bytes after an honest start, and gives the answer; undefined when the agent hangs up or waits for more. */
async function afterBytes(
  world: World,
  text: string | ((connection: RawConnection) => string),
): Promise<RawAnswer | undefined> {
  const connection = await rawConnect(world)
  try {
    connection.write(typeof text === 'string' ? text : text(connection))
    const answer = connection.answer().catch(() => undefined)
    return await Promise.race([answer, sleep(PATIENCE_MS, undefined)])
  } finally {
    connection.close()
  }
}

test('a target that is not written as ours is refused, to friends and strangers alike', async (t) => {
  const { world, eve } = await stageOf(t)
  const before = groundOf(world.root)
  for (const target of [
    '/v1/../v1/status',
    '/v1/./status',
    '//v1/status',
    '//evil.example/v1/status',
    '/v1//status',
    '/v1/status/',
    '/v1/status#',
    '/v1/status#/../x',
    '/v1/%73tatus',
    '/v1/%2e%2e/v1/status',
    '/v1/x/%2e%2e/status',
    '/v1/x/..%2fstatus',
    '/v1\\status',
    '/v1/status;a=b',
    '/v1/status??a',
    '/v1/status?a=<b>',
    '/V1/STATUS',
    '/',
    '',
    '*',
    'v1/status',
    'http://agent/v1/status',
    'https://agent/v1/status',
    'https://agent/v1/apps/../status',
    `${world.url}/v1/status`,
    '/v1/apps/Shop/releases',
    '/v1/apps/../../etc/releases',
    '/v1/apps/..%2f..%2fetc/releases',
    '/v1/apps/shop%00/releases',
    '/v1/apps/sh_op/releases',
    '/v1/status\u00e9',
  ]) {
    for (const key of [eve, undefined]) {
      for (const method of ['GET', 'POST']) {
        const connection = await rawConnect(world)
        const authorization = key ? `Authorization: ${connection.authorization(key)}\r\n` : ''
        connection.write(
          Buffer.from(
            `${method} ${target} HTTP/1.1\r\nHost: agent\r\n${authorization}Content-Length: 0\r\n\r\n`,
            'latin1',
          ),
        )
        const answer = await connection.answer()
        connection.close()
        assert.equal(answer.status, 400, `${method} ${target}: ${answer.status} ${answer.body}`)
        // What Node's own parser refuses has no body.
        assert.ok(answer.code === 'request_refused' || answer.body === '', `${target}: ${answer.body}`)
      }
    }
  }
  assert.deepEqual(groundOf(world.root), before)
  assert.equal((await rawRequest(world, eve, { target: '/v1/status' })).status, 200)
})

test('strangers hear 401 whatever they ask for, so that they cannot tell what there is', async (t) => {
  const stage = await stageOf(t)
  const { world, eve } = stage
  await serving(stage)
  const asked: [string, string][] = [
    ['GET', '/v1/status'],
    ['GET', '/v1/nothing'],
    ['POST', '/v1/status'],
    ['DELETE', '/v1/apps/shop'],
    ['PUT', '/v1/apps/shop/releases'],
    ['PATCH', '/v1/apps/shop/releases'],
    ['OPTIONS', '/v1/status'],
    ['HEAD', '/v1/status'],
    ['TRACE', '/v1/status'],
    ['PROPFIND', '/v1/status'],
    ['GET', '/v1/apps/shop/releases'],
    ['GET', '/v1/apps/nothing/releases'],
    ['GET', '/v1/apps/0-not-a-name/releases'],
    ['GET', '/v1/apps/shop/logs?follow=1'],
    ['GET', '/v1/apps/shop/deploys'],
    ['POST', '/v1/apps/shop/releases'],
    ['POST', '/v1/apps/shop/missing'],
    ['POST', '/v1/apps/shop/rollback'],
    ['POST', '/v1/apps/shop/restart'],
    ['POST', '/v1/apps/shop/stop'],
    ['POST', '/v1/apps/shop/start'],
    ['GET', '/v1/apps/shop/env'],
    ['POST', '/v1/apps/shop/env'],
    ['GET', '/v1/apps/shop/env'],
    ['POST', '/v1/apps/shop/env'],
  ]
  const before = groundOf(world.root)
  const seen = new Set<string>()
  for (const [method, target] of asked) {
    const answer = await rawRequest(world, undefined, { method, target })
    assert.equal(answer.status, 401, `${method} ${target}: ${answer.body}`)
    if (method !== 'HEAD') seen.add(answer.body)
  }
  assert.equal(seen.size, 1, [...seen].join('\n'))
  assert.deepEqual(groundOf(world.root), before)
  for (const [method, target] of asked.slice(1, 7)) {
    const answer = await rawRequest(world, eve, { method, target })
    assert.deepEqual([answer.status, answer.code], [404, 'route_unknown'], `${method} ${target}`)
  }
})

test('headers that say two things, or too much, are refused', async (t) => {
  const { world, eve } = await stageOf(t)
  const stranger = makeHandKey('ssh-ed25519')
  const before = groundOf(world.root)
  const ask = async (shape: (authorization: string, of: RawConnection) => RawRequest) => {
    const connection = await rawConnect(world)
    try {
      return await connection.request(shape(connection.authorization(eve), connection))
    } finally {
      connection.close()
    }
  }
  const target = '/v1/status'
  const doubled: Record<string, (good: string, of: RawConnection) => RawRequest> = {
    'two hosts': (authorization) => ({ target, authorization, headers: [['Host', 'other']] }),
    'two equal hosts': (authorization) => ({ target, authorization, headers: [['hOST', 'agent']] }),
    'two authorizations, the good one first': (authorization, of) => ({
      target,
      authorization,
      headers: [['Authorization', of.authorization(stranger)]],
    }),
    'two authorizations, the good one last': (authorization, of) => ({
      target,
      authorization: of.authorization(stranger),
      headers: [['authorization', authorization]],
    }),
    'two good authorizations': (authorization) => ({
      target,
      authorization,
      headers: [['AUTHORIZATION', authorization]],
    }),
  }
  for (const [what, shape] of Object.entries(doubled)) {
    const answer = await ask(shape)
    assert.deepEqual([answer.status, answer.code], [400, 'request_refused'], `${what}: ${answer.body}`)
  }
  const raw: Record<string, string> = {
    'a length and chunks':
      'POST /v1/status HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    'two lengths': 'POST /v1/status HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!',
    'chunks by another name': 'POST /v1/status HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n',
    'a length of letters': 'POST /v1/status HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello',
    'a negative length': 'POST /v1/status HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n',
    'a blank in a name': 'GET /v1/status HTTP/1.1\r\nHost : a\r\n\r\n',
    'a folded line': 'GET /v1/status HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n',
    'no host': 'GET /v1/status HTTP/1.1\r\n\r\n',
    'a host with a path': 'GET /v1/status HTTP/1.1\r\nHost: a/v1/x\r\n\r\n',
    'a host with a user': 'GET /v1/status HTTP/1.1\r\nHost: a@b\r\n\r\n',
    'a header of 9 KiB': `GET /v1/status HTTP/1.1\r\nHost: a\r\nX: ${'x'.repeat(9 * 1024)}\r\n\r\n`,
    'a target of 9 KiB': `GET /v1/${'x'.repeat(9 * 1024)} HTTP/1.1\r\nHost: a\r\n\r\n`,
    '10,000 headers': `GET /v1/status HTTP/1.1\r\nHost: a\r\n${'X: y\r\n'.repeat(10_000)}\r\n`,
    'bare line feeds and a NUL': 'GET /v1/status HTTP/1.1\nHost: a\0\n\n',
    'HTTP/2 without asking': 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
    'HTTP/0.9': 'GET /v1/status\r\n',
    'a version of tomorrow': 'GET /v1/status HTTP/4.0\r\nHost: a\r\n\r\n',
    'another protocol': 'SSH-2.0-OpenSSH_9.6\r\n',
    'a tunnel': 'CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: a\r\n\r\n',
  }
  for (const [what, text] of Object.entries(raw)) {
    const answer = await afterBytes(world, text)
    const status = answer?.status ?? 400
    // 401: it was understood in one way only, and its sender is a stranger.
    assert.ok(status >= 400 && status < 500, `${what}: ${status} ${answer?.body}`)
  }
  const signed = (rest: string) => (of: RawConnection) =>
    `POST /v1/apps/shop/restart HTTP/1.1\r\nHost: a\r\nAuthorization: ${of.authorization(eve)}\r\n${rest}`
  for (const rest of [
    'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    'Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n',
    'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    'Content-Length: 0\r\nContent-Length: 0\r\n\r\n',
  ]) {
    const status = (await afterBytes(world, signed(rest)))?.status ?? 400
    assert.equal(status, 400, rest)
  }
  assert.deepEqual(groundOf(world.root), before)
  assert.equal((await rawRequest(world, eve, { target })).status, 200)
})

test('an upgrade, an early 100 and another method in a header change nothing', async (t) => {
  const { world, eve } = await stageOf(t)
  const target = '/v1/apps/shop/releases'
  for (const headers of [
    [
      ['Connection', 'Upgrade'],
      ['Upgrade', 'websocket'],
    ],
    [
      ['Connection', 'Upgrade, HTTP2-Settings'],
      ['Upgrade', 'h2c'],
      ['HTTP2-Settings', 'AAMAAABkAAQAAP__'],
    ],
    [['X-HTTP-Method-Override', 'POST']],
    [
      ['X-Forwarded-For', '127.0.0.1'],
      ['X-Original-URL', '/v1/status'],
      ['X-Rewrite-URL', '/v1/status'],
    ],
  ] as [string, string][][]) {
    const stranger = await rawRequest(world, undefined, { target, headers })
    assert.equal(stranger.status, 401, JSON.stringify(headers))
    const known = await rawRequest(world, eve, { target, headers })
    assert.deepEqual([known.status, known.code], [404, 'app_unknown'], JSON.stringify(headers))
  }
  const early = await rawRequest(world, undefined, {
    method: 'POST',
    target,
    headers: [['Expect', '100-continue']],
    body: Buffer.from('x'),
  })
  assert.equal(early.status, 401)
})

test('requests sent in one go are each asked who they are', async (t) => {
  const { world, eve } = await stageOf(t)
  const connection = await rawConnect(world)
  t.after(() => connection.close())
  const good = `Authorization: ${connection.authorization(eve)}\r\n`
  const get = (authorization: string) => `GET /v1/status HTTP/1.1\r\nHost: a\r\n${authorization}\r\n`
  // The second hides in the body of the first, as far as its length says.
  const inside = get('')
  connection.write(
    `${get(good)}${get('')}GET /v1/status HTTP/1.1\r\nHost: a\r\n${good}Content-Length: ${inside.length}\r\n\r\n${inside}${get(good)}`,
  )
  const statuses: number[] = []
  for (let count = 0; count < 4; count++) statuses.push((await connection.answer()).status)
  assert.deepEqual(statuses, [200, 401, 200, 200])
})

test('names and numbers in a request are what they should be, or refused', async (t) => {
  const stage = await stageOf(t)
  const { world, eve } = stage
  await serving(stage)
  const before = groundOf(world.root)
  const asked: [string, number, string][] = [
    ['/v1/apps/0shop/releases', 422, 'manifest_invalid'],
    ['/v1/apps/-/releases', 422, 'manifest_invalid'],
    [`/v1/apps/${'x'.repeat(32)}/releases`, 422, 'manifest_invalid'],
    ['/v1/apps/constructor/releases', 404, 'app_unknown'],
    ['/v1/apps/other/logs', 404, 'app_unknown'],
    ['/v1/apps/other/deploys', 404, 'app_unknown'],
    ['/v1/apps/shop/logs?n=-1', 400, 'request_refused'],
    ['/v1/apps/shop/logs?n=1e9', 400, 'request_refused'],
    ['/v1/apps/shop/logs?n=99999999', 400, 'request_refused'],
    ['/v1/apps/shop/logs?since=yesterday', 400, 'request_refused'],
    ['/v1/apps/shop/logs?release=..%2F..%2F..%2Fetc', 404, 'release_unknown'],
    ['/v1/apps/shop/logs?release=20261122T233851Z-00000000%0A', 404, 'release_unknown'],
    ['/v1/apps/shop/logs?service=constructor', 404, 'service_unknown'],
    ['/v1/apps/shop/logs?service=..%2Fweb', 422, 'manifest_invalid'],
    ['/v1/apps/shop/deploys?n=x', 400, 'request_refused'],
    ['/v1/status?app=..%2Fshop', 422, 'manifest_invalid'],
  ]
  for (const [target, status, code] of asked) {
    const answer = await rawRequest(world, eve, { target })
    assert.deepEqual([answer.status, answer.code], [status, code], `${target}: ${answer.body}`)
  }
  const bodies: [string, number, string][] = [
    ['{"release":"../../etc"}', 404, 'release_unknown'],
    ['{"release":"20261122T233851Z-00000000"}', 404, 'release_unknown'],
    ['{"release":["20261122T233851Z-00000000"]}', 400, 'request_refused'],
    ['{"release":null}', 400, 'request_refused'],
    ['{"Release":"x"}', 400, 'request_refused'],
    ['{"release":"x","force":true}', 400, 'request_refused'],
    ['[]', 400, 'request_refused'],
    ['null', 400, 'request_refused'],
    ['{', 400, 'request_refused'],
    ['release=x', 400, 'request_refused'],
    ['', 400, 'request_refused'],
    ['{}', 409, 'nothing_to_roll_back_to'],
  ]
  for (const [body, status, code] of bodies) {
    const sent = { method: 'POST', target: '/v1/apps/shop/rollback', body: Buffer.from(body) }
    const answer = await rawRequest(world, eve, sent)
    assert.deepEqual([answer.status, answer.code], [status, code], `${body}: ${answer.body}`)
  }
  const digest = 'a'.repeat(64)
  const questions: [string, number, string | undefined][] = [
    ['{}', 200, undefined],
    [`{"reference":"${digest}"}`, 200, undefined],
    [`{"reference":"${digest.toUpperCase()}"}`, 400, 'request_refused'],
    ['{"reference":"../release.json"}', 400, 'request_refused'],
    [`{"reference":["${digest}"]}`, 400, 'request_refused'],
    [`{"reference":"${digest}","again":true}`, 200, undefined],
    ['{"again":"yes"}', 400, 'request_refused'],
    [`{"reference":"${digest}","more":1}`, 400, 'request_refused'],
    [`{"content":"${digest}"}`, 400, 'request_refused'],
    ['[]', 400, 'request_refused'],
    ['', 400, 'request_refused'],
  ]
  for (const [body, status, code] of questions) {
    const sent = { method: 'POST', target: '/v1/apps/shop/known', body: Buffer.from(body) }
    const answer = await rawRequest(world, eve, sent)
    assert.deepEqual([answer.status, answer.code], [status, code], `${body}: ${answer.body}`)
  }
  assert.deepEqual(groundOf(world.root), before)
})

test('a body without end is not held in memory, wherever it is sent', { timeout: 120_000 }, async (t) => {
  const stage = await stageOf(t)
  const { world, eve } = stage
  await serving(stage)
  const before = groundOf(world.root)
  const pid = agentPid(world)
  for (const target of ['rollback', 'restart', 'missing', 'releases'].map((verb) => `/v1/apps/shop/${verb}`)) {
    for (const key of [eve, undefined]) {
      if (key && target.endsWith('restart')) continue
      async function* letters() {
        yield Buffer.from('"')
        for (let sent = 0; sent < 400; sent++) yield Buffer.alloc(1024 * 1024, 'x')
      }
      const answer = await rawRequest(world, key, { method: 'POST', target, body: letters() }).catch(() => undefined)
      assert.ok((answer?.status ?? 400) >= 400, `${target}: ${answer?.status} ${answer?.body}`)
    }
  }
  const peakMiB = Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024
  assert.ok(peakMiB < 200, `${Math.round(peakMiB)} MiB at the most`)
  assert.deepEqual(groundOf(world.root), before)
  assert.equal((await rawRequest(world, eve, { target: '/v1/status' })).status, 200)
})

/** The embedded init notes which agent its processes belong to. */
function agentPid(world: World): number {
  const { pid } = JSON.parse(readFileSync(join(world.root, 'embedded/agent.json'), 'utf8')) as { pid: number }
  return pid
}
