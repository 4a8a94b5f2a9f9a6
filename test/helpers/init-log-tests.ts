import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  addTrial,
  beginTrial,
  eventually,
  firstRelease,
  freshApp,
  logsOf,
  type MakeInit,
  otherUnit,
  secondRelease,
  started,
} from './init-trial.ts'

// Part of the contract suite: what processes wrote.

export function logTests(make: MakeInit): void {
  test('what is kept of logs has a limit, and it is told', async (t) => {
    const { init } = await make(t)
    t.after(() => init.close())
    const { state, what, hint } = await init.logLimit()
    assert.deepEqual([state, hint], ['ok', null], what)
    assert.match(what, /keeps \S+/)
  })

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
    const worker = await addTrial(trial, { app: trial.key.app, service: 'worker', program, env: { NAME: 'worker' } })
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
