import { createServer } from 'node:http'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

/** As generous as the machine may be loaded. */
const WAIT_MS = 20_000

export interface Told {
  text: string
  event: string
  host: string
  app: string | null
  release: string | null
  at: string
  [fact: string]: unknown
}

export interface Webhook {
  url: string
  /** What was taken, oldest first. */
  told: Told[]
  /** How often somebody knocked. */
  asked: () => number
  /** Waits until an event of this name was taken. */
  until(event: string): Promise<Told>
}

/** A receiver on this host that answers with these statuses first (a redirect leads to `elsewhere`), and then with 200. */
export async function startWebhook(t: TestContext, statuses: number[] = [], elsewhere = ''): Promise<Webhook> {
  const told: Told[] = []
  let asked = 0
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk)
    response.statusCode = statuses[asked++] ?? 200
    if (response.statusCode === 200) told.push(JSON.parse(Buffer.concat(chunks).toString()))
    if (response.statusCode >= 300 && response.statusCode < 400) response.setHeader('location', elsewhere)
    response.end('ok')
  })
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const address = server.address()
  if (typeof address !== 'object' || address === null) throw new Error('no port')
  return {
    url: `http://127.0.0.1:${address.port}/token-5f3a`,
    told,
    asked: () => asked,
    async until(event) {
      for (const deadline = Date.now() + WAIT_MS; Date.now() < deadline; await sleep(25)) {
        const found = told.find((one) => one.event === event)
        if (found !== undefined) return found
      }
      throw new Error(`no ${event}, only ${JSON.stringify(told)}`)
    },
  }
}
