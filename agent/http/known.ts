import { setImmediate as breathe } from 'node:timers/promises'
import type { Context } from 'hono'
import * as v from 'valibot'
import { Failure } from '../../shared/failure.ts'
import { contentOfText } from '../../shared/manifest.ts'
import { type AppName, isSha256, type Sha256, sha256 } from '../../shared/names.ts'
import type { KnownAnswer } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import type { Moment } from '../deploy/asked.ts'
import { surveyOf } from '../deploy/damage.ts'
import { runningAsWanted } from '../deploy/deploy.ts'
import { busyFailure } from '../deploy/operations.ts'
import { roomForLittle, roomForObjects } from '../deploy/room.ts'
import { hasObjects } from '../state/object-sweep.ts'
import { intactRelease } from '../state/release-store.ts'
import { bodySchema, parseJson, smallBody } from './body.ts'
import { referenceBytes } from './reference.ts'

/** A digest, two names, and room to spare. */
const MAX_BODY_BYTES = 4096

const digest = v.custom<Sha256>(isSha256)
const askedSchema = bodySchema({ reference: v.optional(digest), again: v.optional(v.boolean()) })

/** Before the files are looked at: what runs already, and whether a bundle may be written on this reference. */
export async function known(agent: Agent, app: AppName, c: Context): Promise<Response> {
  const parsed = v.safeParse(askedSchema, parseJson(await smallBody(c, MAX_BODY_BYTES)))
  if (!parsed.success) {
    throw new Failure('request_refused', `ask about ${app}: the body is not {"reference"?: "…", "again"?: true}`)
  }
  const busy = agent.operations.of(app)
  if (busy) throw busyFailure(busy)
  const { reference, again } = parsed.output
  if (!again) agent.asked.void(app)
  const moment = agent.asked.now(app)
  const running = (again ? wholeBefore(agent, app) : undefined) ?? (await runningWhole(agent, app, moment))
  const textBytes = reference && referenceBytes(agent, app, reference)
  const empty = !hasObjects(agent.layout, app)
  const answer: KnownAnswer = {
    running,
    reference: textBytes !== undefined,
    empty,
    roomBytes:
      textBytes !== undefined ? await roomForLittle(agent, textBytes) : empty ? await roomForObjects(agent) : 0,
  }
  return c.json(answer)
}

/** What this push has just been told, where that is still so. */
function wholeBefore(agent: Agent, app: AppName): KnownAnswer['running'] | undefined {
  const running = agent.asked.look(app)?.running
  if (running?.whole === undefined || running.release.id !== runningAsWanted(agent, app)) return undefined
  return { release: running.release.id, content: running.content }
}

/** What runs and lacks something, or has something damaged, is not what was pushed. */
async function runningWhole(agent: Agent, app: AppName, moment: Moment): Promise<KnownAnswer['running']> {
  const id = runningAsWanted(agent, app)
  const release = id && (await intactRelease(agent.layout, app, id))
  if (!release) return null
  await breathe()
  const content = contentOfText(release.text)
  await breathe()
  const digest = sha256(release.text)
  await breathe()
  const { missing, lacking, wrongSize, whole } = await surveyOf(agent, release.manifest)
  if (missing.length > 0 || wrongSize !== undefined) return null
  const isWhole = lacking.objects.length === 0
  agent.asked.keep(app, { running: { release, content, digest, whole: isWhole ? whole : undefined } }, moment)
  return { release: id, content }
}
