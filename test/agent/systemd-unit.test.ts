import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { userName } from '../../agent/init/accounts.ts'
import type { UnitSpec } from '../../agent/init/init-system.ts'
import { parseEntry } from '../../agent/init/journal.ts'
import { envText, execText, pathText, plainText } from '../../agent/init/systemd-escape.ts'
import { factsOf } from '../../agent/init/systemd-facts.ts'
import { parseUnitName, unitName, unitOwner, unitText } from '../../agent/init/systemd-unit.ts'
import { Failure } from '../../shared/failure.ts'
import { parseAppName, parseReleaseId, parseServiceName } from '../../shared/names.ts'

const release = parseReleaseId('20261122T233851Z-3f9a1c2b')
const treeDir = `/var/lib/tarmac/apps/shop/releases/${release}/tree`
const unit: UnitSpec = {
  app: parseAppName('shop'),
  service: parseServiceName('web'),
  slot: 'a',
  release,
  spec: {
    command: { exec: ['./bin/server', '--name', 'a b'] },
    health: { intervalMs: 250, timeoutMs: 30_000, settleMs: 1000 },
    restart: { attempts: 5, withinMs: 30_000, delayMs: 1000 },
    stopTimeoutMs: 16_000,
    limits: { memoryBytes: 536_870_912, tasks: 256 },
  },
  account: { user: 'tarmac-shop', uid: 900, gid: 900 },
  treeDir,
  appsDir: '/var/lib/tarmac/apps',
  env: {},
  envFile: '/var/lib/tarmac/apps/shop/env/web@a.env',
  envRevision: 7,
  writableDirs: ['/var/lib/tarmac/apps/shop/shared/uploads'],
}
const textOf = (change: Partial<UnitSpec> = {}, systemdVersion = 249) =>
  unitText({ ...unit, ...change }, { systemdVersion })
const linesOf = (change: Partial<UnitSpec> = {}, systemdVersion = 249) => textOf(change, systemdVersion).split('\n')
const isFailure = (code: string) => (error: unknown) => error instanceof Failure && error.code === code

test('a unit says in its first line who manages it and at its end whose it is', () => {
  const text = textOf()
  assert.match(text, /^# Managed by tarmac/)
  const { app, service, slot, envFile, envRevision } = unit
  assert.deepEqual(unitOwner(text), { app, service, slot, release, envFile, envRevision })
})

test('a file tarmac did not write has no owner', () => {
  for (const text of [
    '',
    '[Service]\nExecStart=/bin/true\n',
    '[X-Tarmac]\n',
    '\n[X-Tarmac]\nApp=Shop_1\nService=web\nSlot=a\n',
  ]) {
    assert.equal(unitOwner(text), undefined)
  }
})

test('the respawn limit, the stop time and the limits of the manifest stand in the unit', () => {
  const lines = linesOf()
  const wanted = [
    'StartLimitIntervalSec=30s',
    'StartLimitBurst=5',
    'Restart=always',
    'RestartSec=1s',
    'TimeoutStopSec=16s',
    'SuccessExitStatus=143',
    'MemoryMax=536870912',
    'TasksMax=256',
    'User=tarmac-shop',
    `WorkingDirectory=${treeDir}`,
    `LogExtraFields=RELEASE=${release} TARMAC_APP=shop TARMAC_SERVICE=web TARMAC_SLOT=a`,
  ]
  assert.deepEqual(
    wanted.filter((line) => !lines.includes(line)),
    [],
  )
})

test('a relative program is one of the release, a bare one is for systemd to find', () => {
  const startOf = (exec: string[]) =>
    linesOf({ spec: { ...unit.spec, command: { exec } } }).find((line) => line.startsWith('ExecStart='))
  assert.equal(startOf(['./bin/server', 'x']), `ExecStart=":${treeDir}/bin/server" "x"`)
  assert.equal(startOf(['bin/server']), `ExecStart=":${treeDir}/bin/server"`)
  assert.equal(startOf(['/usr/bin/node', 'a b']), 'ExecStart=":/usr/bin/node" "a b"')
  assert.equal(startOf(['node']), 'ExecStart=":node"')
})

test('an exec command is stopped at its process, a shell with all its children', () => {
  assert.ok(linesOf().includes('KillMode=mixed'))
  const shell = linesOf({ spec: { ...unit.spec, command: { shell: 'node "a" && echo $X 50%' } } })
  assert.ok(shell.includes('KillMode=control-group'))
  assert.ok(shell.includes('ExecStart=":/bin/sh" "-c" "node \\"a\\" && echo $X 50%%"'))
})

test('directives that systemd 249 does not know appear only where the version has them', () => {
  assert.ok(!linesOf({}, 249).includes('MemoryPressureWatch=skip'))
  assert.ok(!linesOf({}, 252).includes('MemoryPressureWatch=skip'))
  assert.ok(linesOf({}, 255).includes('MemoryPressureWatch=skip'))
})

test('what breaks Node is not in the sandbox', () => {
  assert.doesNotMatch(textOf({}, 259), /MemoryDenyWriteExecute|ProcSubset/)
})

test('no value adds a line to a unit or an env file', () => {
  const hostile = fc.string({ unit: fc.constantFrom(...'\n\r\\"%$\'; =[]x\t\u2028ü') })
  fc.assert(
    fc.property(hostile, (value) => {
      const spec = { ...unit.spec, command: { exec: ['node', value] } }
      assert.equal(
        linesOf({ spec }).length,
        linesOf({ spec: { ...unit.spec, command: { exec: ['node', ''] } } }).length,
      )
      // An even number of quotes that are not escaped, and one more variable than before only at a line's start.
      const text = envText({ A: value, B: '' })
      assert.ok(text.endsWith('"\nB=""\n'))
      assert.equal(
        text
          .slice('A="'.length, -'"\nB=""\n'.length)
          .replace(/\\["\\$`]/g, '')
          .match(/["\\]/),
        null,
      )
    }),
  )
})

test('values that systemd or Linux cannot carry are refused by the name of the variable, not its value', () => {
  for (const value of [
    'secret\0',
    'secret\ufffe',
    'secret\uffff',
    'secret\ufdd0',
    'secret\u{1fffe}',
    'secret\ud800',
    `secret${'x'.repeat(131_072)}`,
  ]) {
    assert.throws(
      () => envText({ TOKEN: value }),
      (error) => error instanceof Failure && /TOKEN/.test(error.message) && !/secret/.test(error.message),
    )
    assert.throws(() => execText(['node', value]), isFailure('config_invalid'))
  }
  for (const name of ['', 'A B', '1A', 'A=B', 'A\n', 'ä'])
    assert.throws(() => envText({ [name]: '' }), isFailure('config_invalid'))
  assert.equal(envText({ A: 'x'.repeat(131_069) }).length, 131_074, 'the longest that Linux takes')
})

test('programs that systemd would read as something else are refused', () => {
  for (const program of ['+sh', '-sh', '!sh', '@sh', ':sh', '|sh', '', 'a b', '/a"b', "/a'b", '/a\\b', '/a\nb']) {
    assert.throws(() => execText([program]), isFailure('command_refused'), program)
  }
  assert.throws(() => execText(['node', ...Array(100).fill('x'.repeat(16_384))]), isFailure('command_refused'))
})

test('paths keep their bytes, and a value that cannot stand on one line is refused', () => {
  assert.equal(pathText('/a b/"c"\\:%'), '"/a b/\\"c\\"\\\\:%%"')
  assert.equal(plainText('/a b/50%'), '/a b/50%%')
  for (const value of ['/a\n', '/a\\', '/a ', ' /a']) assert.throws(() => plainText(value), isFailure('config_invalid'))
})

test('a unit name tells its slot, and names that are none of ours tell nothing', () => {
  assert.equal(unitName(unit), 'tarmac-shop-web@a.service')
  assert.deepEqual(parseUnitName('tarmac-shop-web@b.service'), { appAndService: 'shop-web', slot: 'b' })
  for (const name of [
    'tarmac-shop-web@c.service',
    'tarmac-shop-web.service',
    'ssh.service',
    '.tarmac-shop-web@a.service.tmp',
  ]) {
    assert.equal(parseUnitName(name), undefined)
  }
})

test('user names of long apps are cut, and no two apps share one', () => {
  assert.equal(userName(parseAppName('shop')), 'tarmac-shop')
  const long = [parseAppName('a'.repeat(31)), parseAppName(`${'a'.repeat(30)}b`)]
  const names = long.map(userName)
  assert.ok(
    names.every((name) => name.length === 31 && /^tarmac-a{15}_[0-9a-f]{8}$/.test(name)),
    names.join(),
  )
  assert.notEqual(names[0], names[1])
})

test('journal lines come as text, bytes or lists, and a line without a message is none', () => {
  const entry = { __REALTIME_TIMESTAMP: '1795390731123456', TARMAC_SERVICE: 'web', RELEASE: release }
  const messageOf = (MESSAGE: unknown) => parseEntry(JSON.stringify({ ...entry, MESSAGE }))?.message
  assert.deepEqual(parseEntry(JSON.stringify({ ...entry, MESSAGE: 'hi' })), {
    at: '2026-11-22T23:38:51.123Z',
    service: 'web',
    release,
    message: 'hi',
  })
  assert.equal(messageOf([27, 91, 51, 49, 109, 195, 188]), '\u001b[31mü')
  assert.equal(messageOf(['one', 'two']), 'one')
  assert.equal(messageOf(null), undefined)
})

test('a unit was given up when it failed after its last allowed respawn, not when a stop went wrong', () => {
  const stateOf = (changed: Record<string, unknown>) =>
    factsOf({ LoadState: 'loaded', ActiveState: 'failed', StartLimitBurst: 5, NRestarts: 5, ...changed }).state
  assert.equal(stateOf({ Result: 'exit-code' }), 'gave-up')
  assert.equal(stateOf({ Result: 'start-limit-hit', NRestarts: 0 }), 'gave-up')
  assert.equal(stateOf({ Result: 'exit-code', NRestarts: 1 }), 'failed')
  assert.equal(stateOf({ Result: 'timeout' }), 'failed')
})
