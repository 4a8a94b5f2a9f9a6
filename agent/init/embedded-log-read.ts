import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { isErrno } from '../../shared/failure.ts'
import { isReleaseId, parseServiceName } from '../../shared/names.ts'
import type { LogLine } from '../../shared/wire.ts'
import type { LogBook, LogKey } from './embedded-log.ts'
import { type Cursor, readOn, readTail } from './embedded-log-file.ts'
import type { LogQuery } from './init-system.ts'

const STAMPED = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) /
const STAMP_LENGTH = '2026-11-22T23:38:51.000Z '.length

/**
 * The newest lines of all files that were asked for, oldest first. Follows until the signal aborts, when asked to: it
 * reads on in the files from where it stopped, so a slow reader costs no memory.
 */
export async function* readLogs(book: LogBook, query: LogQuery, signal: AbortSignal): AsyncIterable<LogLine> {
  const sinceMs = query.since === undefined ? Number.NEGATIVE_INFINITY : Date.parse(query.since)
  const isAsked = (line: LogLine) => Date.parse(line.at) >= sinceMs
  const cursors = new Map<string, Cursor>()
  // Listening begins before the first look: what is written while we look is found by the second one.
  using changes = changesOf(book, query, signal)

  let newest: LogLine[] = []
  for (const key of await keysAsked(book, query)) {
    const { lines, cursor } = await readTail(book.fileOf(key), query.lines)
    cursors.set(book.fileOf(key), cursor)
    newest = byTime([...newest, ...linesOf(lines, key).filter(isAsked)])
    newest.splice(0, newest.length - query.lines)
  }
  yield* newest

  while (query.follow && (await changes.next())) {
    const fresh: LogLine[] = []
    for (const key of changes.take()) {
      const { lines, cursor } = await readOn(book.fileOf(key), cursors.get(book.fileOf(key)))
      cursors.set(book.fileOf(key), cursor)
      fresh.push(...linesOf(lines, key).filter(isAsked))
      // A block is not always all there is: look again until there is nothing.
      if (lines.length > 0) changes.add(key)
    }
    for (const line of byTime(fresh)) {
      if (signal.aborted) return
      yield line
    }
  }
}

/** The files of this query that were written to, until it is disposed of. */
function changesOf(book: LogBook, query: LogQuery, signal: AbortSignal) {
  const written = new Map<string, LogKey>()
  let wake = () => {}
  const up = () => wake()
  const add = (key: LogKey) => {
    if (isOf(key, query)) written.set(book.fileOf(key), key)
    up()
  }
  const unlisten = book.onWrite(add)
  signal.addEventListener('abort', up)
  return {
    add,
    take(): LogKey[] {
      const keys = [...written.values()]
      written.clear()
      return keys
    },
    /** Waits for a change; false when the signal aborted. */
    async next(): Promise<boolean> {
      while (written.size === 0 && !signal.aborted) {
        const { promise, resolve } = Promise.withResolvers<void>()
        wake = resolve
        await promise
      }
      return !signal.aborted
    },
    [Symbol.dispose]() {
      unlisten()
      signal.removeEventListener('abort', up)
    },
  }
}

function isOf(key: LogKey, query: LogQuery): boolean {
  return (
    key.app === query.app &&
    (query.service === undefined || key.service === query.service) &&
    (query.release === undefined || key.release === query.release)
  )
}

async function keysAsked(book: LogBook, query: LogQuery): Promise<LogKey[]> {
  const keys: LogKey[] = []
  const dir = book.appDir(query.app)
  for (const release of (await namesIn(dir)).filter(isReleaseId)) {
    for (const name of await namesIn(join(dir, release))) {
      const service = /^([a-z0-9-]+)\.log$/.exec(name)?.[1]
      if (service !== undefined) keys.push({ app: query.app, release, service: parseServiceName(service) })
    }
  }
  return keys.filter((key) => isOf(key, query))
}

/** Sorting is stable: lines of one millisecond stay in the order they were written. */
function byTime(lines: LogLine[]): LogLine[] {
  return lines.sort((a, b) => (a.at < b.at ? -1 : a.at > b.at ? 1 : 0))
}

function linesOf(texts: string[], { release, service }: LogKey): LogLine[] {
  const lines: LogLine[] = []
  for (const text of texts) {
    // What has no stamp is the torn end of a line that a full disk or a dying agent left.
    const at = STAMPED.exec(text)?.[1]
    if (at !== undefined) lines.push({ at, service, release, message: text.slice(STAMP_LENGTH) })
  }
  return lines
}

/** None when there is no such directory: nothing ever logged. */
async function namesIn(dir: string): Promise<string[]> {
  try {
    return await readdir(dir)
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return []
    throw error
  }
}
