import { setImmediate as breathe } from 'node:timers/promises'
import type { Context } from 'hono'
import * as v from 'valibot'
import { Failure } from '../../shared/failure.ts'
import { type AppName, isSha256, type ReleaseId, type Sha256 } from '../../shared/names.ts'
import type { KnownAnswer } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import { surveyOf } from '../deploy/damage.ts'
import { alreadyRunning } from '../deploy/deploy.ts'
import { busyFailure } from '../deploy/operations.ts'
import { roomForLittle } from '../deploy/room.ts'
import { readRelease, releaseTextOf } from '../state/release-store.ts'
import { parseJson, smallBody } from './body.ts'

/** Two digests, their names, and room to spare. */
const MAX_BODY_BYTES = 4096

const digest = v.custom<Sha256>(isSha256)
const askedSchema = v.strictObject({ content: digest, reference: v.optional(digest) })

/** Before anything is signed: whether this content runs already, and whether a bundle may be written on this reference. */
export async function known(agent: Agent, app: AppName, c: Context): Promise<Response> {
  const parsed = v.safeParse(askedSchema, parseJson(await smallBody(c, MAX_BODY_BYTES)))
  if (!parsed.success) {
    throw new Failure('request_refused', `ask about ${app}: the body is not {"content": "…", "reference"?: "…"}`)
  }
  const busy = agent.operations.of(app)
  if (busy) throw busyFailure(busy)
  const { content, reference } = parsed.output
  const text = reference && releaseTextOf(agent.layout, app, reference)
  const answer: KnownAnswer = {
    alreadyRunning: await runningWhole(agent, app, content),
    reference: text !== undefined,
    roomBytes: text === undefined ? 0 : await roomForLittle(agent, text.length),
  }
  return c.json(answer)
}

/** What runs and lacks something, or has something damaged, is not what was pushed. */
async function runningWhole(agent: Agent, app: AppName, content: Sha256): Promise<ReleaseId | null> {
  const running = alreadyRunning(agent, app, content)
  if (running === null) return null
  // To read a big release.json takes a while, and here it is for the second time.
  await breathe()
  const { missing } = await surveyOf(agent, readRelease(agent.layout, app, running).manifest)
  return missing.length === 0 ? running : null
}
