import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { build } from '../../build.ts'
import { bootMachine, type Machine, machineUnavailable } from '../helpers/systemd-machine.ts'

const ROOT = join(import.meta.dirname, '../..')
const UNIT = 'tarmac-agent.service'
/** Several times RestartSec: a start that would be repeated has been by then. */
const REPEATED_BY_MS = 12_000
const options = { skip: machineUnavailable() ?? false }

/** A machine with the unit and a Node new enough where systemd/README.md puts them. */
async function machineWithUnit(t: TestContext): Promise<Machine> {
  const machine = await bootMachine(t)
  await machine.copyIn(process.execPath, '/usr/local/bin/node')
  await machine.writeFile(`/etc/systemd/system/${UNIT}`, await readFile(join(ROOT, 'systemd', UNIT)))
  return machine
}

test("the agent's unit allows what the agent does, and denies the rest", options, async (t) => {
  const machine = await machineWithUnit(t)
  await machine.copyIn(join(ROOT, 'test/system/inside/agent-sandbox.mjs'), '/usr/local/lib/agent-sandbox.mjs')
  await machine.writeFile('/root/secret', '')
  const verified = await machine.try(['systemd-analyze', 'verify', `/etc/systemd/system/${UNIT}`])
  assert.match(verified.stderr, /tarmac-agent is not executable/) // not installed yet: the only thing it may miss
  assert.equal(verified.stderr.trim().split('\n').length, 1, verified.stderr)

  const probe =
    '[Service]\nExecStart=\nExecStart=/usr/local/bin/node /usr/local/lib/agent-sandbox.mjs\nType=oneshot\nRestart=no\n'
  await machine.writeFile(`/etc/systemd/system/${UNIT}.d/probe.conf`, probe)
  await machine.run(['systemctl', 'daemon-reload'])
  await machine.run(['systemctl', 'start', UNIT])
  const went: Record<string, string> = JSON.parse(await machine.readFile('/var/lib/tarmac/probe.json'))
  const denied = Object.entries(went).filter(([what]) => what.startsWith('deny: '))
  assert.ok(denied.length > 0)
  for (const [what, how] of denied) assert.notEqual(how, 'ok', what)
  const wrong = Object.entries(went).filter(([what, how]) => !what.startsWith('deny: ') && how !== 'ok')
  assert.deepEqual(wrong, [])

  const modes = await machine.run(['stat', '-c', '%a %U %n', '/var/lib/tarmac', '/etc/tarmac'])
  assert.equal(modes, '755 root /var/lib/tarmac\n755 root /etc/tarmac\n')
})

test(
  'an agent that has no signers is not started again and again, and one that has them listens',
  options,
  async (t) => {
    const machine = await machineWithUnit(t)
    const dir = await mkdtemp(join(tmpdir(), 'tarmac-agent-unit-'))
    t.after(() => rm(dir, { recursive: true, force: true }))
    const outfile = join(dir, 'tarmac-agent')
    await build(ROOT, [{ entry: 'agent/main.ts', outfile: relative(ROOT, outfile) }])
    await machine.copyIn(outfile, '/usr/local/bin/tarmac-agent')
    await machine.run(['tarmac-agent', 'init'])

    await machine.try(['systemctl', 'start', UNIT])
    await sleep(REPEATED_BY_MS)
    const shown = await machine.run(['systemctl', 'show', UNIT, '-p', 'ActiveState,NRestarts,ExecMainStatus'])
    assert.deepEqual(shown.trim().split('\n').sort(), ['ActiveState=failed', 'ExecMainStatus=3', 'NRestarts=0'])

    execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(dir, 'key')])
    await machine.run(['tarmac-agent', 'signers', 'add', 'anna', (await readFile(join(dir, 'key.pub'), 'utf8')).trim()])
    await machine.run(['systemctl', 'start', UNIT])
    for (
      let tries = 0;
      tries < 100 && (await machine.try(['bash', '-c', '< /dev/tcp/127.0.0.1/7433'])).exit !== 0;
      tries++
    ) {
      await sleep(100)
    }
    const log = await machine.run(['journalctl', '--no-pager', '--unit', UNIT, '--output', 'cat'])
    assert.match(log, /"listening"/)
    assert.equal((await machine.run(['systemctl', 'is-active', UNIT])).trim(), 'active')
    const begun = performance.now()
    await machine.run(['systemctl', 'stop', UNIT])
    assert.ok(performance.now() - begun < 5000, 'an idle agent stops at once')
    assert.equal((await machine.try(['systemctl', 'is-failed', UNIT])).stdout.trim(), 'inactive')
  },
)
