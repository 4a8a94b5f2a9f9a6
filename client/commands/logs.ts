import { parseDurationMs } from '../../shared/duration.ts'
import { Failure } from '../../shared/failure.ts'
import { printableLine } from '../../shared/printable.ts'
import type { LogLine } from '../../shared/wire.ts'
import * as api from '../api.ts'
import { appOf, type Context, needProjectOrHost, openSigning, targetHosts, withConnection } from '../context.ts'

export interface LogsOptions {
  follow?: boolean
  lines: number
  since?: string
  release?: string
}

export async function logs(context: Context, service: string | undefined, options: LogsOptions): Promise<number> {
  const project = needProjectOrHost(context)
  const app = appOf(context, project)
  const hosts = targetHosts(context, project, 'read')
  const signing = await openSigning(context)
  const asked: api.LogsAsked = {
    lines: options.lines,
    follow: options.follow === true,
    ...(service === undefined ? {} : { service }),
    ...(options.release === undefined ? {} : { release: options.release }),
    ...(options.since === undefined ? {} : { since: sinceTime(options.since, Date.now()) }),
  }
  // Side by side, as they come: with -f there is no end to wait for.
  await Promise.all(
    hosts.map((host) =>
      withConnection(context, host, signing, async (connection) => {
        const name = hosts.length > 1 ? host.name : undefined
        const speaking = new Map<string, string | null>()
        for await (const line of api.logs(connection, app, asked)) {
          noteRelease(context, { line, host: name, speaking })
          show(context, line, name)
        }
      }),
    ),
  )
  return 0
}

/** Output of a dead release beside that of the living one looks the same: say where one ends and the next begins. */
function noteRelease(
  { print }: Context,
  { line, host, speaking }: { line: LogLine; host: string | undefined; speaking: Map<string, string | null> },
): void {
  const before = speaking.get(line.service)
  speaking.set(line.service, line.release)
  if (before === undefined || before === line.release) return
  const who = host === undefined ? line.service : `${host} ${line.service}`
  print.note(printableLine(`-- ${who}: above ${before ?? 'no release'}, below ${line.release ?? 'no release'} --`))
}

function show({ print }: Context, line: LogLine, host: string | undefined): void {
  if (print.json) {
    print.value({ ...(host === undefined ? {} : { host }), ...line })
    return
  }
  const head = [line.at, host, line.service].filter((part) => part !== undefined).join(' ')
  print.line(`${print.tone('dim', printableLine(head))} ${printableLine(line.message)}`)
}

/** "10m" ago, or a time. */
function sinceTime(text: string, now: number): string {
  if (/^\d+(?:\.\d+)?(?:ms|s|m|h|d)$/.test(text)) return new Date(now - parseDurationMs(text, '--since')).toISOString()
  const at = new Date(text)
  if (!Number.isNaN(at.getTime())) return at.toISOString()
  throw new Failure('usage', `--since ${JSON.stringify(text)}: is neither a time nor a duration`, {
    hint: 'for example --since 10m or --since 2026-11-22T23:00:00Z',
  })
}
