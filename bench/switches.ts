import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { startLoad } from '../test/helpers/load.ts'
import { freePort } from '../test/helpers/world.ts'
import { startWrk } from '../test/helpers/wrk.ts'
import type { Choice } from './compare.ts'
import { makeReady } from './needs.ts'
import { writeResult } from './results.ts'
import { makeSite } from './site.ts'
import { median, shownMs } from './table.ts'
import { tarmac } from './tarmac.ts'

// Twenty switches of a plain Node server under wrk, by connections that stay open and by new ones; beside it our own
// callers, who know the longest time without an answer.

const SWITCHES = 20

export async function switches({ out, programs }: Pick<Choice, 'out' | 'programs'>): Promise<void> {
  makeReady({ isAlone: false })
  const port = await freePort()
  const site = await makeSite('local')
  const host = tarmac(site, { programs, toml: webToml(port) })
  try {
    await host.reset()
    writeFileSync(join(site.source, 'server.js'), server('0'))
    await host.push()
    const url = `http://127.0.0.1:${port}/`
    const kept = startWrk(url, 'keep-alive')
    const closed = startWrk(url, 'close')
    const load = startLoad(port)
    const times: number[] = []
    for (let version = 1; version <= SWITCHES; version++) {
      writeFileSync(join(site.source, 'server.js'), server(String(version)))
      const { ms } = await host.push()
      times.push(ms)
      console.error(`switch ${version} of ${SWITCHES}: ${shownMs(ms)}`)
    }
    const callers = await load.stop()
    const result = {
      switches: SWITCHES,
      pushMs: median(times),
      keepAlive: await kept.end(),
      newConnections: await closed.end(),
      callers: { ...callers, failed: callers.failures.length },
    }
    console.log(`${SWITCHES} switches, a push in ${shownMs(result.pushMs)}`)
    console.log(`wrk, keep-alive: ${result.keepAlive.failed} of ${result.keepAlive.requests} failed`)
    console.log(`wrk, new connections: ${result.newConnections.failed} of ${result.newConnections.requests} failed`)
    console.log(
      `callers: ${callers.failures.length} of ${callers.requests} failed, longest gap ${shownMs(callers.longestGapMs)}, ` +
        `slowest answer ${shownMs(callers.longestRequestMs)}`,
    )
    console.log(`all of it: ${await writeResult('switches', result, out)}`)
  } finally {
    await host.end()
    await site.end()
  }
}

const webToml = (port: number) => `[services.web]
command = "node server.js"
port = ${port}
[services.web.health]
path = "/"
interval = "100ms"
`

const server = (version: string) =>
  `require('node:http').createServer((q, r) => r.end('${version}')).listen(process.env.PORT)\n`
