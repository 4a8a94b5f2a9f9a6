import { Failure } from '../../shared/failure.ts'

/**
 * An upload owns its app: one that trickles on for ever would keep it busy for ever. Only the time spent waiting for
 * the client counts, so a slow disk of ours is no slow client. Throws `limit_exceeded`.
 */
export async function* notTooSlow(
  chunks: AsyncIterable<Buffer>,
  { minBytesPerSecond, rateWindowMs }: { minBytesPerSecond: number; rateWindowMs: number },
): AsyncGenerator<Buffer> {
  let bytes = 0
  let waitedMs = 0
  let asked = performance.now()
  for await (const chunk of chunks) {
    waitedMs += performance.now() - asked
    bytes += chunk.length
    if (waitedMs >= rateWindowMs) {
      if (bytes < (minBytesPerSecond * waitedMs) / 1000) {
        const seconds = (waitedMs / 1000).toFixed(1)
        throw new Failure(
          'limit_exceeded',
          `receive upload: ${bytes} bytes in ${seconds} s; the least is ${minBytesPerSecond} a second`,
          {
            hint: 'push again over a faster line',
          },
        )
      }
      bytes = 0
      waitedMs = 0
    }
    yield chunk
    asked = performance.now()
  }
}
