import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { beginTrial, eventually, factsWhen, linesOf, type MakeInit, started } from './init-trial.ts'

// Part of the contract suite: processes that end without being asked to.

const STAY = 'exec sleep 1000'

export function crashTests(make: MakeInit): void {
  test('a process that ends soon is given up after the limit and starts no more', async (t) => {
    // Not at once: an exit that init sees together with the exec is a start that failed.
    const program = 'echo start >> "$OUT/starts"; sleep 0.1; exit 7'
    const spec = { restart: { attempts: 5, withinMs: 30_000, delayMs: 50 } }
    const trial = await beginTrial(t, make, { program, spec })
    const told: string[] = []
    trial.init.onGaveUp(({ app, service, slot }) => {
      assert.deepEqual({ app, service, slot }, trial.key)
      trial.init.facts(trial.key).then(({ state }) => told.push(state), assert.fail)
    })
    await started(trial)
    const facts = await eventually('giving up', () => factsWhen(trial, 'gave-up'))
    await eventually('the word of it', async () => (told.includes('gave-up') ? true : undefined), 1000)
    assert.equal(facts.pid, undefined)
    assert.equal(facts.respawns, 5, 'four respawns, and the one that the limit refused')
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
