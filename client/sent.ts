import prettyBytes from 'pretty-bytes'
import type { Context } from './context.ts'
import { startProgress } from './progress.ts'

/** What went to all hosts. */
export interface Sent {
  bytes: number
  objects: number
  reused: number
}

/** Counts what goes over the wire, and tells it while it goes. */
export async function* counted(
  { print }: Context,
  bundle: AsyncIterable<Buffer>,
  { sent, upload }: { sent: Sent; upload: { label: string; total: number } },
): AsyncGenerator<Buffer> {
  const label = `sending ${upload.label}, ${prettyBytes(upload.total)}`
  const progress = startProgress(print, label)
  let bytes = 0
  try {
    for await (const chunk of bundle) {
      bytes += chunk.length
      progress.say(`${label}: ${prettyBytes(bytes)} compressed so far`)
      yield chunk
    }
  } finally {
    sent.bytes += bytes
    progress.end()
  }
  print.note(`  ${print.tone('good', '✓')} sent ${upload.label}, ${prettyBytes(bytes)}`)
}
