import { Failure, reasonOf } from '../../shared/failure.ts'
import { isReleaseId, parseServiceName, type ServiceName, SLOTS } from '../../shared/names.ts'
import type { LogLine } from '../../shared/wire.ts'
import { run, runLines } from '../run.ts'
import type { LogQuery } from './init-system.ts'
import { unitName } from './systemd-unit.ts'

// An app's output as journald keeps it, also of releases long dead. RELEASE and TARMAC_* come from LogExtraFields= of the
// unit, but every local process may write such fields into the journal; _SYSTEMD_UNIT it cannot. So both must match.

/** A screen is 50 lines and a receipt 40; whoever wants more than this wants a file. */
const MAX_LINES = 10_000
/** journald hands over what it has in milliseconds; a disk that is full or slow must not keep the answer. */
const SYNC_TIMEOUT_MS = 5000
const LIST_TIMEOUT_MS = 30_000

/** Throws `program_failed`. `services` are those to look for beside the ones the journal has heard of. */
export async function* readJournal(
  query: LogQuery,
  { services, signal }: { services: readonly ServiceName[]; signal: AbortSignal },
): AsyncIterable<LogLine> {
  const wanted = query.service === undefined ? await knownServices(services) : [query.service]
  if (wanted.length === 0) return
  await syncJournal()
  for await (const text of runLines(journalArgv(query, wanted), signal)) {
    const line = parseEntry(text)
    if (line !== undefined) yield line
  }
}

function journalArgv({ app, release, lines, since, follow }: LogQuery, services: readonly ServiceName[]): string[] {
  const units = services.flatMap((service) => SLOTS.map((slot) => unitName({ app, service, slot })))
  return [
    'journalctl',
    '--output=json',
    // Without it a message of more than 4 KiB is null.
    '--all',
    '--no-pager',
    '--quiet',
    '--output-fields=MESSAGE,RELEASE,TARMAC_SERVICE',
    `--lines=${Math.min(Math.max(0, Math.trunc(lines)), MAX_LINES)}`,
    ...(since === undefined ? [] : [`--since=@${sinceSeconds(since)}`]),
    ...(follow === true ? ['--follow'] : []),
    `TARMAC_APP=${app}`,
    ...(release === undefined ? [] : [`RELEASE=${release}`]),
    ...units.map((unit) => `_SYSTEMD_UNIT=${unit}`),
  ]
}

function sinceSeconds(since: string): string {
  const ms = Date.parse(since)
  if (Number.isNaN(ms))
    throw new Failure('usage', `since ${JSON.stringify(since)}: is no time such as 2026-11-22T23:38:51Z`)
  return (ms / 1000).toFixed(3)
}

/** Services that ever logged on this host, under any app: a release removed long ago may have had others than now. */
async function knownServices(services: readonly ServiceName[]): Promise<ServiceName[]> {
  const { stdout } = await run(['journalctl', '--no-pager', '--quiet', '--field=TARMAC_SERVICE'], {
    timeoutMs: LIST_TIMEOUT_MS,
  })
  const heard = stdout.split('\n').filter((name) => /^[a-z][a-z0-9-]{0,30}$/.test(name))
  return [...new Set([...services, ...heard.map(parseServiceName)])]
}

/** Waits until journald has read what processes wrote before: the last words of one that just died come last. */
export async function syncJournal(): Promise<void> {
  try {
    await run(['journalctl', '--sync'], { timeoutMs: SYNC_TIMEOUT_MS })
  } catch (error) {
    // The lines so far are better than none.
    if (!(error instanceof Failure)) throw error
  }
}

/** One line of `journalctl -o json`: systemd's "Journal JSON Format". */
export function parseEntry(text: string): LogLine | undefined {
  let entry: Record<string, unknown>
  try {
    entry = JSON.parse(text) as Record<string, unknown>
  } catch (cause) {
    throw new Failure('program_failed', `journalctl wrote no JSON: ${reasonOf(cause).slice(0, 200)}`, { cause })
  }
  const { MESSAGE, RELEASE, TARMAC_SERVICE, __REALTIME_TIMESTAMP } = entry
  const message = messageText(MESSAGE)
  if (message === undefined) return undefined
  return {
    at: new Date(Number(__REALTIME_TIMESTAMP) / 1000).toISOString(),
    service: parseServiceName(TARMAC_SERVICE),
    release: isReleaseId(RELEASE) ? RELEASE : null,
    message,
  }
}

/** Text with control characters or bad UTF-8 comes as a list of bytes; a field given more than once as a list of those. */
function messageText(value: unknown): string | undefined {
  if (typeof value === 'string') return value
  if (!Array.isArray(value)) return undefined
  return typeof value[0] === 'number' ? Buffer.from(value as number[]).toString('utf8') : messageText(value[0])
}
