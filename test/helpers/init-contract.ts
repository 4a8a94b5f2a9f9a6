import assert from 'node:assert/strict'
import { access, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure } from '../../shared/failure.ts'
import {
  addTrial,
  beginTrial,
  eventually,
  firstRelease,
  freshApp,
  isAlive,
  linesOf,
  logsOf,
  type MakeInit,
  otherUnit,
  secondRelease,
  type Trial,
} from './init-trial.ts'

// One suite for every init system: what agent/init/init-system.ts promises, tried on real processes.

const STAY = 'exec sleep 1000'
const nastyEnv = {
  EMPTY: '',
  QUOTES: `"double" and 'single' and \`back\``,
  PERCENT: '50% %n %h %%',
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
    await init.enable(key)
    if (startsAtBoot !== undefined) assert.equal(await startsAtBoot(key), true)
    await init.disable(key)
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

function crashTests(make: MakeInit): void {
  test('a process that ends at once is given up after the limit and starts no more', async (t) => {
    const program = 'echo start >> "$OUT/starts"; exit 7'
    const spec = { restart: { attempts: 5, withinMs: 30_000, delayMs: 50 } }
    const trial = await beginTrial(t, make, { program, spec })
    await started(trial)
    const facts = await eventually('giving up', () => factsWhen(trial, 'gave-up'))
    assert.equal(facts.pid, undefined)
    assert.equal(facts.respawns, 4, 'five starts are four respawns')
    assert.equal(facts.lastExit?.code, 7)
    assert.equal(facts.lastExit?.signal, null)
    assert.equal(facts.lastExit?.oom, false)
    await sleep(1500)
    assert.equal((await linesOf(trial, 'starts')).length, 5)
    assert.equal((await trial.init.facts(trial.key)).state, 'gave-up')
    assert.deepEqual(
      trial.exits.map((exit) => exit.exit.code),
      [7, 7, 7, 7, 7],
      'each exit once',
    )
    assert.deepEqual(
      trial.exits.map((exit) => exit.respawns),
      [0, 1, 2, 3, 4],
    )

    await trial.init.install(trial.unit)
    await trial.init.start(trial.key)
    await eventually(
      'a start after giving up',
      async () => ((await linesOf(trial, 'starts')).length > 5 ? true : undefined),
      1000,
    )
  })

  test('a killed process comes back, and its exit is told within a second', async (t) => {
    const trial = await beginTrial(t, make, { program: STAY })
    await started(trial)
    const { pid = 0 } = await trial.init.facts(trial.key)
    const killedAt = Date.now()
    process.kill(pid, 'SIGKILL')
    const exit = await eventually('the exit', async () => trial.exits[0], 1000)
    assert.ok(exit.seenAt - killedAt < 1000)
    assert.deepEqual({ app: exit.app, service: exit.service, slot: exit.slot }, trial.key)
    assert.equal(exit.exit.code, null)
    assert.equal(exit.exit.signal, 'SIGKILL')
    assert.ok(Math.abs(Date.parse(exit.exit.at) - killedAt) < 1000)
    const facts = await eventually('another pid', async () => {
      const now = await trial.init.facts(trial.key)
      return now.state === 'running' && now.pid !== pid ? now : undefined
    })
    assert.equal(facts.respawns, 1)
    assert.equal(trial.exits.length, 1)
  })

  test('a clean exit nobody asked for is respawned too', async (t) => {
    const program = 'echo start >> "$OUT/starts"; [ -e "$OUT/once" ] && exec sleep 1000; touch "$OUT/once"; exit 0'
    const trial = await beginTrial(t, make, { program })
    await started(trial)
    await eventually('two starts', async () => ((await linesOf(trial, 'starts')).length === 2 ? true : undefined))
    await eventually('running', () => factsWhen(trial, 'running'))
    assert.deepEqual(
      trial.exits.map((exit) => exit.exit.code),
      [0],
    )
  })
}

function logTests(make: MakeInit): void {
  test('logs come by release and service, oldest first, also of the dead', async (t) => {
    const program = 'echo "$NAME one"; echo "$NAME two" >&2; printf "\\033[31mred \\303\\274\\n"; exec sleep 1000'
    const trial = await beginTrial(t, make, { program, env: { NAME: 'web-first' } })
    await started(trial)
    await eventually('three lines', async () => ((await logsOf(trial)).length >= 3 ? true : undefined))
    await trial.init.stop(trial.key)
    const next = await otherUnit(trial, {
      slot: 'b',
      release: secondRelease,
      env: { ...trial.unit.env, NAME: 'web-second' },
    })
    await trial.init.install(next)
    await trial.init.start(next)
    const worker = await addTrial(t, trial, { app: trial.key.app, service: 'worker', program, env: { NAME: 'worker' } })
    await started(worker)
    await eventually('nine lines', async () => ((await logsOf(trial)).length >= 9 ? true : undefined))

    const dead = await logsOf(trial, { service: trial.key.service, release: firstRelease })
    assert.deepEqual(
      dead.map((line) => line.message),
      ['web-first one', 'web-first two', '\u001b[31mred ü'],
    )
    assert.ok(dead.every((line) => line.release === firstRelease && line.service === 'web'))
    assert.ok(dead.every((line) => !Number.isNaN(Date.parse(line.at))))
    const web = await logsOf(trial, { service: trial.key.service })
    assert.equal(web.length, 6)
    assert.equal(web[3]?.message, 'web-second one')
    assert.equal((await logsOf(trial, { release: firstRelease })).length, 6, 'both services of one release')
    const newest = await logsOf(trial, { service: trial.key.service, lines: 2 })
    assert.deepEqual(
      newest.map((line) => line.message),
      ['web-second two', '\u001b[31mred ü'],
    )
    assert.deepEqual(await logsOf(trial, { since: new Date(Date.now() + 60_000).toISOString() }), [])
    assert.deepEqual(await logsOf(trial, { app: freshApp() }), [])
  })

  test('following logs gives new lines as they come and ends with the signal', async (t) => {
    const program = 'n=0; while [ $n -lt 100 ]; do n=$((n+1)); echo "line $n"; sleep 0.1; done; exec sleep 1000'
    const trial = await beginTrial(t, make, { program })
    await started(trial)
    const controller = new AbortController()
    const seen: string[] = []
    const query = { app: trial.key.app, lines: 100, follow: true }
    const deadline = setTimeout(() => controller.abort(), 10_000)
    for await (const line of trial.init.logs(query, controller.signal)) {
      if (seen.push(line.message) === 10) controller.abort()
    }
    clearTimeout(deadline)
    assert.deepEqual(
      seen.slice(0, 10),
      Array.from({ length: 10 }, (_, index) => `line ${index + 1}`),
    )
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

  test('installed lists the units of that app and of no app whose name begins alike', async (t) => {
    const trial = await beginTrial(t, make, { program: STAY })
    const longer = await addTrial(t, trial, { app: `${trial.key.app}-admin`, program: STAY })
    const inB = await otherUnit(trial, { slot: 'b' })
    for (const unit of [trial.unit, longer.unit, inB]) await trial.init.install(unit)
    const bySlot = (await trial.init.installed(trial.key.app)).sort((x, y) => x.slot.localeCompare(y.slot))
    assert.deepEqual(bySlot, [trial.key, { ...trial.key, slot: 'b' }])
    assert.deepEqual(await trial.init.installed(longer.key.app), [longer.key])
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

async function started(trial: Trial): Promise<Trial> {
  await trial.init.install(trial.unit)
  await trial.init.start(trial.key)
  return trial
}

async function factsWhen(trial: Trial, state: string) {
  const facts = await trial.init.facts(trial.key)
  return facts.state === state ? facts : undefined
}

function nonEmpty(lines: string[]): string[] | undefined {
  return lines.length > 0 ? lines : undefined
}
