import { getDefaultHighWaterMark, type Readable } from 'node:stream'
import type { ReadableStream } from 'node:stream/web'
import { Failure, failureFrom, reasonOf } from '../shared/failure.ts'
import { giveBack } from '../shared/give-back.ts'
import type { LedgerReport } from '../shared/ledger-report.ts'
import type { AppName, ReleaseId, Sha256 } from '../shared/names.ts'
import type { EnvAnswer, VariableChange } from '../shared/variables.ts'
import {
  type AgentStatus,
  type DeployEntry,
  type KnownAnswer,
  type Line,
  type LogAnswer,
  type LogLine,
  type MissingAnswer,
  type PruneAnswer,
  paths,
  REFERENCE_HEADER,
  type ReleaseEntry,
} from '../shared/wire.ts'
import type { DoctorAnswer } from '../shared/wire-doctor.ts'
import { type Connection, lost } from './connection.ts'

// A function per route. What comes back is the agent's word for it; strings in it are escaped where they are printed.

const JSON_TYPE = { 'content-type': 'application/json' }
const BUNDLE_TYPE = { 'content-type': 'application/vnd.tarmac.bundle' }
/** A step with a receipt of 40 long lines is far below. */
const MAX_LINE_CHARS = 4 * 1024 * 1024

export async function status(connection: Connection, app: AppName | undefined): Promise<AgentStatus> {
  const query = app === undefined ? '' : `?app=${app}`
  return (await json(connection, 'GET', `${paths.status}${query}`)) as AgentStatus
}

/** What runs there already, and whether a bundle may be written on this reference. */
export async function known(
  connection: Connection,
  app: AppName,
  asked: { reference: Sha256 | undefined; again: boolean },
): Promise<KnownAnswer> {
  const body = { text: JSON.stringify(asked), headers: JSON_TYPE }
  return (await json(connection, 'POST', paths.known(app), body)) as KnownAnswer
}

/** `withBases`: it is also to say what it has that is much like big ones it lacks. */
export async function missing(
  connection: Connection,
  app: AppName,
  { head, withBases, reference }: { head: AsyncIterable<Buffer>; withBases: boolean; reference: Sha256 | undefined },
): Promise<MissingAnswer> {
  const path = `${paths.missing(app)}${withBases ? '?bases=1' : ''}`
  return (await json(connection, 'POST', path, { stream: head, headers: bundleHeaders(reference) })) as MissingAnswer
}

/** `maxGapMs`: a longer gap in the switch fails the push. */
export function push(
  connection: Connection,
  app: AppName,
  sent: { bundle: AsyncIterable<Buffer>; maxGapMs: number | undefined; reference: Sha256 | undefined },
): AsyncGenerator<Line> {
  const { bundle, maxGapMs, reference } = sent
  const query = maxGapMs === undefined ? '' : `?maxGapMs=${maxGapMs}`
  const body = { stream: bundle, headers: bundleHeaders(reference) }
  return lines(connection, 'POST', `${paths.releases(app)}${query}`, body)
}

/** What a bundle was written on, if anything, is said beside it. */
function bundleHeaders(reference: Sha256 | undefined): Record<string, string> {
  return { ...BUNDLE_TYPE, ...(reference === undefined ? {} : { [REFERENCE_HEADER]: reference }) }
}

export function rollback(connection: Connection, app: AppName, release: ReleaseId | undefined): AsyncGenerator<Line> {
  return lines(connection, 'POST', paths.rollback(app), {
    text: JSON.stringify(release === undefined ? {} : { release }),
    headers: JSON_TYPE,
  })
}

export function control(
  connection: Connection,
  verb: 'restart' | 'stop' | 'start',
  app: AppName,
): AsyncGenerator<Line> {
  return lines(connection, 'POST', paths[verb](app), { text: '', headers: JSON_TYPE })
}

export function prune(connection: Connection, app: AppName): AsyncGenerator<Line> {
  return lines(connection, 'POST', paths.prune(app), { text: '', headers: JSON_TYPE })
}

export async function explainPrune(connection: Connection, app: AppName): Promise<PruneAnswer> {
  return (await json(connection, 'GET', paths.prune(app))) as PruneAnswer
}

export async function env(connection: Connection, app: AppName): Promise<EnvAnswer> {
  return (await json(connection, 'GET', paths.env(app))) as EnvAnswer
}

export function changeEnv(connection: Connection, app: AppName, change: VariableChange): AsyncGenerator<Line> {
  return lines(connection, 'POST', paths.env(app), { text: JSON.stringify(change), headers: JSON_TYPE })
}

/** Keeps a release whatever comes after it, or lets it go again. */
export async function hold(connection: Connection, app: AppName, asked: { release: ReleaseId; held: boolean }) {
  const answer = await connection.request('POST', paths.hold(app), JSON.stringify(asked), JSON_TYPE)
  await answer.body.dump()
}

export async function releases(connection: Connection, app: AppName): Promise<ReleaseEntry[]> {
  return ((await json(connection, 'GET', paths.releases(app))) as { releases: ReleaseEntry[] }).releases
}

export async function deploys(connection: Connection, app: AppName, count: number): Promise<DeployEntry[]> {
  return ((await json(connection, 'GET', `${paths.deploys(app)}?n=${count}`)) as { deploys: DeployEntry[] }).deploys
}

export async function ledger(connection: Connection): Promise<LedgerReport> {
  return (await json(connection, 'GET', paths.ledger)) as LedgerReport
}

export async function doctor(connection: Connection): Promise<DoctorAnswer> {
  return (await json(connection, 'GET', paths.doctor)) as DoctorAnswer
}

export interface LogsAsked {
  service?: string
  release?: string
  since?: string
  lines: number
  follow: boolean
}

export async function* logs(connection: Connection, app: AppName, asked: LogsAsked): AsyncGenerator<LogLine> {
  const query = new URLSearchParams({ n: String(asked.lines), follow: asked.follow ? '1' : '0' })
  for (const name of ['service', 'release', 'since'] as const) {
    const value = asked[name]
    if (value !== undefined) query.set(name, value)
  }
  for await (const line of ndjson<LogAnswer>(connection, 'GET', `${paths.logs(app)}?${query}`)) {
    if ('refusal' in line) throw failureFrom(line.refusal)
    yield line
  }
}

type Body = { headers: Record<string, string> } & ({ stream: AsyncIterable<Buffer> } | { text: string })

/** undici takes any iterable; its types know of streams alone. */
function sentOf(body: Body | undefined): string | Readable | undefined {
  return body === undefined ? undefined : 'text' in body ? body.text : (givenBack(body.stream) as unknown as Readable)
}

/** A socket that holds more than this makes who writes to it wait until all of it is gone; ours has the default. */
const SOCKET_HOLDS_BYTES = getDefaultHighWaterMark(false)
/** More small ones than this in a row are left to the garbage collector. */
const MAX_HELD = 64

/** The same; what is sent is given back at once: with a big tree a client holds 217 MB at the most then, and else 252. */
async function* givenBack(stream: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let sent: Buffer[] = []
  for await (const chunk of stream) {
    yield chunk
    sent.push(chunk)
    if (chunk.length > SOCKET_HOLDS_BYTES) for (const one of sent) giveBack(one)
    if (chunk.length > SOCKET_HOLDS_BYTES || sent.length > MAX_HELD) sent = []
  }
}

async function json(connection: Connection, method: 'GET' | 'POST', path: string, body?: Body): Promise<unknown> {
  const answer = await connection.request(method, path, sentOf(body), body?.headers)
  try {
    return await answer.body.json()
  } catch (cause) {
    throw lost(connection.host, reasonOf(cause), cause)
  }
}

async function* lines(connection: Connection, method: 'POST', path: string, body: Body): AsyncGenerator<Line> {
  let last: Line | undefined
  for await (const line of ndjson<Line>(connection, method, path, body)) {
    last = line
    yield line
  }
  if (last?.step === 'done' || last?.step === 'failed') return
  throw lost(connection.host, 'the agent stopped answering before the change ended')
}

async function* ndjson<T>(
  connection: Connection,
  method: 'GET' | 'POST',
  path: string,
  body?: Body,
): AsyncGenerator<T> {
  const answer = await connection.request(method, path, sentOf(body), body?.headers)
  let rest = ''
  const text = new TextDecoder()
  try {
    for await (const chunk of answer.body as unknown as ReadableStream<Uint8Array>) {
      const parts = (rest + text.decode(chunk, { stream: true })).split('\n')
      rest = parts.pop() ?? ''
      if (rest.length > MAX_LINE_CHARS)
        throw new Failure(
          'connection_lost',
          `talk to ${connection.host.url}: a line of more than ${MAX_LINE_CHARS} characters`,
        )
      for (const part of parts) if (part !== '') yield JSON.parse(part) as T
    }
  } catch (cause) {
    throw cause instanceof Failure ? cause : lost(connection.host, reasonOf(cause), cause)
  }
}
