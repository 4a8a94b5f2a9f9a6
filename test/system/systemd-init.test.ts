import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { eventually } from '../helpers/init-trial.ts'
import { bootMachine, CHECKOUT_INSIDE, type Machine, machineUnavailable } from '../helpers/systemd-machine.ts'

// agent/init/systemd.ts under a real systemd. The tests themselves run inside the machine, where it is PID 1; what they
// found comes out as tests of this file.

const INSIDE = `${CHECKOUT_INSIDE}/test/system/inside`
const NODE = '/usr/local/bin/node'
/** A suite of twenty tests that start and stop processes takes 15 s; a slow machine several times that. */
const SUITE_TIMEOUT_MS = 300_000
const options = { skip: machineUnavailable() ?? false }

test('systemd keeps the contract of an init system', options, async (t) => {
  await relay(t, await machineWithNode(t, 'contract'), 'init-contract-systemd.ts')
})

test('systemd keeps what is asked of it alone', options, async (t) => {
  await relay(t, await machineWithNode(t, 'own'), 'systemd-own.ts')
})

test('a boot starts what is enabled, and the respawn limit holds with no agent there', options, async (t) => {
  const machine = await machineWithNode(t, 'reboot')
  const startsFile = (await machine.run([NODE, `${INSIDE}/boot-units.ts`, 'install'])).trim()
  await machine.reboot()
  const found = await eventually('the loop given up', async () => {
    const facts = JSON.parse(await machine.run([NODE, `${INSIDE}/boot-units.ts`, 'facts', startsFile]))
    return facts.loop.state === 'gave-up' ? facts : undefined
  })
  assert.equal(found.enabled.state, 'running')
  assert.equal(found.idle.state, 'stopped')
  assert.equal(found.loop.respawns, 3)
  assert.equal(found.loop.lastExit.code, 3)
  assert.equal(found.starts, 3)
})

async function machineWithNode(t: TestContext, name: string): Promise<Machine> {
  const machine = await bootMachine(t, { name })
  await machine.copyIn(process.execPath, NODE)
  return machine
}

/** Runs a test file inside and makes each of its tests one of ours, read from TAP, version 14. */
async function relay(t: TestContext, machine: Machine, file: string): Promise<void> {
  const argv = [NODE, '--test-reporter=tap', `${INSIDE}/${file}`]
  const ran = await machine.try(argv, { timeoutMs: SUITE_TIMEOUT_MS })
  const results = [...ran.stdout.matchAll(/^( *)(not )?ok \d+ - (.*)\n(?:\1 {2}---\n([\s\S]*?)\n\1 {2}\.\.\.)?/gm)]
  const leaves = results.filter(([, , , , details]) => !/^\s*type: 'suite'$/m.test(details ?? ''))
  for (const [, , failed, title = '', details = ''] of leaves) {
    await t.test(title.replace(/\\(.)/g, '$1'), () => {
      if (failed !== undefined) throw new Error(`inside the machine:\n${details}`)
    })
  }
  assert.ok(leaves.length > 0, `no test ran in ${file}:\n${ran.stdout}\n${ran.stderr}`)
  const failures = leaves.filter(([, , failed]) => failed !== undefined)
  if (failures.length === 0) assert.equal(ran.exit, 0, `${file} exited ${ran.exit}:\n${ran.stdout}\n${ran.stderr}`)
}
