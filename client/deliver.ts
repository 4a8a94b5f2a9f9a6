import prettyBytes from 'pretty-bytes'
import type { BundleObject } from '../shared/bundle.ts'
import { bundleBytes } from '../shared/bundle-write.ts'
import { Failure } from '../shared/failure.ts'
import { type Manifest, objectsOf } from '../shared/manifest.ts'
import type { ReleaseId, Sha256 } from '../shared/names.ts'
import { MIN_RECIPE_BYTES } from '../shared/recipe.ts'
import * as api from './api.ts'
import type { Connection } from './connection.ts'
import { type Context, withConnection } from './context.ts'
import { followChange, type Outcome } from './follow.ts'
import type { Prepared, Release } from './prepare.ts'
import { startProgress } from './progress.ts'
import { asRecipes, beginChunks, isAboutRecipes, planRecipes } from './recipes.ts'
import { openReferences, type Reference } from './references.ts'

/**
 * What changed is sent at once, with no question what the host lacks, while it is less than this: what it has of the
 * reference it has, an early no (a full disk) would save little, and nothing so small travels as a recipe.
 */
const DIRECT_BYTES = MIN_RECIPE_BYTES

/** A host in the same building or on this machine answers sooner; what is farther is seldom reached as fast as zstd works. */
const FAR_MS = 8

export interface Sent {
  bytes: number
  objects: number
  reused: number
}

export interface Delivery {
  connection: Connection
  prepared: Prepared
  /** Adds up what went to all hosts. */
  sent: Sent
  force: boolean
  maxGapMs: number | undefined
}

/** To one host: ask whether it runs this already; if not, sign, send what it lacks, and follow to the truth. */
export async function deliver(context: Context, job: Delivery): Promise<Outcome> {
  const { connection, prepared, force } = job
  const { app, content } = prepared
  const { host, pin } = connection
  const references = openReferences(context.surroundings.cacheDir)
  const kept = content === undefined ? undefined : references.of(pin, app)
  const known =
    content === undefined ? undefined : await api.known(connection, app, { content, reference: kept?.digest })
  if (known && known.alreadyRunning !== null && !force) return alreadyRunning(context, job, known.alreadyRunning)
  const release = await prepared.release()
  context.print.note(`push ${app} ${release.signed.id} to ${host.name}`)
  const outcome = await sendRelease(context, job, { release, reference: known?.reference ? kept : undefined })
  if (outcome.exit === 0 && outcome.code === null) references.keep(pin, app, release.signed.text)
  return outcome
}

/** With a reference where there is one; without, when the host has not got what it was said to have. */
async function sendRelease(
  context: Context,
  job: Delivery,
  { release, reference }: { release: Release; reference: Reference | undefined },
): Promise<Outcome> {
  if (reference === undefined) return askAndSend(context, job, { release })
  try {
    const wanted = lackingIn(reference, release.signed.manifest)
    if (sizeOf(release.signed.manifest, wanted) > DIRECT_BYTES)
      return await askAndSend(context, job, { release, reference, likely: wanted })
    return await send(context, job, { release, reference, wanted, objects: job.prepared.source.objects(wanted) })
  } catch (error) {
    const isStale = error instanceof Failure && (error.code === 'reference_unknown' || error.code === 'object_missing')
    if (!isStale) throw error
    // The connection over which an upload was refused is not used again.
    return withConnection(context, job.connection.host, job.prepared.signing, (connection) =>
      askAndSend(context, { ...job, connection }, { release }),
    )
  }
}

async function askAndSend(
  context: Context,
  job: Delivery,
  { release, reference, likely }: { release: Release; reference?: Reference; likely?: ReadonlySet<Sha256> },
): Promise<Outcome> {
  const { connection, prepared } = job
  const { signed, signatures } = release
  const { source } = prepared
  const { host } = connection
  const head = bundleBytes({ manifest: signed.text, signatures, objects: [], reference: reference?.text })
  const withBases = source.signed === undefined
  using chunking = beginChunks(source, withBases ? likely : undefined)
  const answer = await api.missing(connection, prepared.app, { head, withBases, reference: reference?.digest })
  if (answer.alreadyRunning !== null && !job.force) return alreadyRunning(context, job, answer.alreadyRunning)
  if (answer.damaged)
    context.print.warn(`${answer.damaged} of its contents were damaged on ${host.name}: they are sent again`)
  const wanted = new Set(answer.missing)
  const recipes = await planRecipes(chunking, { wanted, bases: answer.bases ?? [] })
  const parts = { release, reference, wanted }
  try {
    return await send(context, job, { ...parts, objects: asRecipes(source.objects(wanted), recipes) })
  } catch (error) {
    if (recipes.size === 0 || !isAboutRecipes(error)) throw error
    context.print.warn(`${error.message}: sending it whole`)
    // The connection over which an upload was refused is not used again.
    return withConnection(context, host, prepared.signing, (other) =>
      send(context, { ...job, connection: other }, { ...parts, objects: source.objects(wanted) }),
    )
  }
}

interface Parts {
  release: Release
  reference: Reference | undefined
  wanted: ReadonlySet<Sha256>
  objects: AsyncIterable<BundleObject>
}

async function send(context: Context, job: Delivery, { release, reference, wanted, objects }: Parts): Promise<Outcome> {
  const { connection, prepared, sent, maxGapMs } = job
  const { app, signing } = prepared
  const { signed, signatures } = release
  const total = objectsOf(signed.manifest).size
  sent.objects += wanted.size
  sent.reused += total - wanted.size
  const upload = { label: `${wanted.size} of ${total} objects`, total: sizeOf(signed.manifest, wanted) }
  const isFar = connection.roundTripMs > FAR_MS
  const bytes = bundleBytes({ manifest: signed.text, signatures, objects, reference: reference?.text, isFar })
  const bundle = counted(context, bytes, { sent, upload })
  const lines = api.push(connection, app, { bundle, maxGapMs, reference: reference?.digest })
  return followChange(context, { host: connection.host, app, signing }, lines)
}

function alreadyRunning({ print }: Context, { connection, prepared }: Delivery, running: ReleaseId): Outcome {
  const { app } = prepared
  const { name, url } = connection.host
  const line = { release: running, previous: running, alreadyRunning: true }
  if (print.json)
    print.value({ host: name, step: 'done', at: new Date().toISOString(), ms: 0, deploy: null, app, ...line })
  return { name, url, exit: 0, release: running, running, previous: running, code: 'already_running', message: null }
}

/** What the release has and the reference has not. */
function lackingIn({ text }: Reference, manifest: Manifest): Set<Sha256> {
  const wanted = new Set(objectsOf(manifest).keys())
  // An agent has checked it: it is as good as the manifest that was signed then.
  for (const digest of objectsOf(JSON.parse(text.toString()) as Manifest).keys()) wanted.delete(digest)
  return wanted
}

function sizeOf(manifest: Manifest, wanted: ReadonlySet<Sha256>): number {
  let bytes = 0
  for (const [digest, size] of objectsOf(manifest)) if (wanted.has(digest)) bytes += size
  return bytes
}

/** Counts what goes over the wire, and tells it while it goes. */
async function* counted(
  { print }: Context,
  bundle: AsyncIterable<Buffer>,
  { sent, upload }: { sent: Sent; upload: { label: string; total: number } },
): AsyncGenerator<Buffer> {
  const label = `sending ${upload.label}, ${prettyBytes(upload.total)}`
  const progress = startProgress(print, label)
  let bytes = 0
  try {
    for await (const chunk of bundle) {
      bytes += chunk.length
      progress.say(`${label}: ${prettyBytes(bytes)} compressed so far`)
      yield chunk
    }
  } finally {
    sent.bytes += bytes
    progress.end()
  }
  print.note(`  ${print.tone('good', '✓')} sent ${upload.label}, ${prettyBytes(bytes)}`)
}
