import { setTimeout as sleep } from 'node:timers/promises'
import { rawConnect } from '../test/helpers/raw-client.ts'
import { makeHandKey } from '../test/helpers/ssh.ts'
import { memoryOf } from './programs.ts'
import { median } from './table.ts'
import type { Tarmac } from './tarmac.ts'

// How an agent answers, and what it takes, while it has something to do.

/** Often enough to meet each pause of the event loop that anybody would notice. */
const PAUSE_MS = 10

export interface Meanwhile {
  ms: number
  /** Answers to `status` on a connection that is open already, ms. */
  status: { asked: number; median: number; p99: number; max: number }
  /** Of the agent's event loop, as its own metrics say it, ms; sampled each 100 ms, which is in it. */
  loopDelayMaxMs: number
  agentPeakBytes: number
}

/** Somebody who may ask and has a key of her own, in the agent's own signers. */
export async function makeAsker(host: Tarmac): Promise<(action: () => Promise<unknown>) => Promise<Meanwhile>> {
  const key = makeHandKey('ssh-ed25519')
  await host.onHost('signers', 'add', 'eve', key.publicLine)
  return async (action) => {
    const connection = await rawConnect({ url: host.url, pin: host.pin() })
    const authorization = connection.authorization(key)
    // What the loop did before is told by this one, and no more.
    await scrape(host)
    const times: number[] = []
    const begun = performance.now()
    const acting = action().then(() => performance.now() - begun)
    let isOver = false
    const over = acting.finally(() => {
      isOver = true
    })
    over.catch(() => {})
    while (!isOver) {
      const asked = performance.now()
      const { status } = await connection.request({ authorization, target: '/v1/status' })
      if (status !== 200) throw new Error(`status answered ${status}`)
      times.push(performance.now() - asked)
      await sleep(PAUSE_MS)
    }
    connection.close()
    const ms = await over
    const metrics = await scrape(host)
    const sorted = times.sort((a, b) => a - b)
    return {
      ms,
      status: {
        asked: times.length,
        median: median(sorted),
        p99: sorted[Math.floor(sorted.length * 0.99)] ?? 0,
        max: sorted.at(-1) ?? 0,
      },
      loopDelayMaxMs: (metrics.get('nodejs_eventloop_lag_max_seconds') ?? 0) * 1_000,
      agentPeakBytes: memoryOf(host.agentPid())?.peakBytes ?? 0,
    }
  }
}

async function scrape({ metricsUrl }: Tarmac): Promise<Map<string, number>> {
  const text = await (await fetch(metricsUrl)).text()
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  return new Map(lines.map((line): [string, number] => [line.split(' ')[0] ?? '', Number(line.split(' ')[1])]))
}
