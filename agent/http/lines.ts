import type { Context } from 'hono'
import { stream } from 'hono/streaming'
import type { Line } from '../../shared/wire.ts'
import type { Report } from '../deploy/change.ts'
import type { Log } from '../log.ts'

/** A watcher hears something at least this often, so that a silent network is told apart from slow work. */
export const HEARTBEAT_MS = 4_000

/**
 * Answers with NDJSON while the work goes on. The work belongs to the agent: when the client hangs up the lines go
 * nowhere and the work goes on. `stream` of Hono, since a bare ReadableStream throws at the next enqueue then.
 * Throws what the work throws before its first line: what could not begin is a plain refusal.
 */
export async function answerWithLines(
  c: Context,
  log: Log,
  work: (report: Report) => Promise<void>,
): Promise<Response> {
  const queue: Line[] = []
  let wake: () => void = () => {}
  let over = false
  const began = Date.now()
  let begin: () => void = () => {}
  const begun = new Promise<void>((resolve) => {
    begin = resolve
  })
  const report: Report = (line) => {
    queue.push(line)
    begin()
    wake()
  }
  const end = () => {
    over = true
    wake()
  }
  // Started here and not in the stream's callback: the work must not depend on whether anybody reads the answer.
  const done = work(report)
  // What it throws later is a bug, and ends this answer without a last line; left alone it would end the agent.
  void done.catch((err: unknown) => log.error({ err }, 'a change could not be carried out')).finally(end)
  await Promise.race([done, begun])
  c.header('content-type', 'application/x-ndjson')
  return stream(c, async (out) => {
    while (!out.aborted) {
      const lines = queue.splice(0)
      if (lines.length > 0) await out.write(lines.map((line) => `${JSON.stringify(line)}\n`).join(''))
      else if (over) return
      else if (!(await woken())) report({ step: 'waiting', at: new Date().toISOString(), ms: Date.now() - began })
    }
  })

  function woken(): Promise<boolean> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), HEARTBEAT_MS)
      wake = () => {
        clearTimeout(timer)
        resolve(true)
      }
      if (queue.length > 0 || over) wake()
    })
  }
}
