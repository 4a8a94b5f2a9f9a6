import type { Writable } from 'node:stream'
import { reasonOf } from './failure.ts'

interface Chunks {
  chunkBytes: number
  /** How many of them are on their way to zstd's thread at the most. */
  inFlight: number
  /** What may stop coming for long is passed on as soon as nothing more is at hand; else only full ones are. */
  isPrompt?: boolean
}

/**
 * Joins the pieces to chunks for zstd, since most are small and each write is a trip to another thread and back. The few
 * chunks are filled again and again: half a gigabyte of new ones would set the garbage collector to work on all that is
 * held besides. Ends zstd, or destroys it with what the pieces throw; never rejects.
 */
export async function feed(zstd: Writable, pieces: AsyncGenerator<Uint8Array>, chunks: Chunks): Promise<void> {
  try {
    const slots = slotsOf(zstd, chunks)
    let slot = await slots.untilFree()
    while (!zstd.destroyed) {
      const next = pieces.next()
      if (chunks.isPrompt && slot.used > 0 && !(await isAtHand(next))) {
        slots.write(slot)
        slot = await slots.untilFree()
      }
      const { done, value: piece } = await next
      if (done) break
      for (let at = 0; at < piece.length; ) {
        const some = piece.subarray(at, at + chunks.chunkBytes - slot.used)
        slot.chunk.set(some, slot.used)
        at += some.length
        slot.used += some.length
        if (slot.used < chunks.chunkBytes) continue
        slots.write(slot)
        slot = await slots.untilFree()
      }
    }
    await pieces.return(undefined)
    // Whoever took from it has left.
    if (zstd.destroyed) return
    slots.write(slot)
    // Node ends the frame with the last write when it knows by then that it is the last, and once more when the stream
    // is flushed: an empty second frame, which our own reader refuses. So the end is said only when all is written.
    await slots.untilWritten()
    zstd.end()
  } catch (error) {
    zstd.destroy(error instanceof Error ? error : new Error(reasonOf(error)))
  }
}

/** Whether it is settled before this process would have to wait for anything. */
function isAtHand(next: Promise<unknown>): Promise<boolean> {
  const settled = () => true
  return Promise.race([next.then(settled, settled), new Promise<false>((resolve) => setImmediate(resolve, false))])
}

interface Slot {
  chunk: Buffer
  used: number
}

/** Nothing waits for a stream that was destroyed, which does not call back what it holds. */
function slotsOf(zstd: Writable, { chunkBytes, inFlight }: Chunks) {
  const fresh = (): Slot => ({ chunk: Buffer.allocUnsafeSlow(chunkBytes), used: 0 })
  const free = Array.from({ length: inFlight }, fresh)
  let changed = () => {}
  zstd.once('close', () => changed())
  const until = async (count: number) => {
    while (free.length < count && !zstd.destroyed) {
      await new Promise<void>((resolve) => {
        changed = resolve
      })
    }
  }
  return {
    /** One to fill, when zstd has taken in what was in it. */
    async untilFree(): Promise<Slot> {
      // Lets zstd's thread hand over its result and take the next chunk while this one reads on. Awaits alone do not:
      // what they wake runs before anything another thread has to say. Without this the two work in turn.
      await new Promise((resolve) => setImmediate(resolve))
      await until(1)
      return free.pop() ?? fresh()
    },
    write(slot: Slot): void {
      zstd.write(slot.chunk.subarray(0, slot.used), () => {
        free.push({ ...slot, used: 0 })
        changed()
      })
    },
    untilWritten: () => until(inFlight),
  }
}
