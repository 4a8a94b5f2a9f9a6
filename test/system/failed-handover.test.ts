import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { installedHost } from '../helpers/system-host.ts'
import { machineUnavailable } from '../helpers/systemd-machine.ts'
import { projectText, restarting } from '../helpers/world.ts'

// Under systemd a port that was opened for a release is answered by its socket unit, whether the release lives or not.

const options = { skip: machineUnavailable() ?? false }
const PORT = 3000

test(
  'what a failed first push with switch = "slots" opened is not in the way of the release before',
  options,
  async (t) => {
    const host = await installedHost(t)
    const dir = mkdtempSync(join(tmpdir(), 'tarmac-test-'))
    t.after(() => rmSync(dir, { recursive: true, force: true }))
    const push = (version: string, { slots, command }: { slots: boolean; command: string }) => {
      const toml = projectText(PORT, host.url).replace('node server.js', command)
      const text = slots ? toml : restarting(toml)
      writeFileSync(join(dir, 'tarmac.toml'), text)
      writeFileSync(join(dir, 'run.sh'), 'exec node server.js\n')
      const server = `require('node:http').createServer((q, r) => r.end('${version}')).listen(process.env.PORT)`
      writeFileSync(join(dir, 'server.js'), version === 'broken' ? 'process.exit(3)' : server)
      return host.tarmac(dir, 'push')
    }
    const node = 'node server.js'
    assert.equal((await push('1', { slots: false, command: node })).exit, 0)
    for (const [version, command] of [
      ['broken', node],
      ['2', 'sh run.sh'],
    ] as const) {
      const { exit, stderr } = await push(version, { slots: true, command })
      assert.equal(exit, 7, stderr)
      assert.equal(await host.get(PORT), '1', command)
    }

    // Slots serve; then the release is stopped behind the agent's back, and a push fails beside nobody.
    assert.equal((await push('3', { slots: true, command: node })).exit, 0)
    await host.machine.run(['sh', '-c', 'systemctl stop tarmac-shop-web@[ab].service'])
    const { exit, stdout, stderr } = await push('broken', { slots: true, command: node })
    assert.equal(exit, 7, `"serves on" would be a lie: ${stdout}${stderr}`)
    assert.equal(await host.get(PORT), '3')
  },
)
