import { hostname } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { printableLine } from '../../shared/printable.ts'
import type { Log } from '../log.ts'
import type { News } from './news.ts'

// Tells a webhook. Whoever has news goes on at once: it is queued here, and lost when nobody takes it.

/** Longer than any webhook service takes that is well. */
const SEND_TIMEOUT_MS = 10_000
/** A restart of a relay, and a short outage; after a minute and a half whoever watches has heard by other ways. */
const RETRY_AFTER_MS = [1_000, 5_000, 20_000, 60_000]
/** Hosts that go down together make much news at once, and only the newest of it is true. */
const MAX_QUEUED = 50
/** Slack cuts at 40,000, others at 2,000: https://docs.slack.dev/reference/methods/chat.postMessage */
const MAX_TEXT_CHARS = 1_500

export interface Notifier {
  /** Returns at once and never throws. */
  tell(news: News): void
  /** Resolves when nothing is left to be sent. */
  drained(): Promise<void>
}

export function createNotifier(webhook: URL | undefined, log: Log): Notifier {
  const queue: { event: string; body: string }[] = []
  let sending: Promise<void> | undefined

  async function sendAll(url: URL): Promise<void> {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      const why = await send(url, next.body)
      if (why !== undefined) log.error({ event: next.event, why }, 'the webhook did not take a notification')
    }
    sending = undefined
  }
  return {
    tell(news) {
      if (webhook === undefined) return
      const dropped = queue.length >= MAX_QUEUED ? queue.shift() : undefined
      if (dropped !== undefined) log.warn({ event: dropped.event }, 'a notification was dropped: too many wait')
      queue.push({ event: news.event, body: bodyOf(news, { host: hostname(), at: new Date() }) })
      sending ??= sendAll(webhook)
    },
    drained: async () => sending,
  }
}

/** `{text, event, host, app, release, at, …}`: Slack and its like show `text`, programs read the rest. */
export function bodyOf(news: News, { host, at }: { host: string; at: Date }): string {
  const { event, text, app = null, release = null, ...facts } = news
  const line = printableLine(`${host}: ${text}`)
  const short = line.length > MAX_TEXT_CHARS ? `${line.slice(0, MAX_TEXT_CHARS).toWellFormed()}…` : line
  return JSON.stringify({ text: escaped(short), event, host, app, release, at: at.toISOString(), ...facts })
}

/** `<!channel>` in a reason would call everybody: https://docs.slack.dev/messaging/formatting-message-text#escaping */
function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}

/** Says why it was not taken, without the address, which is a secret. */
async function send(url: URL, body: string): Promise<string | undefined> {
  for (let tries = 0; ; tries++) {
    const why = await post(url, body)
    const wait = RETRY_AFTER_MS[tries]
    if (why === undefined || !why.again || wait === undefined) return why?.text
    await sleep(wait, undefined, { ref: false })
  }
}

async function post(url: URL, body: string): Promise<{ text: string; again: boolean } | undefined> {
  try {
    const answer = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body,
      // News of this host goes where the admin said, and nowhere else.
      redirect: 'manual',
      signal: AbortSignal.timeout(SEND_TIMEOUT_MS),
    })
    await answer.body?.cancel()
    if (answer.ok) return undefined
    const { status } = answer
    return { text: `it answered ${status}`, again: status >= 500 || status === 408 || status === 429 }
  } catch (error) {
    return { text: codeOf(error), again: true }
  }
}

/** fetch puts what happened into `cause`; its messages may quote the address. */
function codeOf(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
  if (cause instanceof Error && 'code' in cause && typeof cause.code === 'string') return cause.code
  return cause instanceof Error ? cause.name : 'unknown'
}
