import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { openSync } from 'node:fs'
import { test } from 'node:test'
import { APP_NODE, get, openPort, openPrivate, PRELOAD, startApp } from '../helpers/inherit.ts'

// Whose the descriptors are: the process init meant, and nobody it starts.

test('children of the app see nothing of us, and the app’s own NODE_OPTIONS stays; threads are untouched', async (t) => {
  const descriptors = [openPort(t), ...openPrivate(t).descriptors]
  const env = {
    NODE_OPTIONS: `--max-http-header-size=20000 --require="${PRELOAD}" --no-deprecation`,
    TARMAC_HOLD: '1',
    TARMAC_LINGER_MS: '10',
    LISTEN_PIDFDID: '12',
    TARMAC_RELEASE: 'stays',
  }
  const app = startApp(t, { argv: ['children.cjs'], descriptors, env })
  await app.said(/"thread"/)
  const [child, thread] = app
    .output()
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  assert.deepEqual(
    Object.keys(child.env).filter((name) => /^(LISTEN_|TARMAC_|NODE_)/.test(name)),
    ['NODE_OPTIONS', 'TARMAC_RELEASE'],
  )
  assert.equal(child.env.NODE_OPTIONS, '--max-http-header-size=20000 --no-deprecation')
  assert.deepEqual(child.sockets, [])
  assert.equal(child.wrapped, 0)
  assert.deepEqual(thread, { text: 'thread', before: '--max-http-header-size=20000 --no-deprecation' })
})

test('started through a shell that init told, the app is served all the same', async (t) => {
  const port = openPort(t)
  const shell = 'LISTEN_PID=$$; export LISTEN_PID; true && "$@"; exit $?'
  const app = startApp(t, { argv: ['web.cjs'], descriptors: [port], shell })
  await app.said(/listens/)
  assert.equal(await get({ port: port.port, host: '127.0.0.1' }), 'web\n')
  assert.equal(app.output().includes('tarmac:'), false)
})

test('LISTEN_PID of a process that has other descriptors, or is no ancestor, means nothing', async (t) => {
  const port = openPort(t)
  const strangers = [
    'LISTEN_PID=1 exec "$@"',
    'LISTEN_PID=4194304 exec "$@"',
    'LISTEN_PID=none exec "$@"',
    `LISTEN_PID=${process.pid} exec "$@"`, // an ancestor, whose descriptor 3 is another
    'sleep 20 >/dev/null 2>&1 & LISTEN_PID=$! exec "$@"', // the same descriptor, but no ancestor
    'exec "$@"',
  ]
  for (const shell of strangers) {
    const app = startApp(t, { argv: ['forms.cjs', 'port and host'], descriptors: [port], shell })
    const { code, output } = await app.ended
    assert.equal(code, 1, shell)
    assert.match(output, /EADDRINUSE/, shell) // it listened by itself, on a port that is in use
    assert.doesNotMatch(output, /tarmac:/)
  }
})

test('names that are not ours are left to the app, and its environment with them', async (t) => {
  const port = openPort(t)
  const descriptors = [{ name: 'http', fd: port.fd }]
  const app = startApp(t, { argv: ['forms.cjs', 'port'], descriptors, env: { PORT: '0' } })
  await app.said(/^listens$/m)
  app.kill('SIGTERM')
  assert.deepEqual(await app.ended, { code: null, signal: 'SIGTERM', output: 'listens\n' })
})

test('a systemd unit with one name for both private sockets is understood: probe first, then control', async (t) => {
  const port = openPort(t)
  const slot = openPrivate(t)
  const descriptors = [...slot.descriptors.map(({ fd }) => ({ name: 'private', fd })), port]
  const app = startApp(t, { argv: ['web.cjs'], descriptors, env: { TARMAC_HOLD: '1' } })
  await app.said(/listens/)
  assert.equal(await get({ socketPath: slot.probe }), 'web\n')
})

test('what cannot work is said in one line each, and the app goes on', async (t) => {
  const file = openSync('/dev/null', 'r')
  const port = openPort(t)
  const descriptors = [{ ...port, fd: file }, port, { name: 'control', fd: file }]
  const app = startApp(t, { argv: ['forms.cjs', 'port'], descriptors, env: { TARMAC_HOLD: '1', PORT: `${port.port}` } })
  await app.said(/^listens$/m)
  assert.equal(await get({ port: port.port, host: '127.0.0.1' }), 'port\n')
  assert.deepEqual(app.output().match(/^tarmac: .*$/gm), [
    `tarmac: descriptor 3 is named port-${port.port}, but is no socket`,
    'tarmac: descriptor 5 is named control, but is no socket',
    'tarmac: TARMAC_HOLD is set, but there is no control socket that could end it: the port is public at once',
  ])
})

test('a hold without a probe keeps the app alive', async (t) => {
  const port = openPort(t)
  const controls = openPrivate(t).descriptors.filter(({ name }) => name === 'control')
  const app = startApp(t, { argv: ['web.cjs'], descriptors: [port, ...controls], env: { TARMAC_HOLD: '1' } })
  await app.said(/listens/)
  assert.equal(await Promise.race([app.ended, new Promise((resolve) => setTimeout(resolve, 300, 'alive'))]), 'alive')
})

test('with nothing inherited it does nothing, in less than 5 ms', () => {
  const code = `const begun = process.hrtime.bigint()
    require(${JSON.stringify(PRELOAD)})
    console.log(Number(process.hrtime.bigint() - begun) / 1e6, process.listenerCount('SIGTERM'), process.env.NODE_OPTIONS)`
  const times = Array.from({ length: 5 }, () => {
    const { stdout } = spawnSync(APP_NODE, ['-e', code], {
      env: { NODE_OPTIONS: '--trace-warnings' },
      encoding: 'utf8',
    })
    assert.match(stdout, / 0 --trace-warnings\n$/)
    return Number.parseFloat(stdout)
  })
  assert.ok(Math.min(...times) < 5, `${times} ms`)
})
