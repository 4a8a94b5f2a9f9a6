// Work on tens of thousands of entries that stops now and then, so that who has others to answer can do that in between.

/** Some 5 ms on a slow machine. */
export const ENTRIES_PER_TURN = 2_000

/** Yields now and then while all of them are gone through. */
export function* inTurns<T>(items: readonly T[], visit: (item: T, index: number) => void): Generator<undefined, void> {
  for (let from = 0; from < items.length; from += ENTRIES_PER_TURN) {
    if (from > 0) yield
    const some = items.slice(from, from + ENTRIES_PER_TURN)
    some.forEach((item, index) => void visit(item, from + index))
  }
}

/** All of it at once. */
export function drained<T>(work: Generator<unknown, T>): T {
  for (;;) {
    const step = work.next()
    if (step.done) return step.value
  }
}

/** `turn` is awaited wherever the work stops; what it throws ends the work. */
export async function pacedBy<T>(turn: () => Promise<unknown>, work: Generator<undefined, T>): Promise<T> {
  for (;;) {
    const step = work.next()
    if (step.done) return step.value
    await turn()
  }
}

/** Work that waits for a disk takes ten times as long when the disk is busy, so it is the clock that counts there. */
const TURN_MS = 5

/** To be awaited after each small piece of work: takes a `turn` when the last one was a while ago. */
export function whenDue(turn: () => Promise<unknown>): () => Promise<void> | undefined {
  let last = performance.now()
  return () => {
    if (performance.now() - last < TURN_MS) return undefined
    return turn().then(() => {
      last = performance.now()
    })
  }
}
