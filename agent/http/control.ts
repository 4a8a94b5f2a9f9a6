import type { Context } from 'hono'
import * as v from 'valibot'
import { Failure } from '../../shared/failure.ts'
import { type AppName, parseReleaseId } from '../../shared/names.ts'
import type { ChangeKind } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import { currentOf, restart, start, stop } from '../deploy/control.ts'
import { type Ask, rollBack } from '../deploy/deploy.ts'
import { hold, letGo } from '../deploy/hold.ts'
import { prune } from '../deploy/prune.ts'
import { chooseTarget } from '../deploy/target.ts'
import { refuseUnknown } from './ask.ts'
import { bodySchema, parseJson, smallBody } from './body.ts'
import type { Identity } from './identity.ts'
import { answerWithLines } from './lines.ts'

/** A release id, its braces, and room to spare. */
const MAX_BODY_BYTES = 4096

const rollbackSchema = bodySchema({ release: v.optional(v.string()) })

export async function rollback(agent: Agent, app: AppName, identity: Identity, c: Context): Promise<Response> {
  const parsed = v.safeParse(rollbackSchema, parseJson(await smallBody(c, MAX_BODY_BYTES)))
  if (!parsed.success) throw new Failure('request_refused', `rollback ${app}: the body is not {"release"?: "…"}`)
  const asked = parsed.output.release === undefined ? undefined : parseReleaseId(parsed.output.release)
  const { operation, end } = agent.operations.begin({ app, kind: 'rollback', who: identity.who })
  try {
    const target = await chooseTarget(agent, app, asked)
    return await answerWithLines(c, agent.log, (report) =>
      rollBack(agent, { app, kind: 'rollback', ...identity, operation, report }, target).finally(end),
    )
  } catch (error) {
    end()
    throw error
  }
}

export async function control(
  agent: Agent,
  kind: 'restart' | 'stop' | 'start',
  app: AppName,
  identity: Identity,
  c: Context,
): Promise<Response> {
  currentOf(agent, app)
  const work = { restart, stop, start }[kind]
  return change(agent, { app, kind, identity }, c, (ask) => work(agent, ask))
}

const holdSchema = v.strictObject({ release: v.string(), held: v.boolean() })

/** Whether a release is kept whatever comes after it. Not while a change runs, which may be about to remove it. */
export async function held(agent: Agent, app: AppName, identity: Identity, c: Context): Promise<Response> {
  const parsed = v.safeParse(holdSchema, parseJson(await smallBody(c, MAX_BODY_BYTES)))
  if (!parsed.success) throw new Failure('request_refused', `hold ${app}: the body is not {"release": "…", "held": …}`)
  const id = parseReleaseId(parsed.output.release)
  const { end } = agent.operations.begin({ app, kind: 'hold', who: identity.who })
  try {
    if (parsed.output.held) await hold(agent.layout, app, { id, who: identity.who })
    else await letGo(agent.layout, app, id)
  } finally {
    end()
  }
  agent.log.info({ app, ...parsed.output, who: identity.who }, 'hold')
  return c.json({ release: id, held: parsed.output.held })
}

/** It needs no release that serves: what a first push that failed left behind can be removed too. */
export async function pruned(agent: Agent, app: AppName, identity: Identity, c: Context): Promise<Response> {
  refuseUnknown(agent, app)
  return change(agent, { app, kind: 'prune', identity }, c, (ask) => prune(agent, ask))
}

async function change(
  agent: Agent,
  { app, kind, identity }: { app: AppName; kind: ChangeKind; identity: Identity },
  c: Context,
  work: (ask: Ask) => Promise<void>,
): Promise<Response> {
  const { operation, end } = agent.operations.begin({ app, kind, who: identity.who })
  return answerWithLines(c, agent.log, (report) => work({ app, kind, ...identity, operation, report }).finally(end))
}
