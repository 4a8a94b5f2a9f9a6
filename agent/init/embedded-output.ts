import { constants, openSync } from 'node:fs'
import { mkdir, open, rm } from 'node:fs/promises'
import { Socket } from 'node:net'
import { dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { run } from '../run.ts'
import { keepLines, type LogSink } from './embedded-log.ts'

// One pipe for stdout and stderr, so that lines come in the order they were written; two would be read in any order.
// Node makes no pipes, only socket pairs it keeps both hands on, so a named one is made and its name taken away at once.

/** mkfifo does one system call. */
const MKFIFO_TIMEOUT_MS = 10_000
/** After its last process ended only what the kernel still holds is to be read: 64 KiB at most. */
const LAST_WORDS_MS = 1000

export interface Output {
  /** To be stdout and stderr of a process. */
  descriptor: number
  /** Closes our own writing end: from now on the pipe ends with the last process that holds it. */
  handOver(): Promise<void>
  /** Returns when everything that was said is in the log. */
  finish(): Promise<void>
}

/** A pipe into a log. `path` is free for us to use, on a disk that can hold pipes; nothing is left there. */
export async function openOutput(path: string, sink: LogSink): Promise<Output> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  await rm(path, { force: true })
  await run(['mkfifo', '-m', '600', path], { timeoutMs: MKFIFO_TIMEOUT_MS })
  // Not to block: with no writer yet an ordinary open would wait for one. A bare descriptor, for the socket closes it;
  // a FileHandle would close it again when it is collected.
  const reading = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  const writing = await open(path, constants.O_WRONLY)
  await rm(path)
  // The socket polls; a file stream would hold one of Node's four IO threads for as long as the service is silent.
  const stream = new Socket({ fd: reading, readable: true, writable: false })
  // Destroyed while it was read: `finish` below gave up on it.
  const isRead = keepLines(stream, sink).catch(() => {})
  let isHandedOver = false
  const handOver = async () => {
    if (isHandedOver) return
    isHandedOver = true
    await writing.close()
  }
  return {
    descriptor: writing.fd,
    handOver,
    async finish() {
      await handOver()
      const patience = new AbortController()
      await Promise.race([isRead, sleep(LAST_WORDS_MS, undefined, { signal: patience.signal }).catch(() => {})])
      patience.abort()
      // Somebody who is not of the service any more holds the pipe: its words are not kept.
      stream.destroy()
      await isRead
      await sink.close()
    },
  }
}
