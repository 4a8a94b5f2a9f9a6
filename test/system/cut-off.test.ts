import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { startLoad } from '../helpers/load.ts'
import { type ClientRan, installedHost, type SystemHost } from '../helpers/system-host.ts'
import { machineUnavailable } from '../helpers/systemd-machine.ts'

// A push that is cut off under a real systemd, where services outlive their agent: by SIGKILL of the agent, with callers
// all the while, and by the host's power. `npm run test:faults` takes every place that a push comes by.

const isWhole = process.env.TARMAC_FAULTS === 'all'
const PORT = 3000
const FAULT_FILE = '/var/lib/tarmac/fault'
const PATIENCE_MS = 60_000
const BUSY = 5
const UNREACHABLE = 4
const KILLS = [
  'disk.synced',
  'init.install',
  'init.start',
  'init.unhold',
  'control.activated',
  'env.bound',
  'init.enable',
  'init.disable',
  'init.stop',
  'ledger.closeDeploy',
]
const POWER_CUTS = ['disk.placed', 'ledger.received', 'init.start', 'env.bound', 'init.enable', 'ledger.setWanted']

test('a push that is cut off leaves one whole release serving', { skip: machineUnavailable() ?? false }, async (t) => {
  const pushed = await readyHost(t)
  for (let version = 1; version <= 2; version++) await pushed.whole()
  const places = await pushed.places()

  await t.test('killed at any place, the agent comes back to it, and no caller notices', async (t) => {
    const load = startLoad(PORT, { host: pushed.host.machine.ip, clientsOfEachKind: 2 })
    t.after(() => load.stop())
    for (const [point, nth] of chosen(places, KILLS)) {
      const { before, version, ended } = await pushed.cutOff(`${point} ${nth} kill`)
      const { exit, stderr } = await ended
      await settled(pushed.host, { before, version, exit }, `${point} ${nth}: ${stderr}`)
    }
    const { requests, failures } = await load.stop()
    t.diagnostic(`${failures.length} of ${requests} requests failed`)
    assert.deepEqual(failures, [])
  })

  await t.test('with the power cut at any place, the host comes back with it', async () => {
    for (const [point, nth] of chosen(places, POWER_CUTS)) {
      const { before, version, ended } = await pushed.cutOff(`${point} ${nth} stall`)
      await pushed.host.machine.reboot()
      const { exit, stderr } = await ended
      await settled(pushed.host, { before, version, exit }, `${point} ${nth}: ${stderr}`)
    }
    await pushed.whole()
  })
})

function chosen(places: Map<string, number>, sample: string[]): [string, number][] {
  for (const point of sample) assert.ok(places.has(point), `a push does not come by ${point}`)
  return [...places].filter(([point]) => isWhole || sample.includes(point))
}

interface Cut {
  before: string
  version: string
  exit: number | null
}

/** Waited for: who watched is told that nothing had begun before the agent is back, and after a boot the app starts. */
async function settled(host: SystemHost, cut: Cut, about: string): Promise<void> {
  let wrong = await wrongWith(host, cut)
  for (const end = Date.now() + PATIENCE_MS; wrong.length > 0 && Date.now() < end; await sleep(50)) {
    wrong = await wrongWith(host, cut)
  }
  assert.deepEqual(wrong, [], about)
}

/** Exactly one slot runs, the one that a boot starts; it answers; nothing of the other is left. */
async function wrongWith({ machine, get }: SystemHost, { before, version, exit }: Cut): Promise<string[]> {
  const wrong: string[] = []
  const answer = (await get(PORT)) ?? 'nobody'
  const exits: Record<string, (number | null)[]> = { [version]: [0], [before]: [4, 7] }
  if (!exits[answer]?.includes(exit)) wrong.push(`${answer} answers, and the exit was ${exit}`)
  const units = async (verb: string, state: string) => {
    const argv = [
      'systemctl',
      verb,
      '--plain',
      '--no-legend',
      '--no-pager',
      `--state=${state}`,
      'tarmac-shop-*@*.service',
    ]
    const text = await machine.run(argv)
    return text.split('\n').flatMap((line) => line.split(/\s+/)[0] || [])
  }
  const [running, enabled] = [await units('list-units', 'active'), await units('list-unit-files', 'enabled')]
  if (running.length !== 1 || running[0] !== enabled.join()) wrong.push(`${running} runs, and a boot starts ${enabled}`)
  const ls = 'ls -d /run/tarmac/shop/*.hold /var/lib/tarmac/apps/shop/staging/* 2>/dev/null; true'
  const left = (await machine.run(['sh', '-c', ls])).trim()
  if (left !== '') wrong.push(`left behind: ${left}`)
  const current = 'cd /var/lib/tarmac/apps/shop/current && sha256sum tree/server.js && cat release.json'
  const [digest = '', manifest = ''] = (await machine.run(['sh', '-c', current])).split(/ {2}tree\/server\.js\n/)
  if (!manifest.includes(`"sha256":"${digest}"`)) wrong.push('current is not whole')
  return wrong
}

async function readyHost(t: TestContext) {
  const host = await installedHost(t)
  const { machine } = host
  const dir = mkdtempSync(join(tmpdir(), 'tarmac-cut-off-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  const dropIn = '/etc/systemd/system/tarmac-agent.service.d/faults.conf'
  await machine.writeFile(dropIn, `[Service]\nEnvironment=TARMAC_FAULT_FILE=${FAULT_FILE}\nRestartSec=100ms\n`)
  await machine.run(['systemctl', 'daemon-reload'])
  await machine.run(['systemctl', 'restart', 'tarmac-agent'])
  await host.awaitAgent()
  writeFileSync(join(dir, 'tarmac.toml'), projectText(host.url))
  let version = 0
  const push = () => {
    version += 1
    const answer = `(q, r) => r.end('${version}')`
    writeFileSync(join(dir, 'server.js'), `require('node:http').createServer(${answer}).listen(process.env.PORT)\n`)
    return host.tarmac(dir, 'push', '--json')
  }
  const isHit = async () => (await machine.try(['test', '-e', FAULT_FILE])).exit !== 0
  return {
    host,
    /** One that nothing cuts off. */
    async whole(): Promise<void> {
      const { exit, stdout, stderr } = await push()
      assert.equal(exit, 0, stdout + stderr)
      assert.equal(await host.get(PORT), String(version))
    },
    /** Every place that a push comes by, with how often. */
    async places(): Promise<Map<string, number>> {
      await machine.writeFile(FAULT_FILE, 'none 1 kill')
      await this.whole()
      await machine.run(['rm', FAULT_FILE])
      const log = await machine.run(['journalctl', '-u', 'tarmac-agent', '-o', 'cat', '--no-pager'])
      const places = new Map<string, number>()
      for (const [, point = ''] of log.matchAll(/"point":"([^"]+)","msg":"fault point"/g)) {
        places.set(point, (places.get(point) ?? 0) + 1)
      }
      return places
    },
    /** Returns when the agent has come to the place; `ended` when the one who watches knows how it ended. */
    async cutOff(fault: string): Promise<{ before: string; version: string; ended: Promise<ClientRan> }> {
      const before = (await host.get(PORT)) ?? ''
      await machine.writeFile(FAULT_FILE, fault)
      let ended = push()
      for (const end = Date.now() + PATIENCE_MS; !(await isHit()); await sleep(50)) {
        if (Date.now() > end) assert.fail(`${fault}: not reached`)
        const over = await Promise.race([ended, undefined])
        if (over === undefined || (await isHit())) continue
        // The agent still brought the last one in order.
        assert.ok(
          over.exit === BUSY || over.exit === UNREACHABLE,
          `${fault}: not reached: ${over.stdout}${over.stderr}`,
        )
        ended = push()
      }
      return { before, version: String(version), ended }
    },
  }
}

function projectText(url: string): string {
  return `app = "shop"
[services.web]
command = "node server.js"
port = ${PORT}
[services.web.health]
path = "/"
interval = "50ms"
[keep]
releases = 2
[environments.production]
hosts = ["${url}"]
`
}
