import { setImmediate as breathe } from 'node:timers/promises'
import type { Context } from 'hono'
import * as v from 'valibot'
import { Failure } from '../../shared/failure.ts'
import { contentOfText, type Manifest } from '../../shared/manifest.ts'
import { type AppName, isSha256, type ReleaseId, type Sha256 } from '../../shared/names.ts'
import type { KnownAnswer } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import { surveyOf } from '../deploy/damage.ts'
import { runningAsWanted } from '../deploy/deploy.ts'
import { busyFailure } from '../deploy/operations.ts'
import { roomForLittle } from '../deploy/room.ts'
import { parseStored, readReleaseText, releaseTextOf } from '../state/release-store.ts'
import { parseJson, smallBody } from './body.ts'

/** A digest, its name, and room to spare. */
const MAX_BODY_BYTES = 4096

const digest = v.custom<Sha256>(isSha256)
// An array passes for an object without keys.
const askedSchema = v.pipe(
  v.unknown(),
  v.check((value) => !Array.isArray(value)),
  v.strictObject({ reference: v.optional(digest) }),
)

/** Before the files are looked at: what runs already, and whether a bundle may be written on this reference. */
export async function known(agent: Agent, app: AppName, c: Context): Promise<Response> {
  const parsed = v.safeParse(askedSchema, parseJson(await smallBody(c, MAX_BODY_BYTES)))
  if (!parsed.success) {
    throw new Failure('request_refused', `ask about ${app}: the body is not {"reference"?: "…"}`)
  }
  const busy = agent.operations.of(app)
  if (busy) throw busyFailure(busy)
  const { reference } = parsed.output
  const text = reference && releaseTextOf(agent.layout, app, reference)
  const answer: KnownAnswer = {
    running: await runningWhole(agent, app),
    reference: text !== undefined,
    roomBytes: text === undefined ? 0 : await roomForLittle(agent, text.length),
  }
  return c.json(answer)
}

/** What runs and lacks something, or has something damaged, is not what was pushed. */
async function runningWhole(agent: Agent, app: AppName): Promise<KnownAnswer['running']> {
  const release = runningAsWanted(agent, app)
  const stored = release && storedAs(agent, app, release)
  if (!stored) return null
  // To read a big release.json takes a while.
  await breathe()
  const { missing } = await surveyOf(agent, stored.manifest)
  return missing.length === 0 ? { release, content: stored.content } : null
}

/** Undefined when it is not what it was: this push may be the one that mends it. */
function storedAs({ layout }: Agent, app: AppName, id: ReleaseId): { manifest: Manifest; content: Sha256 } | undefined {
  try {
    const text = readReleaseText(layout, app, id)
    return { manifest: parseStored(text, { app, id }), content: contentOfText(text) }
  } catch (error) {
    if (error instanceof Failure) return undefined
    throw error
  }
}
