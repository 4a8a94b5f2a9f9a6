import { createServer, type Server } from 'node:http'
import { createAdaptorServer } from '@hono/node-server'
import { Hono } from 'hono'
import type { Agent } from '../agent.ts'
import { DEFAULTS } from '../config.ts'
import type { Metrics } from '../watch/metrics.ts'
import { answerScrape } from './metrics.ts'
import { respondTo } from './respond.ts'
import { type Listening, listening } from './server.ts'

/**
 * Where a Prometheus on this host scrapes, which cannot sign a connection: `GET /metrics` and nothing else, with no
 * question who asks, on the loopback address that the admin chose. Undefined when none was chosen.
 */
export async function listenForScrapes(
  { config, layout, log }: Agent,
  metrics: Metrics,
): Promise<Listening | undefined> {
  if (config.metrics === undefined) return undefined
  const routes = new Hono()
  routes.get('/metrics', (c) => answerScrape(metrics, c))
  routes.onError((error, c) => respondTo(error, c, { layout, log }))
  const server = createAdaptorServer({
    fetch: routes.fetch,
    createServer,
    serverOptions: {
      requestTimeout: DEFAULTS.idleTimeoutMs,
      headersTimeout: DEFAULTS.idleTimeoutMs,
      keepAliveTimeout: DEFAULTS.keepAliveTimeoutMs,
      maxHeaderSize: DEFAULTS.maxHeaderBytes,
    },
  }) as Server
  server.maxConnections = DEFAULTS.maxConnections
  const scrapes = await listening(
    server,
    config.metrics,
    'does something else listen there? choose another address in agent.toml: [metrics] listen',
  )
  log.info({ host: scrapes.host, port: scrapes.port }, 'metrics at /metrics')
  return scrapes
}
