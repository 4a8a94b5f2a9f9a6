import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { chmodSync, chownSync, existsSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { createServer, type TLSSocket } from 'node:tls'
import { zstdCompressSync } from 'node:zlib'
import { layoutAt } from '../../agent/state/layout.ts'
import { makeTls, type TlsIdentity } from '../../agent/state/tls.ts'
import { entryHeader } from '../../shared/bundle.ts'
import { sessionStatement } from '../../shared/session.ts'
import { publicLineOf } from '../../shared/ssh-key.ts'
import { RELEASE_NAMESPACE } from '../../shared/wire.ts'
import { authorizationOf, rawConnect, rawRequest } from '../helpers/raw-client.ts'
import {
  bundleOf,
  fileEntry,
  flipped,
  groundOf,
  headEntries,
  MISSING,
  manifestOf,
  objectEntry,
  RELEASES,
  releaseOf,
  SLEEPER,
  signedBy,
  tarOf,
} from '../helpers/raw-release.ts'
import { type HandKey, makeHandKey, makeKey, sshSign, tempDir } from '../helpers/ssh.ts'
import { freePort, makeWorld, type World } from '../helpers/world.ts'

// Who stands between, comes back, never ends or never was let in; and agents and apps that lie to whoever asks them.

const STATUS = '/v1/status'
const MEBIBYTE = 1024 * 1024

interface Stage {
  world: World
  eve: HandKey
  bundle: Buffer
}

async function stageOf(t: TestContext): Promise<Stage> {
  const world = await makeWorld(t)
  const eve = makeHandKey('ssh-ed25519')
  assert.equal((await world.agentCommand('signers', 'add', 'eve', eve.publicLine)).exit, 0)
  const bundle = releaseOf(eve, manifestOf([fileEntry('a', 'a')]), ['a'])
  return { world, eve, bundle }
}

/** Neither a question nor a good release gets past, and nothing of the release is left. */
async function turnedAway(
  { world, bundle }: Stage,
  authorization: string | null | ((exporter: Buffer) => string),
  [code, status]: [string, number],
): Promise<void> {
  const before = groundOf(world.root)
  for (const request of [{ target: STATUS }, { method: 'POST', target: RELEASES, body: bundle }]) {
    const connection = await rawConnect(world)
    const header = typeof authorization === 'function' ? authorization(connection.exporter) : authorization
    const answer = await connection.request({ ...request, authorization: header })
    connection.close()
    assert.deepEqual([answer.code, answer.status], [code, status], `${header}: ${answer.body}`)
  }
  assert.deepEqual(groundOf(world.root), before)
  assert.equal(existsSync(join(world.root, 'apps/shop')), false)
}

test('only a signature by a known key, over this connection and this agent, opens it', async (t) => {
  const stage = await stageOf(t)
  const { world, eve } = stage
  const good = (exporter: Buffer) => authorizationOf(eve, { exporter, pin: world.pin })
  const base64 = (exporter: Buffer) => good(exporter).slice('SSHSIG '.length)

  await t.test('nothing, and what is no signature', async () => {
    await turnedAway(stage, null, ['authorization_missing', 401])
    const malformed: ((exporter: Buffer) => string)[] = [
      () => '',
      () => 'SSHSIG',
      () => 'SSHSIG !!!!',
      () => 'Bearer abc',
      () => 'Basic ZXZlOmV2ZQ==',
      (exporter) => `sshsig ${base64(exporter)}`,
      (exporter) => `SSHSIG  ${base64(exporter)}`,
      (exporter) => `SSHSIG ${base64(exporter)} x`,
      (exporter) => `SSHSIG ${base64(exporter)},SSHSIG ${base64(exporter)}`,
      (exporter) => `SSHSIG ${base64(exporter)}AAAA`,
      (exporter) => `SSHSIG ${base64(exporter).slice(0, -8)}`,
      (exporter) => `SSHSIG ${base64(exporter).replaceAll('=', '')}x`,
      () => `SSHSIG ${Buffer.alloc(4000, 'SSHSIG').toString('base64')}`,
    ]
    for (const authorization of malformed) await turnedAway(stage, authorization, ['authorization_malformed', 401])
  })
  await t.test('a key nobody knows, and kinds of keys that are not taken', async () => {
    const stranger = makeHandKey('ssh-ed25519')
    const by = (key: HandKey) => (exporter: Buffer) => authorizationOf(key, { exporter, pin: world.pin })
    await turnedAway(stage, by(stranger), ['signer_unknown', 403])
    await turnedAway(stage, by(makeHandKey('ecdsa-sha2-nistp256')), ['signer_unknown', 403])
    const rsa = makeKey(t, tempDir(t), { type: 'rsa' })
    const byRsa = (exporter: Buffer) => {
      const armored = sshSign(rsa.file, 'tarmac-session', sessionStatement(exporter, world.pin))
      return `SSHSIG ${armored.split('\n').slice(1, -2).join('')}`
    }
    await turnedAway(stage, byRsa, ['key_unsupported', 401])
  })
  await t.test('a FIDO key that nobody touched', async () => {
    const device = makeHandKey('sk-ssh-ed25519@openssh.com')
    assert.equal((await world.agentCommand('signers', 'add', 'dora', device.publicLine)).exit, 0)
    const touched = (flags: number) => (exporter: Buffer) => {
      const message = sessionStatement(exporter, world.pin)
      return `SSHSIG ${device.sign({ namespace: 'tarmac-session', message, flags }).toString('base64')}`
    }
    await turnedAway(stage, touched(0), ['authorization_mismatch', 401])
    await turnedAway(stage, touched(4), ['authorization_mismatch', 401])
  })
  await t.test('a replay: what was good on another connection', async () => {
    const before = await rawConnect(world)
    const captured = before.authorization(eve)
    assert.equal((await before.request({ target: STATUS, authorization: captured })).status, 200)
    await turnedAway(stage, captured, ['authorization_mismatch', 401])
    before.close()
    await turnedAway(stage, captured, ['authorization_mismatch', 401])
  })
  await t.test('a relay: what was made for another agent, and for no agent', async () => {
    for (const pin of ['sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=', '', world.pin.toUpperCase()]) {
      await turnedAway(stage, (exporter) => authorizationOf(eve, { exporter, pin }), ['authorization_mismatch', 401])
    }
  })
  await t.test('a signature made for releases, over the very same bytes', async () => {
    const crossed = (exporter: Buffer) =>
      authorizationOf(eve, { exporter, pin: world.pin, namespace: RELEASE_NAMESPACE })
    await turnedAway(stage, crossed, ['authorization_mismatch', 401])
    const text = JSON.stringify(manifestOf([]))
    const played = eve.sign({ namespace: RELEASE_NAMESPACE, message: text }).toString('base64')
    await turnedAway(stage, `SSHSIG ${played}`, ['authorization_mismatch', 401])
  })
  await t.test('a bit of any of its bytes changed', async () => {
    const length = Buffer.from(base64(Buffer.alloc(32)), 'base64').length
    for (let at = 0; at < length; at++) {
      const connection = await rawConnect(world)
      const raw = Buffer.from(base64(connection.exporter), 'base64')
      const authorization = `SSHSIG ${flipped(raw, at * 8 + (at % 8)).toString('base64')}`
      const { status, body } = await connection.request({ target: STATUS, authorization })
      connection.close()
      assert.ok(status === 401 || status === 403, `byte ${at}: ${status} ${body}`)
    }
  })
  await t.test('nothing at all, on a connection where a signature opened a request before', async () => {
    const connection = await rawConnect(world)
    const authorization = connection.authorization(eve)
    assert.equal((await connection.request({ target: STATUS, authorization })).status, 200)
    assert.equal((await connection.request({ target: STATUS })).code, 'authorization_missing')
    assert.equal((await connection.request({ target: STATUS, authorization })).status, 200)
    connection.close()
  })
  await t.test('an old TLS, whose exporter two connections can share', async () => {
    for (const maxVersion of ['TLSv1.2', 'TLSv1.1'] as const) {
      await assert.rejects(
        rawConnect(world, { maxVersion, minVersion: 'TLSv1' }),
        /protocol version|alert|no protocols/,
      )
    }
  })
})

/** Something at this address that is no agent of ours; counts what it is told after the handshake. */
async function impostor(
  t: TestContext,
  { port, tls, answer }: { port: number; tls: TlsIdentity; answer?: (socket: TLSSocket, target: string) => void },
): Promise<{ bytes: number; connections: number }> {
  const told = { bytes: 0, connections: 0 }
  const server = createServer({ key: tls.key, cert: tls.cert, ALPNProtocols: ['http/1.1'] }, (socket) => {
    let text = ''
    socket.on('error', () => {})
    socket.on('data', (chunk) => {
      told.bytes += chunk.length
      text += chunk.toString('latin1')
      const done =
        text.includes('\r\n\r\n') && (!text.startsWith('POST') || text.endsWith('0\r\n\r\n') || /-length: /i.test(text))
      if (!done) return
      const target = text.split(' ')[1] ?? ''
      text = ''
      answer?.(socket, target)
    })
  })
  server.on('connection', () => told.connections++)
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  t.after(() => server.close())
  return told
}

function pinned(world: World, lines: Record<string, string>): void {
  const text = Object.entries(lines).map(([url, pin]) => `${url} ${pin}\n`)
  writeFileSync(join(world.dir, 'home/.config/tarmac/known_agents'), text.join(''))
}

test('the client tells another agent nothing: not one byte of HTTP passes before the pin is checked', async (t) => {
  const world = await makeWorld(t)
  await world.stopAgent()
  const other = await makeTls(layoutAt(join(world.dir, 'other'), join(world.dir, 'other/etc')))
  const told = await impostor(t, { port: Number(new URL(world.url).port), tls: other })
  for (const command of [['push'], ['status'], ['rollback'], ['logs', '-f'], ['restart']]) {
    for (const [pin, code] of [
      [world.pin, 'pin_mismatch'],
      [undefined, 'pin_unknown'],
    ] as const) {
      pinned(world, pin === undefined ? {} : { [world.url]: pin })
      const { exit, stdout, stderr } = await world.tarmac(...command, '--json')
      assert.equal(exit, 3, stderr)
      assert.ok(stdout.includes(code) || stderr.includes('pin'), `${stdout}${stderr}`)
    }
  }
  assert.equal((await world.tarmac('trust', world.url, '--pin', world.pin)).exit, 3)
  await sleep(200)
  const seen = { ...told }
  assert.ok(seen.connections >= 10, `${seen.connections} connections`)
  assert.equal(seen.bytes, 0)
  // The counter counts: with its own pin it would have been told.
  pinned(world, { [world.url]: other.pin })
  const asked = world.tarmacBegin('status')
  while (told.bytes === 0) await sleep(20)
  asked.kill('SIGKILL')
  await asked.ended
})

function inPlaceOf(file: string, make: (path: string) => void): void {
  rmSync(file)
  make(file)
}

test('who is taken out while an upload goes on is refused at its end, as signer and as sender, and nothing is left', async (t) => {
  const { world, eve } = await stageOf(t)
  const bob = makeHandKey('ssh-ed25519')
  assert.equal((await world.agentCommand('signers', 'add', 'bob', bob.publicLine)).exit, 0)
  const file = join(world.root, 'etc/allowed_signers')
  const text = readFileSync(file, 'utf8')
  const without = (name: string) => text.replace(new RegExp(`^${name} .*\n`, 'm'), '')
  const content = randomBytes(300_000)
  const bundle = releaseOf(bob, manifestOf([fileEntry('a', content)]), [content])
  const before = groundOf(world.root)
  const cases: Record<string, { signers: string; status: number; message?: RegExp }> = {
    'who sends it': { signers: without('eve'), status: 403, message: /authorize eve: .* was taken out/ },
    'who signed it': { signers: without('bob'), status: 403, message: /nobody here has the key/ },
    'who may sign no more': {
      signers: `${without('bob')}bob namespaces="tarmac-session" ${bob.publicLine}\n`,
      status: 403,
      message: /is not allowed in namespace/,
    },
    'somebody else': { signers: `${text}# a comment\n`, status: 200 },
  }
  for (const [what, { signers, status, message }] of Object.entries(cases)) {
    async function* slowly() {
      yield bundle.subarray(0, 200_000)
      await sleep(300)
      writeFileSync(file, signers)
      yield bundle.subarray(200_000)
    }
    const answer = await rawRequest(world, eve, { method: 'POST', target: RELEASES, body: slowly() })
    writeFileSync(file, text)
    assert.equal(answer.status, status, what)
    if (message === undefined) continue
    assert.equal(answer.code, 'signer_unknown', what)
    assert.match(answer.body, message, what)
    assert.deepEqual(groundOf(world.root), before, what)
  }
})

test('whoever is taken out of allowed_signers is out at once, and a file that cannot be trusted lets nobody in', async (t) => {
  const stage = await stageOf(t)
  const { world, eve, bundle } = stage
  const file = join(world.root, 'etc/allowed_signers')
  const text = readFileSync(file, 'utf8')
  const open = await rawConnect(world)
  t.after(() => open.close())
  const authorization = open.authorization(eve)
  const known = () => open.request({ target: STATUS, authorization })
  assert.equal((await known()).status, 200)
  const line = (options: string, key = eve) => `eve ${options}${key.publicLine}\n`
  const before = groundOf(world.root)
  /** `release`: the person may ask, and not sign. */
  const cases: Record<string, { change: () => void; code: string; release?: true }> = {
    'taken out': { change: () => writeFileSync(file, text.replace(/^eve .*\n/m, '')), code: 'signer_unknown' },
    empty: { change: () => writeFileSync(file, ''), code: 'signers_none' },
    'nothing but comments': { change: () => writeFileSync(file, '# nobody\n\n'), code: 'signers_none' },
    gone: { change: () => rmSync(file), code: 'signers_none' },
    'a directory': { change: () => inPlaceOf(file, mkdirSync), code: 'policy_unreadable' },
    'half a line': { change: () => writeFileSync(file, `${text}bob ssh-ed25519 AAAA`), code: 'policy_unreadable' },
    'bytes that are no text': {
      change: () => writeFileSync(file, Buffer.concat([Buffer.from(text), Buffer.from([0xff, 0, 0xfe, 10])])),
      code: 'policy_unreadable',
    },
    'a pattern': { change: () => writeFileSync(file, `${text}* ${eve.publicLine}\n`), code: 'policy_unreadable' },
    'an option nobody knows': {
      change: () => writeFileSync(file, line('cert-authority ')),
      code: 'policy_unreadable',
    },
    'her key under two names': {
      change: () => writeFileSync(file, `${text}bob ${eve.publicLine}\n`),
      code: 'policy_unreadable',
    },
    'writable by the group': { change: () => chmodSync(file, 0o664), code: 'policy_unreadable' },
    'writable by all': { change: () => chmodSync(file, 0o646), code: 'policy_unreadable' },
    "another user's": { change: () => chownSync(file, 65_534, 65_534), code: 'policy_unreadable' },
    expired: { change: () => writeFileSync(file, line('valid-before="20200101" ')), code: 'signer_expired' },
    'not yet valid': { change: () => writeFileSync(file, line('valid-after="20990101" ')), code: 'signer_expired' },
    'for releases only': {
      change: () => writeFileSync(file, line('namespaces="tarmac-release" ')),
      code: 'signer_unknown',
    },
    'for sessions only': {
      change: () => writeFileSync(file, line('namespaces="tarmac-session" ')),
      code: 'signer_unknown',
      release: true,
    },
  }
  for (const [what, { change, code, release }] of Object.entries(cases)) {
    if (what === "another user's" && process.getuid?.() !== 0) continue
    await t.test(what, async () => {
      change()
      if (release) assert.equal((await known()).status, 200)
      else {
        const answer = await known()
        assert.deepEqual([answer.code, answer.status], [code, 403], answer.body)
      }
      const pushed = await rawRequest(world, eve, { method: 'POST', target: RELEASES, body: bundle })
      assert.deepEqual([pushed.code, pushed.status], [code, 403], pushed.body)
      const asked = await rawRequest(world, eve, { method: 'POST', target: MISSING, body: bundle })
      assert.deepEqual([asked.code, asked.status], [code, 403], asked.body)
      rmSync(file, { recursive: true, force: true })
      writeFileSync(file, text, { mode: 0o644 })
      chmodSync(file, 0o644)
      assert.equal((await known()).status, 200)
    })
  }
  assert.deepEqual(groundOf(world.root), before)
})

test('a client that disappears in the middle leaves nothing busy, and what arrived whole need not be sent again', async (t) => {
  const { world, eve } = await stageOf(t)
  const contents = [1, 2, 3, 4].map((seed) => Buffer.alloc(2 * MEBIBYTE, `content ${seed} `))
  const text = JSON.stringify(manifestOf(contents.map((content, index) => fileEntry(`file-${index}`, content))))
  const head = headEntries(text, [signedBy(eve, text)])
  const whole = tarOf([...head, ...contents.map(objectEntry)])
  // Not compressible, or all of it would lie in one last block: the frame is made of pieces that are flushed.
  const cut = zstdCompressSync(whole.subarray(0, whole.length - 3 * MEBIBYTE))
  const connection = await rawConnect(world)
  const authorization = connection.authorization(eve)
  connection.write(
    `POST ${RELEASES} HTTP/1.1\r\nHost: a\r\nAuthorization: ${authorization}\r\nContent-Length: ${whole.length}\r\n\r\n`,
  )
  connection.write(cut.subarray(0, cut.length - 8))
  // Only names: what is under way elsewhere is gone before one could look at it.
  const objects = () => globSync('apps/shop/objects/*/*', { cwd: world.root })
  while (objects().length < 2) await sleep(20)
  const busy = await rawRequest(world, eve, {
    method: 'POST',
    target: MISSING,
    body: bundleOf(text, [signedBy(eve, text)]),
  })
  assert.equal(busy.code, 'busy')
  connection.close()
  let missing: string[] = []
  for (let tries = 0; ; tries++) {
    const answer = await rawRequest(world, eve, {
      method: 'POST',
      target: MISSING,
      body: bundleOf(text, [signedBy(eve, text)]),
    })
    if (answer.status === 200) {
      missing = (JSON.parse(answer.body) as { missing: string[] }).missing
      break
    }
    assert.ok(answer.code === 'busy' && tries < 100, answer.body)
    await sleep(50)
  }
  assert.ok(missing.length >= 1 && missing.length <= 2, missing.join())
  assert.ok(!groundOf(world.root).files.some((line) => line.includes('.part')), 'half an object was left')
  assert.match(world.agentLog(), /"the client hung up"/)
  assert.doesNotMatch(world.agentLog(), /a bug in the agent/)
  const rest = contents.filter((content) => missing.some((digest) => objectEntry(content)[0].endsWith(digest)))
  const body = bundleOf(text, [signedBy(eve, text)], rest)
  const answer = await rawRequest(world, eve, { method: 'POST', target: RELEASES, body })
  assert.equal(answer.lines.at(-1)?.step, 'done', answer.body)
})

test('who stops in the middle is cut after 20 s; who only listens is not', { timeout: 120_000 }, async (t) => {
  const { world, eve, bundle } = await stageOf(t)
  const before = groundOf(world.root)
  const stalled = await Promise.all(
    [RELEASES.replace('shop', 'one'), MISSING.replace('shop', 'two'), '/v1/apps/three/rollback'].map(async (target) => {
      const connection = await rawConnect(world)
      connection.write(
        `POST ${target} HTTP/1.1\r\nHost: a\r\nAuthorization: ${connection.authorization(eve)}\r\nContent-Length: 100000\r\n\r\n`,
      )
      connection.write(bundle.subarray(0, 50))
      return connection
    }),
  )
  const began = Date.now()
  await sleep(500)
  const other = { method: 'POST', target: RELEASES.replace('shop', 'one'), body: bundle }
  assert.equal((await rawRequest(world, eve, other)).code, 'busy')
  const pushed = await rawRequest(world, eve, { method: 'POST', target: RELEASES, body: bundle })
  assert.equal(pushed.lines.at(-1)?.step, 'done', pushed.body)
  // A silent app is followed for longer than a silent sender is suffered.
  const follower = await rawConnect(world)
  t.after(() => follower.close())
  follower.write(
    `GET /v1/apps/shop/logs?follow=1 HTTP/1.1\r\nHost: a\r\nAuthorization: ${follower.authorization(eve)}\r\n\r\n`,
  )
  await Promise.all(stalled.map(({ closed }) => closed))
  const seconds = (Date.now() - began) / 1000
  assert.ok(seconds > 15 && seconds < 40, `${seconds} s`)
  assert.equal((await rawRequest(world, eve, other)).code, 'app_mismatch')
  await sleep(began + 27_000 - Date.now())
  assert.equal(follower.socket.destroyed, false, 'the one who followed the log was cut')
  const names = groundOf(world.root).files.filter((line) => /^apps\/(one|two|three)/.test(line))
  assert.deepEqual(
    names,
    before.files.filter((line) => /^apps\/(one|two|three)/.test(line)),
  )
})

test('a bomb of 100 MB costs the agent nothing, wherever it is', { timeout: 120_000 }, async (t) => {
  const { world, eve } = await stageOf(t)
  const { pid } = JSON.parse(readFileSync(join(world.root, 'embedded/agent.json'), 'utf8')) as { pid: number }
  const before = groundOf(world.root)
  const text = JSON.stringify(manifestOf([fileEntry('a', 'a')]))
  const head = headEntries(text, [signedBy(eve, text)])
  const zeros = Buffer.alloc(100 * MEBIBYTE)
  const bombs: Record<string, Buffer> = {
    'as an object nobody named': tarOf([...head, ['objects/'.padEnd(72, '0'), zeros]]),
    'behind the end': Buffer.concat([tarOf([...head, objectEntry('a')]), zeros]),
    'as a manifest': Buffer.concat([entryHeader('release.json', zeros.length), zeros]),
    'as a signature': Buffer.concat([
      tarOf([['release.json', text]]).subarray(0, -1024),
      entryHeader('signatures/0.sig', zeros.length),
      zeros,
    ]),
    'instead of a header': zeros,
  }
  for (const [what, tar] of Object.entries(bombs)) {
    const body = zstdCompressSync(tar)
    assert.ok(body.length < 200_000, `${what}: ${body.length} bytes`)
    for (const target of [RELEASES, MISSING]) {
      const answer = await rawRequest(world, eve, { method: 'POST', target, body })
      if (target === MISSING && ['as an object nobody named', 'behind the end'].includes(what)) continue
      assert.ok(answer.status >= 400 && answer.status < 500, `${what}: ${answer.status} ${answer.body}`)
    }
  }
  const peakMiB = Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024
  assert.ok(peakMiB < 180, `${Math.round(peakMiB)} MiB at the most`)
  assert.deepEqual(groundOf(world.root), before)
})

/** What moves a cursor, sets a title or turns text around: C0 but newline and tab, DEL, C1, bidi. */
const CONTROL = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/
const EVIL = '\u001b]0;owned\u0007\u001b[2J\u009b31mred\u007f\u202eback\r'

test('an app cannot write into the terminal of whoever reads its log or its failure', {
  timeout: 60_000,
}, async (t) => {
  const { world, eve } = await stageOf(t)
  const said = (command: string) => {
    const services = { web: { ...SLEEPER, command: { exec: [process.execPath, '-e', command] } } }
    return releaseOf(eve, manifestOf([], { services }))
  }
  const evil = JSON.stringify(EVIL)
    .replaceAll('\u001b', '\\u001b')
    .replace(/[\u007f-\uffff]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`)
  const good = said(`console.log(${evil}); console.error(${evil} + 'err'); setInterval(() => {}, 1e6)`)
  const pushed = await rawRequest(world, eve, { method: 'POST', target: RELEASES, body: good })
  assert.equal(pushed.lines.at(-1)?.step, 'done', pushed.body)
  await sleep(500)
  writeFileSync(join(world.dir, 'evil.tarmac'), said(`console.log(${evil}); process.exit(3)`))
  for (const argv of [
    ['logs'],
    ['push', join(world.dir, 'evil.tarmac')],
    ['deploys'],
    ['deploys', '2'],
    ['status'],
    ['releases'],
  ]) {
    for (const flags of [[], ['--json'], ['--verbose']]) {
      const { stdout, stderr } = await world.tarmac(...argv, ...flags)
      assert.doesNotMatch(stdout, CONTROL, argv.join(' '))
      assert.doesNotMatch(stderr, CONTROL, argv.join(' '))
      if (argv[0] === 'logs') assert.match(stdout, /owned/)
    }
  }
})

test('a file name cannot write into the terminal of whoever packs it', async (t) => {
  const world = await makeWorld(t, { started: false })
  for (const name of ['\u001b[2Jevil', 'evil\u009b31m', 'b\u202eack']) {
    world.write({ [`dir/${name}`]: 'x' })
    for (const flags of [[], ['--json'], ['--verbose']]) {
      const { stdout, stderr } = await world.tarmac('pack', ...flags, '-o', join(world.dir, 'x.tarmac'))
      assert.doesNotMatch(stdout + stderr, CONTROL, JSON.stringify(name))
    }
    rmSync(join(world.project, 'dir'), { recursive: true })
  }
})

test('an agent that lies in every field cannot write into the terminal of its client', {
  timeout: 240_000,
}, async (t) => {
  const world = await makeWorld(t)
  await world.stopAgent()
  const port = await freePort()
  const tls = await makeTls(layoutAt(join(world.dir, 'liar'), join(world.dir, 'liar/etc')))
  const url = `https://127.0.0.1:${port}`
  pinned(world, { [url]: tls.pin })
  const receipt = {
    ...{ app: EVIL, release: EVIL, service: EVIL, phase: EVIL, reason: EVIL, respawns: EVIL, running: EVIL },
    ...{ exit: { code: EVIL, signal: EVIL, oom: false, at: EVIL }, output: [EVIL], undone: [EVIL], next: [EVIL] },
  }
  const step = { step: EVIL, at: EVIL, ms: 1, release: EVIL, service: EVIL, slot: EVIL, message: EVIL }
  const failed = { ...step, step: 'failed', deploy: EVIL, code: EVIL, hint: EVIL, receipt }
  const done = { ...step, step: 'done', deploy: EVIL, app: EVIL, previous: EVIL }
  const service = {
    ...{ name: EVIL, state: EVIL, release: EVIL, slot: EVIL, pid: EVIL, since: EVIL, memoryBytes: 1, port: EVIL },
    ...{ respawns: { sinceSwitch: EVIL, lastHour: EVIL, limit: { attempts: EVIL, withinSeconds: EVIL } } },
    lastExit: { code: EVIL, signal: EVIL, oom: false, at: EVIL },
  }
  const disk = { path: EVIL, totalBytes: 1, freeBytes: 1, totalInodes: 1, freeInodes: EVIL, state: EVIL }
  const shapes: Record<string, Record<string, string>> = {
    refusal: {},
    done: { default: [step, { ...step, step: 'gone-back' }, { ...step, step: 'warning' }, done].map(ndjson).join('') },
    failed: { default: [step, failed].map(ndjson).join('') },
    broken: { default: `{"${EVIL}` },
    answers: {
      status: JSON.stringify({
        agent: { version: EVIL, init: EVIL, startedAt: EVIL },
        disk: { ...disk, scarce: EVIL, daysUntilFull: EVIL, pushesUntilFull: EVIL },
        memory: {},
        load: [],
        apps: [{ app: EVIL, wanted: EVIL, running: 'x', previousGood: EVIL, bytesOnDisk: 1, services: [service] }],
      }),
      known: JSON.stringify({ running: { release: EVIL, content: EVIL }, reference: EVIL }),
      releases: JSON.stringify({
        releases: [{ id: EVIL, state: EVIL, current: false, createdAt: EVIL, signers: [EVIL], bytes: 1, keep: EVIL }],
      }),
      deploys: JSON.stringify({
        deploys: [
          {
            ...{
              id: 7,
              kind: EVIL,
              who: EVIL,
              key: EVIL,
              from: EVIL,
              to: EVIL,
              result: EVIL,
              code: EVIL,
              startedAt: EVIL,
            },
            ...{ seconds: 1, gapMs: EVIL, steps: [step], receipt },
          },
        ],
      }),
      logs: ndjson({ at: EVIL, service: EVIL, release: EVIL, message: EVIL }),
    },
  }
  let shape: Record<string, string> = {}
  const refusal = JSON.stringify({ code: EVIL, message: EVIL, hint: EVIL })
  await impostor(t, {
    port,
    tls,
    answer(socket, target) {
      const name = target.split('?')[0]?.split('/').at(-1) ?? ''
      const body = shape[name] ?? shape.default
      const text = body ?? refusal
      const status = body === undefined ? '403 Forbidden' : '200 OK'
      socket.write(
        `HTTP/1.1 ${status}\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
      )
    },
  })
  const commands = [
    ['status'],
    ['releases'],
    ['deploys'],
    ['deploys', '7'],
    ['logs'],
    ['push'],
    ['rollback'],
    ['restart'],
    ['stop'],
  ]
  const leaks: string[] = []
  for (const [what, answers] of Object.entries(shapes)) {
    shape = answers
    await Promise.all(
      commands.flatMap((argv) =>
        [[], ['--json'], ...(what === 'refusal' ? [['--verbose']] : [])].map(async (flags) => {
          const { stdout, stderr, exit } = await world.tarmac(...argv, ...flags, '--host', url)
          const typed = `${argv.join(' ')} ${flags.join(' ')} (${what}, exit ${exit})`
          for (const line of `${stdout}\n${stderr}`.split('\n'))
            if (CONTROL.test(line)) leaks.push(`${typed}: ${JSON.stringify(line)}`)
        }),
      ),
    )
  }
  assert.deepEqual(leaks, [])
})

function ndjson(value: unknown): string {
  return `${JSON.stringify(value)}\n`
}

test('an app that dies with a line of 10 MB still leaves a receipt that can be read', {
  timeout: 60_000,
}, async (t) => {
  const { world, eve } = await stageOf(t)
  const command = "process.stdout.write('\\u0001'.repeat(1e7) + '\\nthe end\\n', () => process.exit(3))"
  const services = { web: { ...SLEEPER, command: { exec: [process.execPath, '-e', command] } } }
  const manifest = manifestOf([], {
    services: { web: { ...services.web, health: { intervalMs: 50, timeoutMs: 10_000, settleMs: 3_000 } } },
  })
  const file = join(world.dir, 'loud.tarmac')
  writeFileSync(file, releaseOf(eve, manifest))
  const { exit, stdout, stderr } = await world.tarmac('push', file)
  assert.equal(exit, 8, stderr.slice(0, 2000))
  assert.match(stderr, /the end/)
  assert.ok(stdout.length + stderr.length < 500_000, `${stdout.length + stderr.length} characters on the screen`)
  const logs = await world.tarmac('logs', '-n', '20')
  assert.equal(logs.exit, 0, logs.stderr.slice(0, 2000))
  assert.match(logs.stdout, /the end/)
  assert.equal((await rawRequest(world, eve, { target: STATUS })).status, 200)
})

test('the key in a refusal is a key and nothing else', async (t) => {
  const { world } = await stageOf(t)
  const stranger = makeHandKey('ssh-ed25519')
  const { body } = await rawRequest(world, stranger, { target: STATUS })
  const { hint } = JSON.parse(body) as { hint: string }
  assert.equal(
    hint,
    `on the host: tarmac-agent signers add NAME '${publicLineOf({ type: 'ssh-ed25519', blob: stranger.blob, comment: '' })}'`,
  )
})
