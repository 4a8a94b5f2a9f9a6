import type { BundleObject } from '../shared/bundle.ts'
import { bundleBytes } from '../shared/bundle-write.ts'
import { objectsOf } from '../shared/contents.ts'
import { Failure } from '../shared/failure.ts'
import type { ReleaseId, Sha256 } from '../shared/names.ts'
import type { Recipe } from '../shared/recipe.ts'
import { type BasisAnswer, DIRECT, type KnownAnswer } from '../shared/wire.ts'
import { type Ahead, hasAmpleRoom, keptOf, untilSent } from './ahead.ts'
import * as api from './api.ts'
import { basesIn, changesSince, chunkTexts, type Since } from './changes-since.ts'
import type { Connection } from './connection.ts'
import { type Context, withConnection } from './context.ts'
import { followChange, type Outcome } from './follow.ts'
import { linkKindOf } from './link-kind.ts'
import type { Prepared, Release } from './prepare.ts'
import { asRecipes, beginChunks, bytesOf, type Chunking, isAboutRecipes, planRecipes } from './recipes.ts'
import { openReferences, type Reference } from './references.ts'
import { counted, type Sent } from './sent.ts'
import type { Source } from './source.ts'
import { keepYoungSpaceSmall } from './young-space.ts'

export interface Delivery {
  connection: Connection
  prepared: Prepared
  /** What was asked before the files were looked at. */
  ahead: Ahead | undefined
  /** Adds up what went to all hosts. */
  sent: Sent
  force: boolean
  maxGapMs: number | undefined
}

/** To one host: ask whether it runs this already; if not, sign, send what it lacks, and follow to the truth. */
export async function deliver(context: Context, job: Delivery): Promise<Outcome> {
  const { connection, prepared, ahead, force } = job
  const { app, source } = prepared
  const { host, pin } = connection
  const references = openReferences(context.surroundings.cacheDir)
  const before = ahead?.askedOn(connection)
  const again = before !== undefined
  let known: KnownAnswer | undefined
  let content: Sha256 | undefined
  let since: Since | undefined
  try {
    if (prepared.draft !== undefined) {
      const { kept } = before ?? { kept: keptOf(context, connection, app) }
      const asking = api.known(connection, app, { reference: kept?.digest, again })
      // It comes out below.
      asking.catch(() => {})
      await untilSent()
      const draft = prepared.draft()
      content = draft.content
      since = kept && changesSince(kept, draft.text)
      known = await asking
    }
  } catch (error) {
    if (!again || !(error instanceof Failure && error.code === 'connection_lost')) throw error
    // It was lost while the files were looked at, and nothing was begun on it.
    return withConnection(context, host, prepared.signing, (other) =>
      deliver(context, { ...job, connection: other, ahead: undefined }),
    )
  }
  if (known?.running && known.running.content === content && !force)
    return alreadyRunning(context, job, known.running.release)
  keepYoungSpaceSmall()
  const remembered = since === undefined ? new Map() : references.chunksOf(pin, app)
  const bases = since === undefined ? [] : basesIn(remembered, since)
  using chunking = beginChunks(source, { likely: since?.lacking ?? new Set(), bases })
  const release = await prepared.release({
    areFilesChecked: known?.reference === true && since?.areOnlyContents === true,
  })
  context.print.note(`push ${app} ${release.signed.id} to ${host.name}`)
  const parts = { release, sizes: objectsOf(release.signed.manifest), chunking }
  const outcome =
    known?.reference && since !== undefined
      ? await sendSince(context, job, { ...parts, since, bases, roomBytes: known.roomBytes })
      : hasAmpleRoom(known, parts.sizes)
        ? await send(context, job, { ...parts, reference: undefined, ...everythingOf(source, parts.sizes) })
        : await askAndSend(context, job, parts)
  if (outcome.exit === 0 && outcome.code === null) {
    const chunks = chunkTexts(release.signed.manifest, { remembered, cut: chunking.known })
    references.keep(pin, app, { text: release.signed.text, chunks })
  }
  return outcome
}

function everythingOf(source: Source, sizes: ReadonlyMap<Sha256, number>) {
  const wanted = new Set(sizes.keys())
  return { wanted, objects: source.objects(wanted) }
}

interface Ready {
  release: Release
  /** Of its contents, bytes. */
  sizes: ReadonlyMap<Sha256, number>
  chunking: Chunking
}

/** With a reference, at once where that is little; with a question where it may not fit, or the host lacks what it had. */
async function sendSince(
  context: Context,
  job: Delivery,
  { since, bases, roomBytes, ...ready }: Ready & { since: Since; bases: BasisAnswer[]; roomBytes: number },
): Promise<Outcome> {
  const { reference, lacking: wanted } = since
  const { source, signing } = job.prepared
  let isAsked = false
  try {
    const { release, sizes, chunking } = ready
    const recipes = bases.length === 0 ? new Map() : await planRecipes(chunking, { wanted, bases })
    const isLittle = wanted.size < DIRECT.objects && bytesOf(sizes, wanted, recipes) < DIRECT.bytes
    isAsked = !isLittle || bytesOf(sizes, wanted) > roomBytes
    if (isAsked) return await askAndSend(context, job, { ...ready, reference })
    const objects = asRecipes(source.objects(wanted), recipes)
    return await send(context, job, { release, sizes, reference, wanted, objects, recipes })
  } catch (error) {
    if (!isStale(error) || (isAsked && isObjectMissing(error))) throw error
    // The connection over which an upload was refused is not used again.
    return withConnection(context, job.connection.host, signing, (connection) =>
      askAndSend(context, { ...job, connection }, { ...ready, isAgain: isObjectMissing(error) }),
    )
  }
}

/** The host is not what it was after the last push from here. */
function isStale(error: unknown): boolean {
  const isOfReference = error instanceof Failure && error.code === 'reference_unknown'
  return isOfReference || isObjectMissing(error) || isAboutRecipes(error)
}

function isObjectMissing(error: unknown): error is Failure {
  return error instanceof Failure && error.code === 'object_missing'
}

async function askAndSend(
  context: Context,
  job: Delivery,
  {
    release,
    sizes,
    chunking,
    reference,
    isAgain = false,
  }: Ready & { reference?: Reference | undefined; isAgain?: boolean },
): Promise<Outcome> {
  const { connection, prepared } = job
  const { signed, signatures } = release
  const { source } = prepared
  const { host } = connection
  const head = bundleBytes({ manifest: signed.text, signatures, objects: [], reference: reference?.text })
  const withBases = source.signed === undefined
  const answer = await api.missing(connection, prepared.app, { head, withBases, reference: reference?.digest })
  if (answer.alreadyRunning !== null && !job.force) return alreadyRunning(context, job, answer.alreadyRunning)
  if (answer.damaged)
    context.print.warn(`${answer.damaged} of its contents were damaged on ${host.name}: they are sent again`)
  const wanted = new Set(answer.missing)
  const recipes = await planRecipes(chunking, { wanted, bases: answer.bases ?? [] })
  const parts = { release, sizes, reference, wanted }
  // The connection over which an upload was refused is not used again.
  const anew = (send: (other: Connection) => Promise<Outcome>) => withConnection(context, host, prepared.signing, send)
  try {
    return await send(context, job, { ...parts, objects: asRecipes(source.objects(wanted), recipes), recipes })
  } catch (error) {
    if (recipes.size > 0 && isAboutRecipes(error)) {
      context.print.warn(`${error.message}: sending it whole`)
      return anew((other) =>
        send(context, { ...job, connection: other }, { ...parts, objects: source.objects(wanted) }),
      )
    }
    // What it had was cleaned up between the question and the push.
    if (!isObjectMissing(error) || isAgain) throw error
    context.print.warn(`${error.message}: asking again`)
    return anew((other) =>
      askAndSend(context, { ...job, connection: other }, { release, sizes, chunking, reference, isAgain: true }),
    )
  }
}

interface Parts extends Pick<Ready, 'release' | 'sizes'> {
  reference: Reference | undefined
  wanted: ReadonlySet<Sha256>
  objects: AsyncIterable<BundleObject>
  recipes?: ReadonlyMap<Sha256, Recipe>
}

async function send(context: Context, job: Delivery, parts: Parts): Promise<Outcome> {
  const { release, sizes, reference, wanted, objects, recipes } = parts
  const { connection, prepared, sent, maxGapMs } = job
  const { app, signing } = prepared
  const { signed, signatures } = release
  const total = sizes.size
  const upload = { label: `${wanted.size} of ${total} objects`, total: bytesOf(sizes, wanted, recipes) }
  const link = linkKindOf(connection)
  const bytes = bundleBytes({
    manifest: signed.text,
    signatures,
    objects,
    reference: reference?.text,
    link,
    isSent: true,
  })
  const bundle = counted(context, bytes, { sent, upload })
  const lines = api.push(connection, app, { bundle, maxGapMs, reference: reference?.digest })
  const begun = afterFirst(lines, () => {
    // Of an upload that was refused, and is made again, the bytes alone count.
    sent.objects += wanted.size
    sent.reused += total - wanted.size
    prepared.source.remember?.()
  })
  return followChange(context, { host: connection.host, app, signing }, begun)
}

/** The agent works now, and will for a while. */
async function* afterFirst<T>(lines: AsyncIterable<T>, then: () => void): AsyncGenerator<T> {
  let isFirst = true
  for await (const line of lines) {
    yield line
    if (isFirst) then()
    isFirst = false
  }
}

function alreadyRunning({ print }: Context, { connection, prepared }: Delivery, running: ReleaseId): Outcome {
  const { app } = prepared
  const { name, url } = connection.host
  const line = { release: running, previous: running, alreadyRunning: true }
  if (print.json)
    print.value({ host: name, step: 'done', at: new Date().toISOString(), ms: 0, deploy: null, app, ...line })
  return { name, url, exit: 0, release: running, running, previous: running, code: 'already_running', message: null }
}
