import assert from 'node:assert/strict'
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { expressApp } from '../helpers/express-app.ts'
import { installedHost, type SystemHost } from '../helpers/system-host.ts'
import { machineUnavailable } from '../helpers/systemd-machine.ts'
import { restarting } from '../helpers/world.ts'

// The whole road under real systemd: the agent as its own unit in a booted machine, the client outside of it, and an
// Express app with thousands of files of installed packages.

const options = { skip: machineUnavailable() ?? false }
const PORT = 3000

test('a person pushes an Express app to a host under systemd, and all that follows', options, async (t) => {
  const host = await installedHost(t)
  const { machine } = host
  const dir = await expressApp(t)
  const toml = restarting(readFileSync(join(dir, 'tarmac.toml'), 'utf8'))
  writeFileSync(join(dir, 'tarmac.toml'), `${toml}\n[environments.production]\nhosts = ["${host.url}"]\n`)
  const good = readFileSync(join(dir, 'server.js'), 'utf8')
  const version = (text: string) => writeFileSync(join(dir, 'VERSION'), `${text}\n`)
  const push = async (...argv: string[]) => {
    const { exit, stdout, stderr } = await host.tarmac(dir, 'push', '--json', ...argv)
    const lines = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    return { exit, stderr, lines, summary: lines.at(-1) }
  }
  const show = async (unit: string, ...properties: string[]) => {
    const text = await machine.run(['systemctl', 'show', unit, '-p', properties.join(',')])
    return Object.fromEntries(
      text
        .trim()
        .split('\n')
        .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
    )
  }

  await t.test('a first push makes it answer, under limits and a user of its own', async () => {
    assert.equal(await host.get(PORT), undefined)
    version('1')
    const { exit, stderr, summary } = await push()
    assert.equal(exit, 0, stderr)
    assert.ok(summary.objectsSent > 1000, `${summary.objectsSent} objects`)
    assert.match((await host.get(PORT)) ?? '', /^Shop 1 /)
    const unit = (await webOf(host, dir)).unit
    const text = await machine.run(['systemctl', 'cat', unit])
    for (const line of [
      'StartLimitIntervalSec=30',
      'StartLimitBurst=5',
      'Restart=always',
      'User=tarmac-shop',
      'ProtectSystem=strict',
    ]) {
      assert.ok(
        text.split('\n').some((there) => there.startsWith(line)),
        `${line} in ${text}`,
      )
    }
    const { MainPID, UnitFileState } = await show(unit, 'MainPID', 'UnitFileState')
    assert.equal(UnitFileState, 'enabled')
    const user = await machine.run(['stat', '-c', '%U', `/proc/${MainPID}`])
    assert.equal(user.trim(), 'tarmac-shop')
  })

  await t.test('the same tree again sends nothing and says so; five changed files send five objects', async () => {
    const again = await push()
    assert.deepEqual([again.exit, again.summary.objectsSent, again.lines[0].alreadyRunning], [0, 0, true])
    for (let index = 0; index < 5; index++) writeFileSync(join(dir, `extra-${index}.txt`), `${index} of five`)
    const changed = await push()
    assert.deepEqual([changed.exit, changed.summary.objectsSent], [0, 5])
  })

  await t.test('a killed process comes back, and status counts it as systemctl does', async () => {
    const { unit } = await webOf(host, dir)
    await machine.run(['systemctl', 'kill', '--signal=KILL', unit])
    await sleep(2_500)
    const { service } = await webOf(host, dir)
    const { NRestarts, MainPID } = await show(unit, 'NRestarts', 'MainPID')
    assert.deepEqual([service.respawns.sinceSwitch, service.pid], [Number(NRestarts), Number(MainPID)])
    assert.equal(service.respawns.sinceSwitch, 1)
    assert.deepEqual([service.lastExit.signal, service.state], ['SIGKILL', 'running'])
    assert.match((await host.get(PORT)) ?? '', /^Shop 1 /)
  })

  await t.test(
    'a release that exits at once is given up after the limit, push exits 7, the old one answers',
    async () => {
      const before = (await webOf(host, dir)).service.release
      writeFileSync(join(dir, 'server.js'), "console.error('no database'); process.exit(3)\n")
      const { exit, lines } = await push()
      assert.equal(exit, 7)
      const { receipt } = lines.find(({ step }) => step === 'failed')
      assert.equal(receipt.exit.code, 3)
      assert.ok(receipt.output.includes('no database'), JSON.stringify(receipt.output))
      assert.equal(receipt.running, before)
      assert.match((await host.get(PORT)) ?? '', /^Shop 1 /)
      const slot = (await webOf(host, dir)).service.slot === 'a' ? 'b' : 'a'
      const { NRestarts, ActiveState } = await show(`tarmac-shop-web@${slot}.service`, 'NRestarts', 'ActiveState')
      assert.deepEqual([ActiveState, Number(NRestarts)], ['failed', receipt.respawns])
      assert.ok(receipt.respawns >= 4, `${receipt.respawns} respawns for 5 starts`)
      const logs = await host.tarmac(dir, 'logs', 'web', '--release', receipt.release)
      assert.match(logs.stdout, /no database/)
      writeFileSync(join(dir, 'server.js'), good)
    },
  )

  await t.test('a fix pushed right after the crash loop starts at once; rollback goes back', async () => {
    version('2')
    assert.equal((await push()).exit, 0)
    assert.match((await host.get(PORT)) ?? '', /^Shop 2 /)
    const back = await host.tarmac(dir, 'rollback')
    assert.equal(back.exit, 0, back.stderr)
    assert.match((await host.get(PORT)) ?? '', /^Shop 1 /)
  })

  const nasty = `\n"q' $HOME $(id) \\n %n %% \x01\x7f ü🎉\nExecStartPre=/bin/false\\`
  const nastyNow = async () => {
    const pid = (await webOf(host, dir)).service.pid
    const environ = Buffer.from(await machine.run(['base64', '-w0', `/proc/${pid}/environ`]), 'base64').toString()
    return environ.split('\0').find((entry) => entry.startsWith('NASTY='))
  }

  await t.test('a variable arrives to the byte; one that the app dies of is taken back', async () => {
    const set = await host.tarmac(dir, 'env', 'set', `NASTY=${nasty}`)
    assert.equal(set.exit, 0, set.stderr)
    assert.equal(await nastyNow(), `NASTY=${nasty}`)
    const bad = await host.tarmac(dir, 'env', 'set', 'NODE_OPTIONS=--no-such-option', 'NASTY=')
    assert.deepEqual([bad.exit, /no-such-option is not allowed/.test(bad.stderr)], [7, true], bad.stderr)
    assert.match((await host.get(PORT)) ?? '', /^Shop 1 /)
    assert.equal(await nastyNow(), `NASTY=${nasty}`)
    assert.equal((await host.tarmac(dir, 'status', '--check')).exit, 0)
  })

  await t.test('restarting the agent leaves the app alone', async () => {
    const before = (await webOf(host, dir)).service.pid
    await machine.run(['systemctl', 'restart', 'tarmac-agent'])
    await host.awaitAgent()
    assert.equal((await webOf(host, dir)).service.pid, before)
  })

  await t.test('a reboot brings the app back', async () => {
    await machine.reboot()
    await host.awaitAgent()
    for (let tries = 0; tries < 100 && (await host.get(PORT)) === undefined; tries++) await sleep(100)
    assert.match((await host.get(PORT)) ?? '', /^Shop 1 /)
    assert.equal((await host.tarmac(dir, 'status', '--check')).exit, 0)
    assert.equal(await nastyNow(), `NASTY=${nasty}`)
  })

  await t.test('13 more pushes leave what retention says, and nothing else on disk', async () => {
    for (let index = 0; index < 13; index++) {
      version(`3.${index}`)
      appendFileSync(join(dir, 'extra-0.txt'), 'x')
      assert.equal((await push()).exit, 0)
    }
    const { stdout } = await host.tarmac(dir, 'releases', '--json')
    const kept: { id: string; state: string }[] = JSON.parse(stdout).hosts[0].releases
    assert.equal(kept.filter(({ state }) => state === 'healthy').length, 10)
    const onDisk = (await machine.run(['ls', '/var/lib/tarmac/apps/shop/releases'])).trim().split('\n')
    assert.deepEqual(onDisk.sort(), kept.map(({ id }) => id).sort())
    // But for the spare tree that is made for the next push.
    const left = (await machine.run(['ls', '/var/lib/tarmac/apps/shop/staging'])).trim().split('\n')
    assert.deepEqual(
      left.filter((name) => !/^(\S+\.spare(\.part)?)?$/.test(name)),
      [],
    )
    const orphans = await machine.run(['find', '/var/lib/tarmac/apps/shop/objects', '-type', 'f', '-links', '1'])
    assert.equal(orphans, '')
    const units = (await machine.run(['bash', '-c', 'ls /etc/systemd/system | grep tarmac-shop']))
      .trim()
      .split('\n')
      .sort()
    assert.deepEqual(units, ['tarmac-shop-web@a.service', 'tarmac-shop-web@b.service'])
  })
})

async function webOf(host: SystemHost, dir: string) {
  const { stdout, stderr } = await host.tarmac(dir, 'status', '--json')
  assert.notEqual(stdout, '', stderr)
  const service = JSON.parse(stdout).hosts[0].apps[0].services[0]
  return { service, unit: `tarmac-shop-web@${service.slot}.service` }
}
