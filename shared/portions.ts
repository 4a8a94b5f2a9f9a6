import { malformed } from './bundle.ts'

/** Can be read once. Each portion is good until the next is asked for. */
export interface Content extends AsyncIterable<Buffer> {
  /** All that is left of it, where that has arrived in one piece: then there is nothing to wait for. */
  atOnce(): Buffer | undefined
}

/** Takes bytes in the portions that are asked for, however they arrive. */
export class Portions {
  readonly #source: AsyncIterator<Buffer>
  #rest: Buffer = Buffer.alloc(0)

  constructor(source: AsyncIterator<Buffer>) {
    this.#source = source
  }

  /** One byte at least, `max` at most; none at the end. They are good until more is asked for. */
  async some(max: number): Promise<Buffer> {
    while (this.#rest.length === 0) {
      const next = await this.#source.next()
      if (next.done) return this.#rest
      this.#rest = next.value
    }
    const taken = this.#rest.subarray(0, max)
    this.#rest = this.#rest.subarray(taken.length)
    return taken
  }

  /** So many, where they have arrived in one piece. They are good until more is asked for. */
  atOnce(size: number): Buffer | undefined {
    if (this.#rest.length < size) return undefined
    const taken = this.#rest.subarray(0, size)
    this.#rest = this.#rest.subarray(size)
    return taken
  }

  /** A copy. Throws `bundle_malformed` when there are fewer. */
  async exactly(size: number): Promise<Buffer> {
    // The caller bounds it; and what has not come yet takes no memory, since nothing was written there.
    const all = Buffer.allocUnsafeSlow(size)
    for (let used = 0; used < size; ) {
      const part = await this.some(size - used)
      if (part.length === 0) throw malformed('ends in its middle: it was cut short')
      all.set(part, used)
      used += part.length
    }
    return all
  }

  /**
   * Goes on where it was left, so that what one loop leaves another can skip. What it gives is good until more is asked
   * for. `admit` throws before the first byte.
   */
  content(size: number, admit = () => {}): Content {
    let left = size
    const portions = this
    return {
      atOnce() {
        admit()
        const all = portions.atOnce(left)
        if (all !== undefined) left = 0
        return all
      },
      async *[Symbol.asyncIterator]() {
        admit()
        while (left > 0) {
          const part = await portions.some(left)
          if (part.length === 0) throw malformed('ends in its middle: it was cut short')
          left -= part.length
          yield part
        }
      },
    }
  }

  async close(): Promise<void> {
    await this.#source.return?.()
  }
}
