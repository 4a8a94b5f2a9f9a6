import type { Context } from 'hono'
import { stream } from 'hono/streaming'
import { Failure, reasonOf } from '../../shared/failure.ts'
import { type AppName, parseAppName, parseReleaseId, parseServiceName } from '../../shared/names.ts'
import type { LogAnswer, ReleaseEntry } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import { currentOf } from '../deploy/control.ts'
import { explainPrune, planPrune } from '../deploy/prune-plan.ts'
import type { LogQuery } from '../init/init-system.ts'
import { revisionOf } from '../state/env-revisions.ts'
import { appsOn, currentRelease, readHead } from '../state/release-store.ts'
import { examine } from '../watch/doctor.ts'
import { agentStatus } from '../watch/status.ts'
import { HEARTBEAT_MS } from './lines.ts'

// Questions: they change nothing.

/** Enough for a screen to scroll through; more is a job for journalctl. */
const MAX_LOG_LINES = 10_000
const DEFAULT_LOG_LINES = 100
const MAX_DEPLOYS = 1_000
const DEFAULT_DEPLOYS = 20

export async function status(agent: Agent, c: Context): Promise<Response> {
  const app = c.req.query('app')
  return c.json(await agentStatus(agent, app === undefined ? undefined : parseAppName(app)))
}

export async function releases(agent: Agent, app: AppName, c: Context): Promise<Response> {
  const current = currentRelease(agent.layout, app)
  refuseUnknown(agent, app)
  const rows = new Map(agent.ledger.releases(app).map((row) => [row.id, row]))
  const entries = (await planPrune(agent, app)).verdicts.map(({ id, why }): ReleaseEntry => {
    const row = rows.get(id)
    return {
      id,
      state: row?.state ?? 'assembled',
      current: id === current,
      createdAt: readHead(agent.layout, app, id).created,
      signers: row?.signers ?? [],
      bytes: row?.bytes ?? 0,
      envRevision: revisionOf(agent.layout, app, id),
      keep: why,
    }
  })
  return c.json({ releases: entries })
}

export async function pruneExplained(agent: Agent, app: AppName, c: Context): Promise<Response> {
  refuseUnknown(agent, app)
  return c.json(await explainPrune(agent, app))
}

export function deploys(agent: Agent, app: AppName, c: Context): Response {
  const limit = countOf(c.req.query('n'), { what: 'n', initial: DEFAULT_DEPLOYS, max: MAX_DEPLOYS })
  const entries = agent.ledger.deploys(app, limit)
  if (entries.length === 0) refuseUnknown(agent, app)
  return c.json({ deploys: entries })
}

export async function doctor(agent: Agent, c: Context): Promise<Response> {
  return c.json(await examine(agent))
}

export async function ledger(agent: Agent, c: Context): Promise<Response> {
  return c.json(await agent.ledger.verify())
}

export function logs(agent: Agent, app: AppName, c: Context): Response {
  refuseUnknown(agent, app)
  const { service, release, since, follow, n } = c.req.query()
  const query: LogQuery = {
    app,
    lines: countOf(n, { what: 'n', initial: DEFAULT_LOG_LINES, max: MAX_LOG_LINES }),
    follow: follow === '1',
    ...(service === undefined ? {} : { service: knownService(agent, app, service) }),
    ...(release === undefined ? {} : { release: parseReleaseId(release) }),
    ...(since === undefined ? {} : { since: instantOf(since) }),
  }
  c.header('content-type', 'application/x-ndjson')
  return stream(c, async (out) => {
    const gone = new AbortController()
    out.onAbort(() => gone.abort())
    const write = (line: LogAnswer) => out.write(`${JSON.stringify(line)}\n`)
    // An empty line, which readers of NDJSON pass over: an app may say nothing for hours, and a connection on which
    // nothing comes is given up by the client.
    const heartbeat = setInterval(() => void out.write('\n'), HEARTBEAT_MS)
    try {
      for await (const line of agent.init.logs(query, gone.signal)) await write(line)
    } catch (error) {
      if (gone.signal.aborted) return
      const failure =
        error instanceof Failure ? error : new Failure('internal', `read logs of ${app}: ${reasonOf(error)}`)
      await write({ refusal: failure.toRefusal() })
    } finally {
      clearInterval(heartbeat)
    }
  })
}

/** Throws `app_unknown`. */
export function refuseUnknown(agent: Agent, app: AppName): void {
  if (appsOn(agent.layout).includes(app)) return
  throw new Failure('app_unknown', `find ${app}: there is no such app on this host`, {
    hint: 'what there is: tarmac status',
  })
}

function knownService(agent: Agent, app: AppName, name: string) {
  const service = parseServiceName(name)
  const { services } = readHead(agent.layout, app, currentRelease(agent.layout, app) ?? currentOf(agent, app))
  const known = Object.keys(services)
  if (known.includes(service)) return service
  throw new Failure(
    'service_unknown',
    `find ${app}: it has no service ${JSON.stringify(name)}, only ${known.join(', ')}`,
  )
}

function countOf(
  text: string | undefined,
  { what, initial, max }: { what: string; initial: number; max: number },
): number {
  if (text === undefined) return initial
  if (/^\d{1,6}$/.test(text)) return Math.min(Number(text), max)
  throw new Failure('request_refused', `read request: ${what}=${JSON.stringify(text)} is no whole number`)
}

function instantOf(text: string): string {
  const at = new Date(text)
  if (!Number.isNaN(at.getTime())) return at.toISOString()
  throw new Failure('request_refused', `read request: since=${JSON.stringify(text)} is no ISO 8601 time`)
}
