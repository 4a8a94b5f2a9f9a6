import assert from 'node:assert/strict'
import { connect, createServer } from 'node:net'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { UnitSpec } from '../../agent/init/init-system.ts'
import { beginTrial, eventually, linesOf, type MakeInit, otherUnit, secondRelease, type Trial } from './init-trial.ts'

// The part of the contract about ports that are handed over: what a switch without a gap stands on.

/** Serves the text of its slot from the inherited socket that is called port-…, as sd_listen_fds(3) has it. */
const SERVE = `exec node -e '
const names = process.env.LISTEN_FDNAMES.split(":")
const fd = 3 + names.findIndex((name) => name.startsWith("port-"))
require("fs").appendFileSync(process.env.OUT + "/seen", [process.env.LISTEN_FDS, names.slice().sort().join("+"), process.env.LISTEN_PID == process.pid, process.env.TARMAC_HOLD].join(" ") + "\\n")
require("net").createServer((socket) => socket.end(process.env.SLOT)).listen({ fd })
'`

export function socketTests(make: MakeInit): void {
  test('a port stays open while slots take turns behind it, and connections wait meanwhile', async (t) => {
    const { trial, port, other } = await begin(t, make, 'inherited')
    const { init } = trial
    await init.openPort({ ...trial.key, port })
    await init.openPort({ ...trial.key, port })
    assert.deepEqual(
      (await init.openPorts(trial.key.app)).map((open) => [open.service, open.port]),
      [[trial.key.service, port]],
    )
    await init.start(trial.key)
    assert.equal(await eventually('an answer', () => ask(port)), 'a')
    await init.stop(trial.key)
    const waiting = ask(port)
    await sleep(300)
    await init.start(other)
    assert.equal(await waiting, 'b')
    assert.deepEqual((await linesOf(trial, 'seen'))[0]?.trim(), `1 port-${port} true`)
    await init.stop(other)
    await init.closePort(trial.key)
    assert.equal(await ask(port), undefined)
    assert.deepEqual(await init.openPorts(trial.key.app), [])
  })

  test('both slots can serve at once, and either may end without the other noticing', async (t) => {
    const { trial, port, other } = await begin(t, make, 'inherited')
    const { init } = trial
    await init.openPort({ ...trial.key, port })
    for (const key of [trial.key, other]) await init.start(key)
    await eventually('both', async () => {
      const answers = new Set(await Promise.all(Array.from({ length: 20 }, () => ask(port))))
      return answers.has('a') && answers.has('b') ? true : undefined
    })
    await init.stop(trial.key)
    const after = await Promise.all(Array.from({ length: 20 }, () => ask(port)))
    assert.deepEqual(new Set(after), new Set(['b']))
  })

  test('a held unit is told so at every start, and no more after unhold', async (t) => {
    const { trial, port } = await begin(t, make, 'preload')
    const { init, key } = trial
    await init.openPort({ ...key, port })
    await init.hold(key)
    await init.start(key)
    const first = await eventually('its start', async () => (await linesOf(trial, 'seen'))[0])
    assert.equal(first, `3 port-${port}+private+private true 1`)
    await init.unhold(key)
    await init.stop(key)
    await init.start(key)
    const second = await eventually('its second start', async () => (await linesOf(trial, 'seen'))[1])
    assert.equal(second.trim(), `3 port-${port}+private+private true`)
  })

  test('a port that somebody else has is refused by its number', async (t) => {
    const { trial } = await begin(t, make, 'inherited')
    const server = createServer().listen(0)
    t.after(() => server.close())
    const address = server.address()
    const taken = typeof address === 'object' && address !== null ? address.port : 0
    await assert.rejects(trial.init.openPort({ ...trial.key, port: taken }), {
      code: 'program_failed',
      message: new RegExp(`port ${taken}`),
    })
  })

  test('a crash loop of one slot leaves the other slot and the port alone', async (t) => {
    const { trial, port, other } = await begin(t, make, 'inherited')
    const { init } = trial
    await init.openPort({ ...trial.key, port })
    await init.start(trial.key)
    await eventually('an answer', () => ask(port))
    const attempts = 3
    const broken: UnitSpec = {
      ...other,
      spec: { ...other.spec, command: { shell: 'exit 4' }, restart: { attempts, withinMs: 30_000, delayMs: 300 } },
    }
    await init.install(broken)
    init.onExit(() => {
      if (trial.exits.filter(({ slot }) => slot === 'b').length === attempts) void init.giveUp(broken)
    })
    await init.start(broken)
    const facts = await eventually('giving up', async () => {
      const now = await init.facts(broken)
      return now.state === 'gave-up' ? now : undefined
    })
    assert.equal(facts.lastExit?.code, 4)
    assert.ok(facts.respawns >= attempts - 1, `${facts.respawns} respawns`)
    await sleep(700)
    assert.equal((await init.facts(broken)).state, 'gave-up')
    assert.equal(await ask(port), 'a')
    await init.install(other)
    await init.start(other)
    await init.stop(trial.key)
    assert.equal(await eventually('an answer of the other slot', () => ask(port)), 'b')
  })
}

async function begin(t: Parameters<typeof beginTrial>[0], make: MakeInit, style: 'preload' | 'inherited') {
  const port = await freePort()
  const trial: Trial = await beginTrial(t, make, { program: SERVE, env: { SLOT: 'a' } })
  t.after(() => trial.init.closePort(trial.key))
  const handover = { port, style }
  const first = { ...trial.unit, handover }
  const other = {
    ...(await otherUnit(trial, { slot: 'b', release: secondRelease })),
    handover,
    env: { ...trial.unit.env, SLOT: 'b' },
  }
  for (const unit of [first, other]) await trial.init.install(unit)
  return { trial, port, other }
}

/** The whole answer; undefined when nobody takes the connection. Waits for one that is in the queue. */
function ask(port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    let text = ''
    socket.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk
    })
    socket.once('error', () => resolve(undefined))
    socket.once('end', () => resolve(text))
    socket.setTimeout(10_000, () => socket.destroy(new Error('no answer')))
  })
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0))
    })
  })
}
