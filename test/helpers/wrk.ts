import { spawn } from 'node:child_process'
import { join } from 'node:path'

const THINK = join(import.meta.dirname, '../fixtures/think.lua')
/** It is told to end long before. */
const MAX_SECONDS = 15 * 60
const CONNECTIONS = 4

export interface WrkResult {
  requests: number
  /** Refused, reset, unanswered within 10 s, or answered with another status than 2xx and 3xx. */
  failed: number
}

/** wrk on one URL until `end`: with keep-alive, or a new connection for each request. Nothing is tried again. */
export function startWrk(url: string, kind: 'keep-alive' | 'close'): { end(): Promise<WrkResult> } {
  const headers = kind === 'close' ? ['-H', 'Connection: close'] : []
  const argv = ['-t1', `-c${CONNECTIONS}`, `-d${MAX_SECONDS}s`, '--timeout', '10s', '-s', THINK, ...headers, url]
  // Nice: what it asks must not be what makes the switch slow.
  const child = spawn('nice', ['-n', '10', 'wrk', ...argv], { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
  })
  const ended = new Promise<WrkResult>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', () => resolve(parseReport(text)))
  })
  return {
    end: () => {
      child.kill('SIGINT')
      return ended
    },
  }
}

function parseReport(text: string): WrkResult {
  const requests = /(\d+) requests in/.exec(text)?.[1]
  if (requests === undefined) throw new Error(`wrk: ${text}`)
  const errors = /Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)/.exec(text)?.slice(1) ?? []
  const bad = /Non-2xx or 3xx responses: (\d+)/.exec(text)?.[1] ?? '0'
  return { requests: Number(requests), failed: [...errors, bad].reduce((sum, count) => sum + Number(count), 0) }
}
