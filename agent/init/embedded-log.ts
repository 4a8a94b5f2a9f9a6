import { type FileHandle, mkdir, open, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { reasonOf } from '../../shared/failure.ts'
import type { AppName, ReleaseId, ServiceName } from '../../shared/names.ts'
import type { Log } from '../log.ts'
import { renameWhole } from '../state/disk.ts'

// What services of the embedded init say: logs/<app>/<release>/<service>.log, each line after its time. journald does
// this elsewhere, and its limits are ours: whatever a service writes, neither memory nor the disk grows without end.

/** journald's default LineMax=: a longer line is kept as several. */
export const MAX_LINE_BYTES = 48 * 1024
/** Of one service of one release: some 80,000 lines. Ten releases of five services then stay below half a gigabyte. */
export const MAX_LOG_BYTES = 8 * 1024 * 1024
/** A full file becomes `.1`, and what was `.1` is dropped: at least the newer half is always there. */
const MAX_FILE_BYTES = MAX_LOG_BYTES / 2

const NEWLINE = 0x0a
const CARRIAGE_RETURN = 0x0d

export interface LogKey {
  app: AppName
  release: ReleaseId
  service: ServiceName
}

/** Takes whole lines; resolves when they are written or, on a full disk, dropped. Never rejects. */
export interface LogSink {
  write(lines: Buffer): Promise<void>
  close(): Promise<void>
}

export type LogBook = ReturnType<typeof createLogBook>

/** All logs below `dir`. Two slots may run one release: they share a file, so there is one writer per file. */
export function createLogBook(dir: string, log: Log) {
  const shared = new Map<string, { sink: LogSink; users: number }>()
  const listeners = new Set<(key: LogKey) => void>()
  const appDir = (app: AppName) => join(dir, app)
  const fileOf = (key: LogKey) => join(appDir(key.app), key.release, `${key.service}.log`)

  return {
    appDir,
    fileOf,
    /** A place for one process's output; close it when the process has ended. */
    open(key: LogKey): LogSink {
      const path = fileOf(key)
      const entry = shared.get(path) ?? { sink: fileSink(path, log), users: 0 }
      shared.set(path, entry)
      entry.users++
      return {
        async write(lines) {
          await entry.sink.write(lines)
          for (const listener of listeners) listener(key)
        },
        async close() {
          if (--entry.users > 0) return
          shared.delete(path)
          await entry.sink.close()
        },
      }
    },
    /** Calls back after each write until the answer is called. */
    onWrite(listener: (key: LogKey) => void): () => void {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    async forget(app: AppName, release: ReleaseId): Promise<void> {
      await rm(join(appDir(app), release), { recursive: true, force: true })
    },
  }
}

/** Reads to the end, a stamp before each line. A slow disk makes the service wait, not our memory grow. */
export async function keepLines(stream: AsyncIterable<Buffer>, sink: LogSink): Promise<void> {
  let rest = Buffer.alloc(0)
  for await (const chunk of stream) {
    const { lines, rest: left } = linesIn(rest.length === 0 ? chunk : Buffer.concat([rest, chunk]))
    rest = left
    if (lines.length > 0) await sink.write(stamped(lines))
  }
  if (rest.length > 0) await sink.write(stamped([rest]))
}

/** Whole lines, long ones in pieces, empty ones left out as journald does; and what has no end yet. */
export function linesIn(data: Buffer): { lines: Buffer[]; rest: Buffer<ArrayBuffer> } {
  const lines: Buffer[] = []
  let start = 0
  for (;;) {
    const newline = data.indexOf(NEWLINE, start)
    const end = newline === -1 ? data.length : newline
    for (; end - start > MAX_LINE_BYTES; start += MAX_LINE_BYTES)
      lines.push(data.subarray(start, start + MAX_LINE_BYTES))
    // Copied: a slice would hold on to the whole chunk it came in.
    if (newline === -1) return { lines, rest: Buffer.from(data.subarray(start)) }
    const bare = data[end - 1] === CARRIAGE_RETURN ? end - 1 : end
    if (bare > start) lines.push(data.subarray(start, bare))
    start = newline + 1
  }
}

function stamped(lines: Buffer[]): Buffer {
  const stamp = Buffer.from(`${new Date().toISOString()} `)
  const end = Buffer.of(NEWLINE)
  return Buffer.concat(lines.flatMap((line) => [stamp, line, end]))
}

function fileSink(path: string, log: Log): LogSink {
  let file: { handle: FileHandle; bytes: number } | undefined
  let isTold = false
  let queue = Promise.resolve()

  async function append(lines: Buffer): Promise<void> {
    file ??= await openAtLineStart(path)
    if (file.bytes > 0 && file.bytes + lines.length > MAX_FILE_BYTES) {
      await file.handle.close()
      file = undefined
      await renameWhole(path, `${path}.1`)
      file = await openAtLineStart(path)
    }
    await file.handle.appendFile(lines)
    file.bytes += lines.length
  }

  async function appendOrDrop(lines: Buffer): Promise<void> {
    try {
      await append(lines)
      isTold = false
    } catch (error) {
      // A full disk must not stop the service, and it would if nobody emptied its pipe. Half a line may have been
      // written: opening again ends it.
      await file?.handle.close()
      file = undefined
      if (!isTold) log.warn({ path, reason: reasonOf(error) }, 'output of a service is dropped')
      isTold = true
    }
  }

  return {
    write(lines) {
      queue = queue.then(() => appendOrDrop(lines))
      return queue
    },
    async close() {
      await queue
      await file?.handle.close()
      file = undefined
    },
  }
}

async function openAtLineStart(path: string): Promise<{ handle: FileHandle; bytes: number }> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  const handle = await open(path, 'a+', 0o600)
  const { size } = await handle.stat()
  if (size === 0) return { handle, bytes: 0 }
  const last = Buffer.alloc(1)
  await handle.read(last, 0, 1, size - 1)
  if (last[0] === NEWLINE) return { handle, bytes: size }
  await handle.appendFile('\n')
  return { handle, bytes: size + 1 }
}
