import http from 'node:http'
import https from 'node:https'
import { setTimeout as sleep } from 'node:timers/promises'

/** As in the measurements the linger rests on: enough to hit every gap, and the machine has a core left. */
const CLIENTS_OF_EACH_KIND = 10
const MAX_THINK_MS = 10
const REQUEST_TIMEOUT_MS = 10_000

export interface Load {
  /** Answers so far, by body. */
  answers: Map<string, number>
  stop(): Promise<LoadResult>
}

export interface LoadResult {
  requests: number
  /** One line each: `reused: ECONNRESET`, or `fresh: …` when the connection had not answered before. */
  failures: string[]
  /** The longest time in which no request was answered. */
  longestGapMs: number
  longestRequestMs: number
}

/** Half the clients keep their connection, half open one for each request. Nothing is tried again. */
export function startLoad(
  port: number,
  { tls = false, host = '127.0.0.1', clientsOfEachKind = CLIENTS_OF_EACH_KIND, maxThinkMs = MAX_THINK_MS } = {},
): Load {
  const abort = new AbortController()
  const answers = new Map<string, number>()
  const result: LoadResult = { requests: 0, failures: [], longestGapMs: 0, longestRequestMs: 0 }
  const { request, Agent } = tls ? https : http
  let lastAnswer = performance.now()

  const once = (agent: http.Agent) =>
    new Promise<void>((resolve) => {
      const begun = performance.now()
      const options = { port, host, agent, rejectUnauthorized: false, timeout: REQUEST_TIMEOUT_MS }
      const asked = request(options, (response) => {
        let body = ''
        response.setEncoding('utf8')
        response.on('data', (part: string) => {
          body += part
        })
        response.on('error', failed)
        response.on('end', () => {
          const now = performance.now()
          result.longestGapMs = Math.max(result.longestGapMs, now - lastAnswer)
          result.longestRequestMs = Math.max(result.longestRequestMs, now - begun)
          lastAnswer = now
          answers.set(body.trim(), (answers.get(body.trim()) ?? 0) + 1)
          if (response.statusCode !== 200) result.failures.push(`status ${response.statusCode}`)
          resolve()
        })
      })
      const failed = (error: NodeJS.ErrnoException) => {
        result.failures.push(`${asked.reusedSocket ? 'reused' : 'fresh'}: ${error.code ?? error.message}`)
        resolve()
      }
      asked.on('error', failed)
      asked.on('timeout', () => asked.destroy(new Error('no answer')))
      asked.end()
      result.requests++
    })

  const client = async (keepAlive: boolean) => {
    const agent = new Agent({ keepAlive, maxSockets: 1 })
    while (!abort.signal.aborted) {
      await once(agent)
      await sleep(Math.random() * maxThinkMs)
    }
    agent.destroy()
  }
  const clients = Array.from({ length: 2 * clientsOfEachKind }, (_, index) => client(index % 2 === 0))
  return {
    answers,
    stop: async () => {
      abort.abort()
      await Promise.all(clients)
      return result
    },
  }
}
