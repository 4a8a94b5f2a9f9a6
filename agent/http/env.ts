import type { Context } from 'hono'
import type { AppName } from '../../shared/names.ts'
import { type EnvAnswer, MAX_CHANGE_BYTES, parseVariableChange } from '../../shared/variables.ts'
import type { Agent } from '../agent.ts'
import { applyEnv } from '../deploy/deploy.ts'
import { environmentNow, masked, revise } from '../deploy/env.ts'
import { newestRevision } from '../state/env-revisions.ts'
import { currentRelease } from '../state/release-store.ts'
import { refuseUnknown } from './ask.ts'
import { parseJson, smallBody } from './body.ts'
import type { Identity } from './identity.ts'
import { answerWithLines } from './lines.ts'

/** What there is, without any value. */
export function env(agent: Agent, app: AppName, c: Context): Response {
  refuseUnknown(agent, app)
  const { revision, at, by, variables } = environmentNow(agent.layout, app)
  const newest = newestRevision(agent.layout, app)
  const answer: EnvAnswer = { revision, newest, at, by, variables: masked(app, variables) }
  return c.json(answer)
}

/** Sets and unsets variables: a new revision, applied to what runs. What is so already changes nothing. */
export async function changeEnv(agent: Agent, app: AppName, identity: Identity, c: Context): Promise<Response> {
  const change = parseVariableChange(parseJson(await smallBody(c, MAX_CHANGE_BYTES)))
  const { operation, end } = agent.operations.begin({ app, kind: 'env', who: identity.who })
  try {
    const revised = await revise(agent, app, { change, by: identity.who })
    return await answerWithLines(c, agent.log, async (report) => {
      try {
        if (revised !== undefined) await applyEnv(agent, { app, kind: 'env', ...identity, operation, report }, revised)
        else report(unchanged(agent, app))
      } finally {
        end()
      }
    })
  } catch (error) {
    end()
    throw error
  }
}

function unchanged({ layout }: Agent, app: AppName) {
  const release = currentRelease(layout, app)
  const at = new Date().toISOString()
  return { step: 'done', at, ms: 0, deploy: 0, app, release, previous: release, unchanged: true } as const
}
