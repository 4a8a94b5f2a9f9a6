import assert from 'node:assert/strict'
import { access, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure } from '../../shared/failure.ts'
import { crashTests } from './init-crash-tests.ts'
import { logTests } from './init-log-tests.ts'
import { socketTests } from './init-socket-tests.ts'
import {
  addTrial,
  beginTrial,
  eventually,
  firstRelease,
  isAlive,
  linesOf,
  type MakeInit,
  nonEmpty,
  otherUnit,
  secondRelease,
  started,
} from './init-trial.ts'

// One suite for every init system: what agent/init/init-system.ts promises, tried on real processes.

const STAY = 'exec sleep 1000'
const nastyEnv = {
  EMPTY: '',
  QUOTES: `"double" and 'single' and \`back\``,
  PERCENT: '50% %n %h %%',
  // biome-ignore lint/suspicious/noTemplateCurlyInString: what a shell or systemd would replace
  DOLLAR: '$HOME ${HOME} $$ $(id)',
  NEWLINE: 'one\ntwo\n\nthree\n',
  INJECTION: 'x"\nINJECTED="1\n[Service]\nExecStartPre=/bin/false',
  BACKSLASH: 'a\\b\\n\\x41 \\',
  UNICODE: 'ü 漢 🎉 \u00a0',
  BLANKS: '  lead and trail\t ',
  HASH: '#no comment; a=b',
  CONTROL: '\u001b[31mred\u001b[0m\r\u0007',
}

export function initContract(name: string, make: MakeInit): void {
  describe(`init system ${name}`, () => {
    lifeTests(make)
    processTests(make)
    crashTests(make)
    logTests(make)
    fileTests(make)
    socketTests(make)
  })
}

function lifeTests(make: MakeInit): void {
  test('what was installed and started runs with a pid, and install alone starts nothing', async (t) => {
    const trial = await beginTrial(t, make, { program: STAY })
    const { init, key } = trial
    assert.equal((await init.facts(key)).state, 'absent')
    await init.install(trial.unit)
    assert.equal((await init.facts(key)).state, 'stopped')
    const before = Date.now()
    await init.start(key)
    const facts = await init.facts(key)
    assert.equal(facts.state, 'running')
    assert.ok(facts.pid !== undefined && isAlive(facts.pid))
    assert.equal(facts.respawns, 0)
    assert.ok(Math.abs(Date.parse(facts.since ?? '') - before) < 2000, `since ${facts.since} is when it started`)
    assert.ok((facts.memoryBytes ?? 0) > 0)
  })

  test('stop leaves no process, children neither, and is no exit to report', async (t) => {
    const program = 'sleep 1000 & echo $! >> "$OUT/pids"; echo $$ >> "$OUT/pids"; wait'
    const trial = await started(await beginTrial(t, make, { program }))
    const pids = await eventually('two pids', async () => {
      const lines = await linesOf(trial, 'pids')
      return lines.length === 2 ? lines.map(Number) : undefined
    })
    await trial.init.stop(trial.key)
    assert.deepEqual(pids.filter(isAlive), [])
    assert.equal((await trial.init.facts(trial.key)).pid, undefined)
    assert.equal((await trial.init.facts(trial.key)).state, 'stopped')
    await trial.init.stop(trial.key)
    await sleep(500)
    assert.deepEqual(trial.exits, [])
  })

  test('a process deaf to SIGTERM is gone when its stop time is over', async (t) => {
    const program = 'trap "" TERM; echo $$ > "$OUT/pid"; while :; do sleep 0.1; done'
    const trial = await started(await beginTrial(t, make, { program, spec: { stopTimeoutMs: 1000 } }))
    const [pid] = await eventually('its pid', async () => {
      const lines = await linesOf(trial, 'pid')
      return lines.length === 1 ? lines.map(Number) : undefined
    })
    const before = Date.now()
    await trial.init.stop(trial.key)
    assert.ok(Date.now() - before < 5000)
    assert.equal(isAlive(pid ?? 0), false)
    assert.equal((await trial.init.facts(trial.key)).state, 'stopped')
  })

  test('a shell command runs in a shell, and all of it stops', async (t) => {
    const command = { shell: 'echo "$GREETING" 100% > "$OUT/said"; sleep 1000 | cat' }
    const trial = await started(await beginTrial(t, make, { program: STAY, command, env: { GREETING: 'ü "hi"' } }))
    await eventually('what it said', async () => ((await linesOf(trial, 'said')).length > 0 ? true : undefined))
    assert.deepEqual(await linesOf(trial, 'said'), ['ü "hi" 100%'])
    await trial.init.stop(trial.key)
    assert.equal((await trial.init.facts(trial.key)).state, 'stopped')
  })

  test('enable and disable decide whether a boot starts it', async (t) => {
    const trial = await beginTrial(t, make, { program: STAY })
    const { init, key, startsAtBoot } = trial
    await init.install(trial.unit)
    assert.equal(await init.isEnabled(key), false)
    await init.enable(key)
    assert.equal(await init.isEnabled(key), true)
    if (startsAtBoot !== undefined) assert.equal(await startsAtBoot(key), true)
    await init.disable(key)
    assert.equal(await init.isEnabled(key), false)
    if (startsAtBoot !== undefined) assert.equal(await startsAtBoot(key), false)
    assert.equal((await init.facts(key)).state, 'stopped', 'neither starts it now')
  })
}

function processTests(make: MakeInit): void {
  test('the process runs as the account, in its tree, and cannot write there', async (t) => {
    const program =
      'id -u > "$OUT/uid"; pwd -P > "$OUT/cwd"; touch here 2>/dev/null && echo yes > "$OUT/wrote"; exec sleep 1000'
    const trial = await beginTrial(t, make, { program })
    await started(trial)
    const [cwd] = await eventually('its directory', async () => nonEmpty(await linesOf(trial, 'cwd')))
    assert.equal(cwd, trial.unit.treeDir)
    const { uid } = trial.unit.account
    if (uid === undefined) return t.diagnostic('runs as the caller: this init cannot change users here')
    assert.notEqual(uid, 0)
    assert.deepEqual(await linesOf(trial, 'uid'), [String(uid)])
    await sleep(200)
    assert.deepEqual(await linesOf(trial, 'wrote'), [])
  })

  test('the env arrives exactly, whole, and nothing of the agent comes with it', async (t) => {
    process.env.TARMAC_TEST_LEAK = 'the agent knows this'
    t.after(() => delete process.env.TARMAC_TEST_LEAK)
    const command = { exec: [process.execPath, 'show.cjs', ...Object.values(nastyEnv)] }
    const trial = await beginTrial(t, make, { program: STAY, command, env: nastyEnv })
    await writeFile(join(trial.unit.treeDir, 'show.cjs'), SHOW)
    await started(trial)
    const shown = await eventually('what it was given', async () => nonEmpty(await linesOf(trial, 'shown')))
    const { env, args } = JSON.parse(shown[0] ?? '')
    for (const [key, value] of Object.entries(nastyEnv)) assert.equal(env[key], value, key)
    assert.deepEqual(args, Object.values(nastyEnv))
    assert.equal(env.TARMAC_TEST_LEAK, undefined)
    assert.equal(env.INJECTED, undefined)
    assert.equal((await stat(trial.unit.envFile)).mode & 0o777, 0o600)

    const { EMPTY: _, ...fewer } = nastyEnv
    await trial.init.stop(trial.key)
    await trial.init.install({ ...trial.unit, env: { OUT: trial.out, ...fewer } })
    await trial.init.start(trial.key)
    const again = await eventually('a second showing', async () => (await linesOf(trial, 'shown'))[1])
    assert.equal(JSON.parse(again).env.EMPTY, undefined, 'a variable that was taken out is gone')
  })

  test('a missing program fails the start by name, and nothing loops behind it', async (t) => {
    const trial = await beginTrial(t, make, { program: STAY, command: { exec: ['./bin/no-such-program', 'x'] } })
    await trial.init.install(trial.unit)
    await assert.rejects(trial.init.start(trial.key), (error) => {
      assert.ok(error instanceof Failure)
      assert.match(error.message, /no-such-program/)
      return true
    })
    const { state, pid } = await trial.init.facts(trial.key)
    assert.equal(pid, undefined)
    assert.ok(state === 'stopped' || state === 'failed' || state === 'gave-up', state)
  })
}

function fileTests(make: MakeInit): void {
  test('remove stops it and leaves no file', async (t) => {
    const trial = await beginTrial(t, make, { program: STAY })
    await started(trial)
    await trial.init.enable(trial.key)
    const { pid = 0 } = await trial.init.facts(trial.key)
    assert.notDeepEqual(await trial.filesOf(trial.key.app), [])
    await trial.init.remove(trial.key)
    assert.equal(isAlive(pid), false)
    assert.deepEqual(await trial.filesOf(trial.key.app), [])
    await assert.rejects(access(trial.unit.envFile))
    assert.equal((await trial.init.facts(trial.key)).state, 'absent')
    assert.deepEqual(await trial.init.installed(trial.key.app), [])
    await trial.init.remove(trial.key)
  })

  test('installed lists the units of that app with release and env revision, and of no app whose name begins alike', async (t) => {
    const trial = await beginTrial(t, make, { program: STAY })
    const longer = await addTrial(trial, { app: `${trial.key.app}-admin`, program: STAY })
    const inB = { ...(await otherUnit(trial, { slot: 'b' })), envRevision: 7 }
    for (const unit of [trial.unit, longer.unit, inB]) await trial.init.install(unit)
    const bySlot = (await trial.init.installed(trial.key.app)).sort((x, y) => x.slot.localeCompare(y.slot))
    assert.deepEqual(bySlot, [
      { ...trial.key, release: firstRelease, envRevision: 0 },
      { ...trial.key, slot: 'b', release: firstRelease, envRevision: 7 },
    ])
    assert.deepEqual(await trial.init.installed(longer.key.app), [
      { ...longer.key, release: firstRelease, envRevision: 0 },
    ])
  })

  test('writing one slot leaves the process in the other alone', async (t) => {
    const trial = await beginTrial(t, make, { program: STAY })
    await started(trial)
    const before = await trial.init.facts(trial.key)
    await trial.init.install(await otherUnit(trial, { slot: 'b', release: secondRelease }))
    await trial.init.remove({ ...trial.key, slot: 'b' })
    const after = await trial.init.facts(trial.key)
    assert.equal(after.pid, before.pid)
    assert.equal(after.state, 'running')
  })
}

const SHOW = `const fs = require('node:fs')
fs.appendFileSync(process.env.OUT + '/shown', JSON.stringify({ env: process.env, args: process.argv.slice(2) }) + '\\n')
setInterval(() => {}, 1000)
`
