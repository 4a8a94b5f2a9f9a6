import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { expressApp } from '../helpers/express-app.ts'
import { installedHost } from '../helpers/system-host.ts'
import { machineUnavailable } from '../helpers/systemd-machine.ts'

// switch = "slots" under real systemd: two slots on one socket, and not one request lost.

const options = { skip: machineUnavailable() ?? false }
const PORT = 3000
const SWITCHES = 6
const LOAD_SECONDS = 45

test(
  'a service with slots loses no request through pushes, failed pushes, a rollback and an agent restart',
  options,
  async (t) => {
    const host = await installedHost(t)
    const { machine } = host
    const dir = await expressApp(t)
    const toml = readFileSync(join(dir, 'tarmac.toml'), 'utf8').replace('port = 3000', 'port = 3000\nswitch = "slots"')
    writeFileSync(join(dir, 'tarmac.toml'), `${toml}\n[environments.production]\nhosts = ["${host.url}"]\n`)
    const good = readFileSync(join(dir, 'server.js'), 'utf8')
    const version = (text: string) => writeFileSync(join(dir, 'VERSION'), `${text}\n`)
    const push = () => host.tarmac(dir, 'push', '--json')

    version('0')
    const first = await push()
    assert.equal(first.exit, 0, first.stderr + first.stdout)
    assert.match((await host.get(PORT)) ?? '', /^Shop 0 /)
    const units = await machine.run(['systemctl', 'list-units', '--all', '--no-legend', '--plain', 'tarmac-shop-*'])
    assert.deepEqual(
      units
        .trim()
        .split('\n')
        .map((line) => line.split(/\s+/)[0])
        .sort(),
      ['tarmac-shop-web.service', 'tarmac-shop-web.socket', 'tarmac-shop-web@a.service', 'tarmac-shop-web@a.socket'],
    )

    const loads = [wrk([]), wrk(['-H', 'Connection: close'])]
    await sleep(500)
    for (let index = 1; index <= SWITCHES; index++) {
      version(String(index))
      assert.equal((await push()).exit, 0)
    }
    assert.match((await host.get(PORT)) ?? '', new RegExp(`^Shop ${SWITCHES} `))

    writeFileSync(join(dir, 'server.js'), "console.error('no database'); process.exit(3)\n")
    const crash = await push()
    assert.equal(crash.exit, 6, crash.stderr)
    writeFileSync(
      join(dir, 'server.js'),
      good.replace("app.get('/health'", "app.get('/health', (_q, r) => r.status(500).end('sick'))\napp.get('/other'"),
    )
    writeFileSync(
      join(dir, 'tarmac.toml'),
      `${toml.replace('path = "/health"', 'path = "/health"\ntimeout = "4s"')}\n[environments.production]\nhosts = ["${host.url}"]\n`,
    )
    const sick = await push()
    assert.equal(sick.exit, 6, sick.stderr)
    assert.match(sick.stdout, /answered 500/)
    writeFileSync(join(dir, 'server.js'), good)
    assert.equal((await host.tarmac(dir, 'rollback')).exit, 0)
    await machine.run(['systemctl', 'restart', 'tarmac-agent'])
    await host.awaitAgent()
    version('last')
    assert.equal((await push()).exit, 0)
    assert.match((await host.get(PORT)) ?? '', /^Shop last /)

    for (const load of loads) {
      const { requests, failed } = await load
      t.diagnostic(`${failed} of ${requests} requests failed`)
      assert.ok(requests > 1000, `${requests} requests`)
      assert.equal(failed, 0)
    }
    await machine.reboot()
    await host.awaitAgent()
    for (let tries = 0; tries < 100 && (await host.get(PORT)) === undefined; tries++) await sleep(100)
    assert.match((await host.get(PORT)) ?? '', /^Shop last /)

    function wrk(headers: string[]): Promise<{ requests: number; failed: number }> {
      const argv = ['-t1', '-c8', `-d${LOAD_SECONDS}s`, ...headers, `http://${machine.ip}:${PORT}/`]
      const child = spawn('wrk', argv, { stdio: ['ignore', 'pipe', 'inherit'] })
      let text = ''
      child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk
      })
      return new Promise((resolve, reject) => {
        child.on('error', reject)
        child.on('close', () => {
          const errors =
            /Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)/.exec(text)?.slice(1) ?? []
          const bad = /Non-2xx or 3xx responses: (\d+)/.exec(text)?.[1] ?? '0'
          const failed = [...errors, bad].reduce((sum, count) => sum + Number(count), 0)
          resolve({ requests: Number(/(\d+) requests in/.exec(text)?.[1] ?? 0), failed })
        })
      })
    }
  },
)
