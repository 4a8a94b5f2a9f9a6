import type { IncomingMessage } from 'node:http'
import type { Context } from 'hono'
import { type BundleEntry, readBundle } from '../../shared/bundle-read.ts'
import { Failure } from '../../shared/failure.ts'
import { contentOfText } from '../../shared/manifest.ts'
import type { AppName } from '../../shared/names.ts'
import { type MissingAnswer, REFERENCE_HEADER } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import { DEFAULTS } from '../config.ts'
import { proveManifest } from '../deploy/admit.ts'
import { basesFor } from '../deploy/bases.ts'
import { surveyOfComing } from '../deploy/damage.ts'
import { admit, alreadyRunning, rollOut } from '../deploy/deploy.ts'
import { busyFailure } from '../deploy/operations.ts'
import { checkRoom } from '../deploy/room.ts'
import { amongDamaged } from '../state/object-check.ts'
import { readSigners } from '../state/signers.ts'
import { type Identity, refuseTakenOut } from './identity.ts'
import { answerWithLines } from './lines.ts'
import { referenceOf } from './reference.ts'
import { notTooSlow } from './upload-rate.ts'

/** What the agent lacks of a release, and every early no: policy, disk, busy. Takes a bundle without objects. */
export async function missing(agent: Agent, app: AppName, c: Context): Promise<Response> {
  const bundle = bundleOf(agent, app, c)
  try {
    const before = agent.asked.look(app)?.running
    const policy = { app, signers: readSigners(agent.layout), now: new Date(), older: agent.asked.proved(app, before) }
    const { proved, first, changed } = await proveManifest(bundle, policy)
    if (!first.done) throw new Failure('bundle_malformed', `ask what ${app} lacks: objects came along`)
    const busy = agent.operations.of(app)
    if (busy) throw busyFailure(busy)
    const moment = agent.asked.now(app)
    const { manifest, id } = proved.signed
    // What is true of it is asked for when all has come: that may have taken a while.
    const running = agent.asked.look(app)?.running
    const since = running?.release === before?.release ? { changed, whole: running?.whole } : {}
    const survey = await surveyOfComing(agent, manifest, since)
    const { missing, damaged, lacking } = survey
    // What runs and lacks something is not what was pushed.
    const same = missing.length === 0 ? alreadyRunning(agent, app, contentOfText(proved.signed.text)) : null
    // It is here in full: pushed again with --force it takes next to nothing, and that is checked then.
    if (same === null) await checkRoom(agent, proved, lacking)
    agent.asked.keep(
      app,
      { asked: { signed: proved.signed, survey }, running: running && { ...running, whole: undefined } },
      moment,
    )
    const bases = c.req.query('bases') === '1' ? await basesFor(agent, manifest, missing) : []
    const answer: MissingAnswer = {
      release: id,
      missing,
      // Also what a push just before this question has found.
      damaged: new Set([...damaged, ...amongDamaged(agent.layout, app, missing)]).size,
      ...(bases.length === 0 ? {} : { bases }),
      alreadyRunning: same,
    }
    return c.json(answer)
  } finally {
    await bundle.return(undefined)
  }
}

export async function push(agent: Agent, app: AppName, identity: Identity, c: Context): Promise<Response> {
  const maxGapMs = maxGapOf(c.req.query('maxGapMs'))
  const bundle = bundleOf(agent, app, c)
  const { operation, end } = agent.operations.begin({ app, kind: 'push', who: identity.who })
  try {
    const proved = await admit(agent, app, { bundle, refuseAsker: (signers) => refuseTakenOut(identity, signers) })
    return await answerWithLines(c, agent.log, (report) =>
      rollOut(agent, { app, kind: 'push', ...identity, maxGapMs, operation, report }, proved).finally(end),
    )
  } catch (error) {
    end()
    throw error
  } finally {
    await bundle.return(undefined)
  }
}

function maxGapOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  if (/^\d{1,7}$/.test(text)) return Number(text)
  throw new Failure('request_refused', `read request: maxGapMs=${JSON.stringify(text)} is no whole number`)
}

/** The raw request, not Hono's body: it is streamed, never held, and a cut connection throws where it is read. */
function bundleOf(agent: Agent, app: AppName, c: Context): AsyncGenerator<BundleEntry> {
  const reference = referenceOf(agent, app, c.req.header(REFERENCE_HEADER))
  const incoming = c.env.incoming as IncomingMessage
  // A refusal must still be answered: leaving the loop must not close the connection.
  return readBundle(notTooSlow(incoming.iterator({ destroyOnReturn: false }), DEFAULTS), undefined, reference)
}
