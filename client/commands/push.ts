import prettyBytes from 'pretty-bytes'
import prettyMs from 'pretty-ms'
import type { BundleObject } from '../../shared/bundle.ts'
import { bundleBytes } from '../../shared/bundle-write.ts'
import { parseDurationMs } from '../../shared/duration.ts'
import { Failure } from '../../shared/failure.ts'
import { objectsOf } from '../../shared/manifest.ts'
import type { Sha256 } from '../../shared/names.ts'
import * as api from '../api.ts'
import type { Connection } from '../connection.ts'
import { type Context, targetHosts, withConnection } from '../context.ts'
import { followChange, type Outcome } from '../follow.ts'
import { changeHosts, exitOf } from '../hosts.ts'
import { type Prepared, prepare } from '../prepare.ts'
import { startProgress } from '../progress.ts'
import { asRecipes, isAboutRecipes, planRecipes } from '../recipes.ts'
import { summarise } from '../summary.ts'

interface Sent {
  bytes: number
  objects: number
  reused: number
}

export interface PushOptions {
  force?: boolean
  /** A duration; a bare number is ms. */
  maxGap?: string
}

/** Build, pack, sign; then per host: ask what is missing, send that, and follow to the truth. */
export async function push(context: Context, path: string | undefined, options: PushOptions): Promise<number> {
  const began = Date.now()
  const maxGapMs = options.maxGap === undefined ? undefined : gapOf(options.maxGap)
  const prepared = await prepare(context, path)
  try {
    const { signed, project, signing } = prepared
    const { app } = signed.manifest
    if (context.options.app !== undefined && context.options.app !== app) {
      throw new Failure('usage', `push --app ${context.options.app}: this release is of the app ${app}`)
    }
    if (project && project.app !== app && !context.options.host?.length) {
      throw new Failure('usage', `push ${path}: it is of the app ${app}, and tarmac.toml here of ${project.app}`, {
        hint: 'say where it goes: --host https://…',
      })
    }
    const hosts = targetHosts(context, project, 'change')
    const sent: Sent = { bytes: 0, objects: 0, reused: 0 }
    const outcomes = await changeHosts(context, { hosts, signing }, (connection) =>
      pushTo(context, { connection, prepared, sent, force: options.force === true, maxGapMs }),
    )
    summarise(context.print, outcomes, (outcome) => doneWords(outcome, prepared, Date.now() - began), {
      bytesSent: sent.bytes,
      objectsSent: sent.objects,
      objectsReused: sent.reused,
      seconds: (Date.now() - began) / 1000,
    })
    return exitOf(outcomes)
  } finally {
    prepared.source.close()
  }
}

function doneWords({ release, previous, code }: Outcome, { signed }: Prepared, ms: number): string {
  const { app } = signed.manifest
  if (code === 'already_running') return `${app} is already running ${release}: nothing was changed`
  return `${app} runs ${release}${previous === null ? '' : ` (was ${previous})`}, ${prettyMs(ms)}`
}

async function pushTo(
  context: Context,
  job: { connection: Connection; prepared: Prepared; sent: Sent; force: boolean; maxGapMs: number | undefined },
): Promise<Outcome> {
  const { connection, prepared, sent, force, maxGapMs } = job
  const { print } = context
  const { signed, signatures, source } = prepared
  const { app } = signed.manifest
  const { host } = connection
  print.note(`push ${app} ${signed.id} to ${host.name}`)
  const head = { manifest: signed.text, signatures }
  const asked = { head: bundleBytes({ ...head, objects: [] }), withBases: source.signed === undefined }
  const answer = await api.missing(connection, app, asked)
  if (answer.alreadyRunning !== null && !force) {
    const at = new Date().toISOString()
    const running = answer.alreadyRunning
    if (print.json)
      print.value({
        host: host.name,
        step: 'done',
        at,
        ms: 0,
        deploy: null,
        app,
        release: running,
        previous: running,
        alreadyRunning: true,
      })
    return {
      name: host.name,
      url: host.url,
      exit: 0,
      release: running,
      running,
      previous: running,
      code: 'already_running',
      message: null,
    }
  }
  if (answer.damaged) print.warn(`${answer.damaged} of its contents were damaged on ${host.name}: they are sent again`)
  const wanted = new Set(answer.missing)
  const total = objectsOf(signed.manifest).size
  sent.objects += wanted.size
  sent.reused += total - wanted.size
  const followed = { host, app, signing: prepared.signing }
  const upload = { label: `${wanted.size} of ${total} objects`, total: sizeOf(signed.manifest, wanted) }
  const sendOver = (over: Connection, objects: AsyncIterable<BundleObject>) => {
    const bundle = counted(context, bundleBytes({ ...head, objects }), sent, upload)
    return followChange(context, followed, api.push(over, app, { bundle, maxGapMs }))
  }
  const recipes = await planRecipes(source, { wanted, bases: answer.bases ?? [] })
  try {
    return await sendOver(connection, asRecipes(source.objects(wanted), recipes))
  } catch (error) {
    if (recipes.size === 0 || !isAboutRecipes(error)) throw error
    print.warn(`${error.message}: sending it whole`)
    // The connection over which an upload was refused is not used again.
    return withConnection(context, host, prepared.signing, (other) => sendOver(other, source.objects(wanted)))
  }
}

function gapOf(text: string): number {
  return /^\d{1,7}$/.test(text) ? Number(text) : parseDurationMs(text, '--max-gap')
}

function sizeOf(manifest: Parameters<typeof objectsOf>[0], wanted: ReadonlySet<Sha256>): number {
  let bytes = 0
  for (const [digest, size] of objectsOf(manifest)) if (wanted.has(digest)) bytes += size
  return bytes
}

/** Counts what goes over the wire, and tells it while it goes. */
async function* counted(
  context: Context,
  bundle: AsyncIterable<Buffer>,
  sent: Sent,
  upload: { label: string; total: number },
): AsyncGenerator<Buffer> {
  const progress = startProgress(context.print, `sending ${upload.label}, ${prettyBytes(upload.total)}`)
  let bytes = 0
  try {
    for await (const chunk of bundle) {
      bytes += chunk.length
      progress.say(`sending ${upload.label}, ${prettyBytes(upload.total)}: ${prettyBytes(bytes)} compressed so far`)
      yield chunk
    }
  } finally {
    sent.bytes += bytes
    progress.end()
  }
  context.print.note(`  ${context.print.tone('good', '✓')} sent ${upload.label}, ${prettyBytes(bytes)}`)
}
