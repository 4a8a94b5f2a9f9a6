import type { IncomingMessage } from 'node:http'
import type { TLSSocket } from 'node:tls'
import { type Context, Hono } from 'hono'
import { Failure } from '../../shared/failure.ts'
import { parseAppName } from '../../shared/names.ts'
import { version } from '../../shared/version.ts'
import { VERSION_HEADER } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import type { Metrics } from '../watch/metrics.ts'
import { deploys, doctor, ledger, logs, pruneExplained, releases, status } from './ask.ts'
import { control, held, pruned, rollback } from './control.ts'
import { changeEnv, env } from './env.ts'
import { type Identity, identify } from './identity.ts'
import { known } from './known.ts'
import { answerScrape } from './metrics.ts'
import { missing, push } from './push.ts'
import { respondTo } from './respond.ts'

type Env = { Bindings: { incoming: IncomingMessage }; Variables: { identity: Identity } }

/** Hono routes a normalised path (`/a/../b` as `/b`): what does not look exactly like this never reaches it. */
const TARGET = /^\/v1\/[a-z0-9-]+(?:\/[a-z0-9-]+)*(?:\?[A-Za-z0-9=&_.:%+-]*)?$/
/** Node lets a request carry these twice and shows them joined or the first one only. */
const ONCE = ['host', 'authorization', 'content-length', 'transfer-encoding']

/** All routes on one screen. Every one of them knows who asks; there is none that anybody may ask. */
export function routesOf(agent: Agent, metrics: Metrics): Hono<Env> {
  const routes = new Hono<Env>()
  routes.use(async (c, next) => {
    c.header(VERSION_HEADER, version)
    refuseOddRequests(c.env.incoming)
    c.set('identity', identify(agent, c.env.incoming.socket as TLSSocket, c.req.header('authorization')))
    await next()
  })
  const app = (c: Context) => parseAppName(c.req.param('app'))

  routes.get('/v1/status', (c) => status(agent, c))
  routes.get('/v1/metrics', (c) => answerScrape(metrics, c))
  routes.post('/v1/apps/:app/known', (c) => known(agent, app(c), c))
  routes.post('/v1/apps/:app/missing', (c) => missing(agent, app(c), c))
  routes.post('/v1/apps/:app/releases', (c) => push(agent, app(c), c.var.identity, c))
  routes.get('/v1/apps/:app/releases', (c) => releases(agent, app(c), c))
  routes.post('/v1/apps/:app/rollback', (c) => rollback(agent, app(c), c.var.identity, c))
  routes.post('/v1/apps/:app/restart', (c) => control(agent, 'restart', app(c), c.var.identity, c))
  routes.post('/v1/apps/:app/stop', (c) => control(agent, 'stop', app(c), c.var.identity, c))
  routes.post('/v1/apps/:app/start', (c) => control(agent, 'start', app(c), c.var.identity, c))
  routes.get('/v1/apps/:app/prune', (c) => pruneExplained(agent, app(c), c))
  routes.post('/v1/apps/:app/prune', (c) => pruned(agent, app(c), c.var.identity, c))
  routes.get('/v1/apps/:app/env', (c) => env(agent, app(c), c))
  routes.post('/v1/apps/:app/env', (c) => changeEnv(agent, app(c), c.var.identity, c))
  routes.post('/v1/apps/:app/hold', (c) => held(agent, app(c), c.var.identity, c))
  routes.get('/v1/apps/:app/deploys', (c) => deploys(agent, app(c), c))
  routes.get('/v1/doctor', (c) => doctor(agent, c))
  routes.get('/v1/ledger', (c) => ledger(agent, c))
  routes.get('/v1/apps/:app/logs', (c) => logs(agent, app(c), c))

  routes.notFound((c) => {
    const failure = new Failure('route_unknown', `${c.req.method} ${c.req.path}: there is no such route`, {
      hint: 'is the agent older than the client? compare: tarmac --version, tarmac status',
    })
    return respondTo(failure, c, agent)
  })
  routes.onError((error, c) => respondTo(error, c, agent))
  return routes
}

function refuseOddRequests({ url = '', rawHeaders }: IncomingMessage): void {
  if (!TARGET.test(url))
    throw new Failure(
      'request_refused',
      `read request: the target ${JSON.stringify(url.slice(0, 200))} is none of ours`,
    )
  const names = rawHeaders.filter((_, index) => index % 2 === 0).map((name) => name.toLowerCase())
  for (const name of ONCE) {
    if (names.filter((other) => other === name).length > 1)
      throw new Failure('request_refused', `read request: the header ${name} came twice`)
  }
}
