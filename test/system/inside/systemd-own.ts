import assert from 'node:assert/strict'
import { chown, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { ensureAccount, userName } from '../../../agent/init/accounts.ts'
import { execText } from '../../../agent/init/systemd-escape.ts'
import { unitName } from '../../../agent/init/systemd-unit.ts'
import { run } from '../../../agent/run.ts'
import { Failure } from '../../../shared/failure.ts'
import { parseAppName } from '../../../shared/names.ts'
import {
  addTrial,
  beginTrial,
  eventually,
  factsWhen,
  freshApp,
  linesOf,
  logsOf,
  nonEmpty,
  started,
} from '../../helpers/init-trial.ts'
import { makeSystemd } from './make-systemd.ts'

// What only systemd can get wrong. Runs inside a machine that test/system/systemd-init.test.ts boots.

const STAY = 'exec sleep 1000'
const sh = (script: string, okExits = [0]) => run(['sh', '-c', script], { timeoutMs: 30_000, okExits })

test('two services whose unit would have one name never touch each other', async (t) => {
  const app = freshApp()
  const trial = await beginTrial(t, makeSystemd, { program: STAY, app: `${app}-admin`, service: 'web' })
  const other = await addTrial(trial, { program: STAY, app, service: 'admin-web' })
  await started(trial)
  await trial.init.enable(trial.key)
  assert.equal(unitName(trial.key), unitName(other.key))
  const isMismatch = (error: unknown) => error instanceof Failure && error.code === 'app_mismatch'
  for (const verb of ['start', 'stop', 'enable', 'disable', 'remove'] as const) {
    await assert.rejects(other.init[verb](other.key), isMismatch, verb)
  }
  await assert.rejects(other.init.install(other.unit), isMismatch)
  assert.equal((await other.init.facts(other.key)).state, 'absent')
  assert.deepEqual(await other.init.installed(app), [])
  assert.equal((await trial.init.facts(trial.key)).state, 'running')
  assert.equal(await trial.init.isEnabled(trial.key), true)
})

test('exits are told once through daemon-reload, daemon-reexec and a new message bus', async (t) => {
  const trial = await beginTrial(t, makeSystemd, {
    program: STAY,
    spec: { restart: { attempts: 50, withinMs: 30_000, delayMs: 100 } },
  })
  await started(trial)
  const killOnce = async (count: number) => {
    const { pid = 0 } = await eventually('running', () => factsWhen(trial, 'running'))
    process.kill(pid, 'SIGKILL')
    await eventually(`exit ${count}`, async () => trial.exits[count - 1])
  }
  await killOnce(1)
  await sh('systemctl daemon-reload')
  await killOnce(2)
  await sh('systemctl daemon-reexec')
  await killOnce(3)
  await sh('systemctl restart dbus.service')
  await eventually('the bus again', () => factsWhen(trial, 'running').catch(() => undefined))
  await sleep(500)
  await killOnce(4)
  await sleep(500)
  assert.equal(trial.exits.length, 4)
  assert.deepEqual(
    trial.exits.map((exit) => exit.respawns),
    [0, 1, 2, 3],
  )
})

test('a stop or restart by hand is no exit to report', async (t) => {
  const program = 'trap "exit 1" TERM; echo up >> "$OUT/ups"; while :; do sleep 0.1; done'
  const trial = await beginTrial(t, makeSystemd, { program })
  await started(trial)
  const unit = unitName(trial.key)
  await sh(`systemctl restart ${unit}`)
  await eventually('its trap', async () => ((await linesOf(trial, 'ups')).length === 2 ? true : undefined))
  await sh(`systemctl stop ${unit}`)
  assert.equal(
    (await trial.init.facts(trial.key)).state,
    'failed',
    'it answered SIGTERM with exit 1, and was not given up',
  )
  await sleep(500)
  assert.deepEqual(trial.exits, [])
})

test('exits that nobody listened to are found in the journal, once, and stops are none', async (t) => {
  const trial = await beginTrial(t, makeSystemd, {
    program: 'trap "exit 1" TERM; [ -e "$OUT/well" ] && rm "$OUT/well" && exit 0; while :; do sleep 0.1; done',
    spec: { restart: { attempts: 50, withinMs: 30_000, delayMs: 100 } },
  })
  const place = (await trial.init.exitsSince(null))?.place ?? null
  await started(trial)
  const unit = unitName(trial.key)
  const pidAfter = (before: number | undefined) =>
    eventually('the next one', async () => {
      const { pid, state } = await trial.init.facts(trial.key)
      return state === 'running' && pid !== before ? pid : undefined
    })
  const pids = [await pidAfter(undefined)]
  for (const how of ['SIGKILL', 'SIGSEGV', 'SIGTERM'] as const) {
    if (how === 'SIGTERM') await writeFile(join(trial.out, 'well'), '')
    process.kill(pids.at(-1) ?? 0, how)
    if (how !== 'SIGTERM') pids.push(await pidAfter(pids.at(-1)))
  }
  await eventually('the clean one', async () => (trial.exits.length === 4 ? true : undefined))
  await eventually('running', () => factsWhen(trial, 'running'))
  await sh(`systemctl restart ${unit}; systemctl stop ${unit}`)

  const past = (await trial.init.exitsSince(place)) ?? assert.fail('systemd keeps a journal')
  assert.deepEqual(
    past.exits.map(({ exit: { code, signal } }) => signal ?? code),
    ['SIGKILL', 'SIGSEGV', 1, 0],
  )
  assert.deepEqual(
    past.exits.map(({ run }) => run),
    trial.exits.map(({ run }) => run),
    'the runs have the names that they had when they were told at once',
  )
  assert.equal(new Set(past.exits.map(({ run }) => run)).size, 4)
  for (const [index, { app, service, slot, release, exit }] of past.exits.entries()) {
    assert.deepEqual({ app, service, slot, release }, { ...trial.key, release: trial.unit.release })
    const seen = Date.parse(trial.exits[index]?.exit.at ?? '')
    assert.ok(Math.abs(Date.parse(exit.at) - seen) < 100, `${exit.at} and ${seen}`)
  }
  assert.deepEqual((await trial.init.exitsSince(past.place))?.exits, [])
  await trial.init.install(trial.unit)
  const older = (await trial.init.exitsSince(place))?.exits ?? []
  assert.deepEqual(
    older.map(({ release }) => release),
    [undefined, undefined, undefined, undefined],
    'the slot was given a release after them, which they cannot have been of',
  )
})

test('a loop of clean exits is given up as well', async (t) => {
  const spec = { restart: { attempts: 3, withinMs: 30_000, delayMs: 0 } }
  const trial = await beginTrial(t, makeSystemd, { program: 'echo x >> "$OUT/starts"', spec })
  await started(trial)
  const facts = await eventually('giving up', () => factsWhen(trial, 'gave-up'))
  assert.equal(facts.respawns, 3)
  assert.equal((await linesOf(trial, 'starts')).length, 3)
  assert.equal(trial.exits.length, 3)
})

test('a service sees its own release and what it may write, and nothing of another app', async (t) => {
  const program = `find "$APPS" -type f > "$OUT/files" 2>&1; echo x > "$NASTY/x" && cat "$NASTY/x" >> "$OUT/wrote"
    cat "$ENV_FILE" > "$OUT/env" 2>&1; touch "$APPS/x" 2>> "$OUT/denied"; ${STAY}`
  const trial = await beginTrial(t, makeSystemd, { program })
  const neighbour = await addTrial(trial, { program: STAY })
  await started(neighbour)
  const { unit } = trial
  const nasty = join(unit.appsDir, unit.app, 'shared', `up loads:x "é" \\ % 'q'`)
  await mkdir(nasty)
  await chown(nasty, unit.account.uid ?? 0, unit.account.gid ?? 0)
  const env = { ...unit.env, APPS: unit.appsDir, NASTY: nasty, ENV_FILE: unit.envFile }
  await trial.init.install({ ...unit, env, writableDirs: [...unit.writableDirs, nasty] })
  await trial.init.start(trial.key)
  const [denied] = await eventually('all of it', async () => nonEmpty(await linesOf(trial, 'denied')))
  assert.match(denied ?? '', /Read-only file system/)
  const files = (await linesOf(trial, 'files')).filter((file) => !file.startsWith(trial.out))
  assert.deepEqual(files, [join(unit.treeDir, 'program')])
  assert.deepEqual(await linesOf(trial, 'wrote'), ['x'])
  assert.equal(await readFile(join(nasty, 'x'), 'utf8'), 'x\n')
  assert.match((await linesOf(trial, 'env')).join(), /No such file/)
})

test("Node's features work in the sandbox, and its exposure is small", async (t) => {
  const command = { exec: [process.execPath, 'features.cjs'] }
  const trial = await beginTrial(t, makeSystemd, { program: STAY, command })
  await writeFile(join(trial.unit.treeDir, 'features.cjs'), FEATURES)
  await started(trial)
  const [said] = await eventually('its report', async () => nonEmpty(await linesOf(trial, 'report')))
  assert.equal(said, 'all fine')
  const unit = unitName(trial.key)
  const { stdout } = await sh(`systemd-analyze security --no-pager ${unit} | tail -n 1`)
  const [, exposure] = /exposure level for .*: ([\d.]+)/.exec(stdout) ?? []
  t.diagnostic(`exposure ${exposure}`)
  assert.ok(Number(exposure) <= 1.3, stdout)
  const verified = await sh(`systemd-analyze verify /etc/systemd/system/${unit}`)
  assert.equal(verified.stderr, '')
})

test('values of every kind reach env and arguments unchanged', async (t) => {
  const values = Array.from({ length: 400 }, randomText)
  const env = Object.fromEntries(values.map((value, index) => [`K${index}`, value]))
  const command = { exec: [process.execPath, 'show.cjs', ...values] }
  const trial = await beginTrial(t, makeSystemd, { program: STAY, command, env })
  await writeFile(
    join(trial.unit.treeDir, 'show.cjs'),
    `require('node:fs').appendFileSync(process.env.OUT + '/shown', JSON.stringify([process.argv.slice(2), process.env]) + '\\n'); setInterval(() => {}, 1e6)`,
  )
  await started(trial)
  const [shown] = await eventually('what it got', async () => nonEmpty(await linesOf(trial, 'shown')))
  const [args, got] = JSON.parse(shown ?? '')
  assert.deepEqual(args, values)
  for (const [name, value] of Object.entries(env)) assert.equal(got[name], value, name)
})

test('a program name cannot carry a prefix that would run it as root', async () => {
  for (const program of ['+sh', '!sh', '-sh', '@sh', ':sh', '|sh', '', ' sh', 'sh x']) {
    assert.throws(
      () => execText([program]),
      (error) => error instanceof Failure && error.code === 'command_refused',
    )
  }
})

test('a plain program name is found, and one that is not is a clear failure', async (t) => {
  const trial = await beginTrial(t, makeSystemd, { program: STAY, command: { exec: ['sleep', '1000'] } })
  await started(trial)
  await trial.init.stop(trial.key)
  await trial.init.install({
    ...trial.unit,
    spec: { ...trial.unit.spec, command: { exec: ['no-such-program-at-all'] } },
  })
  await assert.rejects(trial.init.start(trial.key), /no-such-program-at-all.*203\/EXEC/)
})

test('lines that somebody else writes under our fields are not shown', async (t) => {
  const trial = await beginTrial(t, makeSystemd, { program: `echo mine; ${STAY}` })
  await started(trial)
  const { app, release } = trial.unit
  const fields = [`MESSAGE=forged`, `TARMAC_APP=${app}`, 'TARMAC_SERVICE=web', `RELEASE=${release}`]
  await run(['logger', '--journald'], { timeoutMs: 5000, input: `${fields.join('\n')}\n` })
  const { stdout } = await sh(`journalctl --sync; journalctl --quiet -o cat TARMAC_APP=${app}`)
  assert.match(stdout, /forged/)
  assert.deepEqual(
    (await logsOf(trial)).map((line) => line.message),
    ['mine'],
  )
})

test('an account is made once, also from inside a sandbox that cannot write /etc', async () => {
  const app = parseAppName(`long-${'x'.repeat(20)}-${process.pid % 10_000}`)
  assert.equal(userName(app).length, 31)
  const script = `const { ensureAccount } = await import(${JSON.stringify(import.meta.resolve('../../../agent/init/accounts.ts'))})
    console.log(JSON.stringify(await ensureAccount(${JSON.stringify(app)})))`
  const sandbox = [
    'ProtectSystem=strict',
    'NoNewPrivileges=yes',
    'PrivateTmp=yes',
    'CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER',
  ]
  const properties = sandbox.flatMap((property) => ['-p', property])
  const node = [process.execPath, '--input-type=module', '-e', script]
  const made = await run(['systemd-run', '--quiet', '--wait', '--pipe', '--collect', ...properties, ...node], {
    timeoutMs: 30_000,
  })
  const account = JSON.parse(made.stdout)
  assert.ok(account.uid > 0 && account.gid > 0)
  assert.deepEqual(await ensureAccount(app), account)
  const [, , , , , home, shell] = (await sh(`getent passwd ${account.user}`)).stdout.trim().split(':')
  assert.deepEqual([home, shell], ['/nonexistent', '/usr/sbin/nologin'])
})

test('a unit systemd cannot use is refused by install and leaves nothing', async (t) => {
  const trial = await beginTrial(t, makeSystemd, { program: STAY })
  const spec = { ...trial.unit.spec, command: { exec: ['./program/'] } }
  const isRefused = (error: unknown) => error instanceof Failure && /bad-setting/.test(error.message)
  await assert.rejects(trial.init.install({ ...trial.unit, spec }), isRefused)
  assert.deepEqual(await trial.init.installed(trial.key.app), [])
})

test('a unit whose file was deleted by hand is absent, and can still be stopped', async (t) => {
  const trial = await started(await beginTrial(t, makeSystemd, { program: STAY }))
  await rm(join('/etc/systemd/system', unitName(trial.key)))
  assert.equal((await trial.init.facts(trial.key)).state, 'absent')
  await trial.init.stop(trial.key)
  const { stdout } = await sh(`systemctl show -p ActiveState --value ${unitName(trial.key)}`)
  assert.equal(stdout.trim(), 'inactive')
})

function randomText(): string {
  const alphabet = [
    ...' \t\n\r"\'\\$%{}()#;=:-+!@`~&|<>?*[]^,./abcXYZ019nxtuh\x01\x07\b\v\f\x1b\x7f\x85ü漢🎉\u00a0\u2028',
  ]
  return Array.from(
    { length: Math.floor(Math.random() * 14) },
    () => alphabet[Math.floor(Math.random() * alphabet.length)],
  ).join('')
}

const FEATURES = `const fs = require('node:fs'), os = require('node:os'), http = require('node:http')
const { Worker } = require('node:worker_threads'), { execFileSync } = require('node:child_process')
async function main() {
  if (os.cpus().length === 0) throw new Error('no cpus')
  os.networkInterfaces()
  os.userInfo()
  process.setgid(process.getgid()) // as servers that drop root do, even when they have none
  process.setuid(process.getuid())
  const denied = (set) => { try { set(0) } catch (error) { return error.code === 'EPERM' } }
  if (!denied((id) => process.setuid(id)) || !denied((id) => process.setgid(id))) throw new Error('it may become root')
  fs.writeFileSync('/tmp/x', 'x')
  fs.watch('/tmp').close()
  await new Promise((ok, no) => new Worker('', { eval: true }).once('exit', ok).once('error', no))
  execFileSync('/bin/true')
  require('node:crypto').scryptSync('a', 'b', 32)
  new WebAssembly.Module(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]))
  const server = http.createServer((_, answer) => answer.end('hi')).listen(0, '127.0.0.1')
  await new Promise((ok) => server.once('listening', ok))
  const text = await (await fetch('http://127.0.0.1:' + server.address().port)).text()
  if (text !== 'hi') throw new Error(text)
  return 'all fine'
}
main().catch(String).then((said) => fs.writeFileSync(process.env.OUT + '/report', said + '\\n'))
setInterval(() => {}, 1e6)
`
