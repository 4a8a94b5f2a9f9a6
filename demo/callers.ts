import { Agent, get } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'

/** A moment between two questions, as people and their browsers leave one. */
const PAUSE_MS = 5
const TIMEOUT_MS = 10_000

export interface Callers {
  /** Questions so far, and how many of them got no answer, or a bad one. */
  count(): { requests: number; failed: number }
  stop(): Promise<void>
}

/** Asks without end, half with connections that stay open and half with a new one each time. Nothing is asked twice. */
export function startCallers(url: string): Callers {
  const seen = { requests: 0, failed: 0 }
  let stopped = false
  const keepAlive = new Agent({ keepAlive: true })
  const call = async (agent: Agent | false) => {
    while (!stopped) {
      seen.requests++
      if (!(await ask(url, agent))) seen.failed++
      await sleep(PAUSE_MS)
    }
  }
  const calls = [keepAlive, false, keepAlive, false].map((agent) => call(agent as Agent | false))
  return {
    count: () => ({ ...seen }),
    async stop() {
      stopped = true
      await Promise.all(calls)
      keepAlive.destroy()
    },
  }
}

function ask(url: string, agent: Agent | false): Promise<boolean> {
  return new Promise((resolve) => {
    const asked = get(url, { agent, timeout: TIMEOUT_MS }, (answer) => {
      answer.resume()
      answer.once('error', () => resolve(false))
      answer.once('end', () => resolve(answer.statusCode === 200))
    })
    asked.once('timeout', () => asked.destroy())
    asked.once('error', () => resolve(false))
  })
}
