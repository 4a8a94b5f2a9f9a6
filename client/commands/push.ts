import prettyMs from 'pretty-ms'
import { parseDurationMs } from '../../shared/duration.ts'
import { Failure } from '../../shared/failure.ts'
import type { AppName } from '../../shared/names.ts'
import { type Ahead, askAhead } from '../ahead.ts'
import { type Context, targetHosts } from '../context.ts'
import { deliver } from '../deliver.ts'
import type { Outcome } from '../follow.ts'
import { changeHosts, exitOf } from '../hosts.ts'
import { prepare } from '../prepare.ts'
import type { Sent } from '../sent.ts'
import { summarise } from '../summary.ts'

export interface PushOptions {
  force?: boolean
  /** A duration; a bare number is ms. */
  maxGap?: string
}

/** Build and look at the files; then host by host: sign and send what it lacks, and follow to the truth. */
export async function push(context: Context, path: string | undefined, options: PushOptions): Promise<number> {
  const began = Date.now()
  const maxGapMs = options.maxGap === undefined ? undefined : gapOf(options.maxGap)
  let ahead: Ahead | undefined
  const prepared = await prepare(context, path, async ({ project, app, signing }) => {
    const [host] = targetHosts(context, project, 'change')
    ahead = host && (await askAhead(context, { host, app, signing }))
  }).catch((error: unknown) => {
    ahead?.close()
    throw error
  })
  try {
    const { app, project, signing } = prepared
    if (project && project.app !== app && !context.options.host?.length) {
      throw new Failure('usage', `push ${path}: it is of the app ${app}, and tarmac.toml here of ${project.app}`, {
        hint: 'say where it goes: --host https://…',
      })
    }
    const hosts = targetHosts(context, project, 'change')
    const sent: Sent = { bytes: 0, objects: 0, reused: 0 }
    const outcomes = await changeHosts(context, { hosts, signing, ahead }, (connection) =>
      deliver(context, { connection, prepared, ahead, sent, force: options.force === true, maxGapMs }),
    )
    summarise(context.print, outcomes, (outcome) => doneWords(outcome, app, Date.now() - began), {
      bytesSent: sent.bytes,
      objectsSent: sent.objects,
      objectsReused: sent.reused,
      seconds: (Date.now() - began) / 1000,
    })
    return exitOf(outcomes)
  } finally {
    ahead?.close()
    prepared.source.close()
  }
}

function doneWords({ release, previous, code }: Outcome, app: AppName, ms: number): string {
  if (code === 'already_running') return `${app} is already running ${release}: nothing was changed`
  return `${app} runs ${release}${previous === null ? '' : ` (was ${previous})`}, ${prettyMs(ms)}`
}

function gapOf(text: string): number {
  return /^\d{1,7}$/.test(text) ? Number(text) : parseDurationMs(text, '--max-gap')
}
