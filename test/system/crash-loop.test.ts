import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { AppStatus, DeployEntry } from '../../shared/wire.ts'
import { installedHost, type SystemHost } from '../helpers/system-host.ts'
import { machineUnavailable } from '../helpers/systemd-machine.ts'
import type { Told } from '../helpers/webhook.ts'

// Crash loops under real systemd, of services that are restarted and of services that hand their port over: the two
// end in different ways, since the agent stops a slot before systemd's limit fails the socket of both.

const options = { skip: machineUnavailable() ?? false }
const PORT = 3000
const WEBHOOK_PORT = 9009
/** Of a release that dies for good, from the writing of it: about 5 s after its switch. */
const LIVES_MS = 8_000
/** What the agent may take from init's giving up to the older release serving, on a machine that has a core for it. */
const BACK_MS = 2_000
const BACK_LOADED_MS = 10_000
/** Longer than LIVES_MS and five starts a second apart, on a loaded machine. */
const PATIENCE_MS = 40_000
const QUIET_MS = 4_000

// Both at once: each has its own machine, and waits for it.
describe('crash loops', { concurrency: true }, () => {
  for (const mode of ['restart', 'slots'] as const) {
    test(`a crash loop under systemd is rolled back once, switch = "${mode}"`, options, async (t) => {
      const host = await installedHost(t)
      const { machine } = host
      const told = await webhookInside(host)
      const dir = project(t, host, mode)
      const status = async (): Promise<AppStatus> => (await json(host, dir, 'status')).apps[0]
      const deploys = async (): Promise<DeployEntry[]> => (await json(host, dir, 'deploys')).deploys
      const changes = async () => (await deploys()).map(({ kind, result }) => `${kind} ${result}`)
      const push = async (text: string) => {
        writeFileSync(join(dir, 'server.js'), text)
        const { exit, stderr, stdout } = await host.tarmac(dir, 'push', '--json')
        assert.equal(exit, 0, stderr + stdout)
      }
      const until = async (what: string, ask: () => Promise<unknown>) => {
        for (const end = Date.now() + PATIENCE_MS; Date.now() < end; await sleep(100)) if (await ask()) return
        assert.fail(`${what} did not come: ${await machine.run(['journalctl', '--no-pager', '-n', '100'])}`)
      }
      const back = (version: string, count: number) =>
        until(`the way back to ${version}`, async () => {
          const done = told.filter(({ event }) => event === 'auto-rollback').length
          return done === count && (await host.get(PORT)) === version
        })
      const isGreen = async () => (await host.tarmac(dir, 'status', '--check')).exit === 0

      await t.test('one that dies for good is left within two seconds of being given up', async () => {
        await push(app('1'))
        await push(app('2', { until: Date.now() + LIVES_MS }))
        const pushed = (await status()).wanted
        assert.equal(await host.get(PORT), '2')
        await back('1', 1)
        const [entry] = await deploys()
        assert.deepEqual([entry?.kind, entry?.result, entry?.who, entry?.key], ['auto-rollback', 'done', 'tarmac', '-'])
        assert.deepEqual([entry?.from, entry?.receipt?.exit?.code], [pushed, 9])
        assert.ok(entry?.receipt?.output.includes('version 2 is over'), JSON.stringify(entry?.receipt?.output))
        const switched = entry?.steps.find(({ step }) => step === 'switched')?.at ?? ''
        // On a loaded machine the agent's own count of exits may come before systemd's limit; with the stop that follows
        // systemd forgets the unit, and the last exit is the moment to count from.
        const gaveUp = await gaveUpAt(host, mode)
        const lastExit = Date.parse(entry?.receipt?.exit?.at ?? '')
        const tookMs = Date.parse(switched) - (Number.isNaN(gaveUp) ? lastExit : gaveUp)
        t.diagnostic(`${mode}: it served again ${Math.round(tookMs)} ms after init gave up, gap ${entry?.gapMs} ms`)
        const isLoaded = (loadavg()[0] ?? 0) > availableParallelism()
        assert.ok(tookMs < (isLoaded ? BACK_LOADED_MS : BACK_MS), `${tookMs} ms`)
        const { wanted, running, services } = await status()
        assert.deepEqual([wanted, services[0]?.state, running], [pushed, 'degraded', entry?.to])
        assert.ok(!(await isGreen()))
        assert.deepEqual(
          told.map(({ event, release }) => [event, release]),
          [
            ['crash-loop', pushed],
            ['auto-rollback', entry?.to],
          ],
        )
        const evidence = await machine.try(['systemctl', 'is-enabled', 'tarmac-shop-web@b'])
        assert.equal(evidence.stdout.trim(), 'disabled', 'a boot starts the one that serves')
      })

      await t.test('a restart of the agent does not repeat it, and a fix makes all green', async () => {
        const before = await status()
        await machine.run(['systemctl', 'restart', 'tarmac-agent'])
        await host.awaitAgent()
        await sleep(QUIET_MS)
        assert.deepEqual(await changes(), ['auto-rollback done', 'push done', 'push done'])
        const { wanted, running, services } = await status()
        assert.deepEqual([wanted, running, services[0]?.state], [before.wanted, before.running, 'degraded'])
        assert.equal(told.length, 2)
        await push(app('3'))
        assert.ok(await isGreen())
        assert.equal(await host.get(PORT), '3')
      })

      await t.test('one that crashes slower than init can see is called by its exits', async () => {
        await push(app('4', { everyMs: 1_500 }))
        await back('3', 2)
        const [entry] = await deploys()
        assert.match(entry?.receipt?.reason ?? '', /^web is in a crash loop: 6 exits within 60 s \(exit code 9\)$/)
        await sleep(QUIET_MS)
        assert.equal((await changes()).filter((change) => change.startsWith('auto-rollback')).length, 2)
        assert.equal(await host.get(PORT), '3')
      })

      await t.test('one that ended while the agent was away is acted on at its start', async () => {
        await push(app('5', { until: Date.now() + LIVES_MS }))
        await machine.run(['systemctl', 'stop', 'tarmac-agent'])
        await until('the limit of the unit', async () => {
          const units = ['tarmac-shop-web@a', 'tarmac-shop-web@b']
          return (await machine.try(['systemctl', 'is-failed', ...units])).stdout.includes('failed')
        })
        assert.equal(await host.get(PORT), undefined)
        await machine.run(['systemctl', 'start', 'tarmac-agent'])
        await host.awaitAgent()
        await back('3', 3)
        const [entry] = await deploys()
        assert.deepEqual([entry?.kind, entry?.result, entry?.receipt?.exit?.code], ['auto-rollback', 'done', 9])
        await push(app('6'))
        assert.ok(await isGreen())
        assert.equal(await host.get(PORT), '6')
      })

      const slowLoop = async () => {
        await push(app('6a', { everyMs: 1_000 }))
        const pushed = (await status()).wanted
        await machine.run(['systemctl', 'stop', 'tarmac-agent'])
        const unit = /^\S+/.exec(
          await machine.run(['systemctl', 'list-units', '--plain', '--no-legend', '--type=service', 'tarmac-*@*']),
        )
        const asked = ['systemctl', 'show', '-p', 'NRestarts', '--value', unit?.[0] ?? '']
        await until('six exits', async () => Number(await machine.run(asked)) >= 6)
        await machine.run(['systemctl', 'start', 'tarmac-agent'])
        await host.awaitAgent()
        await back('6', 4)
        const [entry] = await deploys()
        assert.deepEqual([entry?.kind, entry?.result, entry?.from], ['auto-rollback', 'done', pushed])
        assert.match(entry?.receipt?.reason ?? '', /^web is in a crash loop: \d+ exits within 60 s/)
        await push(app('6'))
        assert.ok(await isGreen())
      }
      // The journal tells it, whatever the mode: it is enough to wait for it once.
      if (mode === 'restart') await t.test('a slow loop while the agent was away is called at its start', slowLoop)

      await t.test('when the one it went back to loops too, it stays down and says so', async () => {
        await push(app('7', { poison: true }))
        await push(app('8', { until: Date.now() + LIVES_MS }))
        await back('7', told.filter(({ event }) => event === 'auto-rollback').length + 1)
        told.length = 0
        await machine.writeFile('/var/poison', '')
        await until('the news', async () => told.length > 0)
        assert.match(told[0]?.text ?? '', /stays down: it was rolled back once since the last push/)
        await until('the verdict', async () => (await changes())[0] === 'gave-up failed')
        await sleep(QUIET_MS)
        assert.deepEqual((await changes()).slice(0, 2), ['gave-up failed', 'auto-rollback done'], 'once')
        assert.deepEqual([(await status()).services[0]?.state, (await status()).running], ['crash-looping', null])
        await machine.run(['systemctl', 'restart', 'tarmac-agent'])
        await host.awaitAgent()
        await sleep(QUIET_MS)
        assert.deepEqual([(await status()).services[0]?.state, told.length], ['crash-looping', 1])
        assert.equal((await changes()).filter((change) => change === 'gave-up failed').length, 1, 'once per loop')
        await push(app('9'))
        assert.ok(await isGreen())
        assert.equal(await host.get(PORT), '9')
      })
    })
  }
})

/** `until`: dead for good from then on. `everyMs`: crashes so long after each start. `poison`: dies of a file. */
function app(version: string, of: { until?: number; everyMs?: number; poison?: boolean } = {}): string {
  const end = of.until !== undefined ? `${of.until} - Date.now()` : of.everyMs
  return `const over = () => { console.error('version ${version} is over'); process.exit(9) }
${end === undefined ? '' : `const left = ${end}; if (left <= 0) over(); setTimeout(over, left)`}
${of.poison ? "setInterval(() => { if (require('node:fs').existsSync('/var/poison')) over() }, 50)" : ''}
require('node:http').createServer((q, r) => r.end('${version}')).listen(process.env.PORT)
`
}

function project(t: TestContext, host: SystemHost, mode: string): string {
  const dir = mkdtempSync(join(tmpdir(), 'tarmac-loop-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  writeFileSync(
    join(dir, 'tarmac.toml'),
    `app = "shop"
[services.web]
command = "node server.js"
port = ${PORT}
switch = "${mode}"
[services.web.health]
path = "/"
interval = "100ms"
[restart]
attempts = 5
within = "8s"
delay = "1s"
[environments.production]
hosts = ["${host.url}"]
`,
  )
  return dir
}

/** A receiver on the machine's own loopback, the one place where http:// goes. */
async function webhookInside(host: SystemHost): Promise<Told[]> {
  const { machine } = host
  const told: Told[] = []
  const script = `require('node:http').createServer((q, r) => {
    let text = ''
    q.on('data', (chunk) => { text += chunk }).on('end', () => { console.log(text); r.end() })
  }).listen(${WEBHOOK_PORT}, '127.0.0.1')`
  const receiver = machine.spawn(['node', '-e', script])
  let rest = ''
  receiver.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop() ?? ''
    told.push(...lines.map((line) => JSON.parse(line)))
  })
  const toml = `\n[watch]\nexits = 6\nwithin = "1m"\n[notify]\nwebhook = "http://127.0.0.1:${WEBHOOK_PORT}/hook"\n`
  const file = '/etc/tarmac/agent.toml'
  await machine.writeFile(file, (await machine.readFile(file)) + toml)
  await machine.run(['systemctl', 'restart', 'tarmac-agent'])
  await host.awaitAgent()
  return told
}

async function json(host: SystemHost, dir: string, verb: string) {
  const { stdout, stderr } = await host.tarmac(dir, verb, '--json')
  assert.notEqual(stdout, '', stderr)
  return JSON.parse(stdout).hosts[0]
}

/** When the respawning ended for good, ms since 1970: systemd says it of the unit, or the agent of a slot. */
async function gaveUpAt({ machine }: SystemHost, mode: string): Promise<number> {
  if (mode === 'restart') {
    const argv = ['-p', 'StateChangeTimestamp', '--value', '--timestamp=us+utc', 'tarmac-shop-web@b']
    const [, day, time] = (await machine.run(['systemctl', 'show', ...argv])).trim().split(' ')
    return Date.parse(`${day}T${time}Z`)
  }
  const argv = ['--no-pager', '-o', 'json', '--output-fields=MESSAGE', '-u', 'tarmac-agent']
  const lines = (await machine.run(['journalctl', ...argv])).trim().split('\n')
  const said = lines.map((line) => JSON.parse(line)).findLast(({ MESSAGE }) => MESSAGE.includes('loop: given up'))
  return Number(said.__REALTIME_TIMESTAMP) / 1000
}
