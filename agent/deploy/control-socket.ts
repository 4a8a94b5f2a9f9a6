import { connect } from 'node:net'
import { reach } from '../fault.ts'

/** The app's own event loop answers; one that does not within this is not well. */
const ANSWER_TIMEOUT_MS = 5_000
/** A status is one short line. */
const MAX_ANSWER_CHARS = 4096

/**
 * Says one word to a held or running instance over its private control socket and gives the line it answers.
 * Rejects when nobody answers: the app has not come up yet, or is stuck.
 */
export function order(
  path: string,
  word: 'activate' | 'status',
  patienceMs: number = ANSWER_TIMEOUT_MS,
): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path })
    const late = setTimeout(
      () => end(new Error(`no answer to ${word} within ${(patienceMs / 1000).toFixed(1)} s`)),
      patienceMs,
    )
    let answer = ''
    const end = (error: Error | undefined) => {
      clearTimeout(late)
      socket.destroy()
      if (error !== undefined) return reject(error)
      if (word === 'activate') reach('control.activated')
      resolve(answer.split('\n')[0] ?? '')
    }
    socket.setEncoding('utf8')
    socket.once('connect', () => socket.write(`${word}\n`))
    socket.on('data', (text: string) => {
      answer += text
      if (answer.includes('\n') || answer.length > MAX_ANSWER_CHARS) end(undefined)
    })
    socket.once('error', end)
    socket.once('close', () => end(new Error(`closed before it answered ${word}`)))
  })
}
