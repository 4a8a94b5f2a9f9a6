import { Worker, type WorkerOptions } from 'node:worker_threads'
import type { Sha256 } from '../shared/names.ts'

/** Put in by build.ts, so that the program runs alone; from source it does not exist. */
declare const __TARMAC_HASH_WORKER__: string | undefined

/** What is shared with a thread that helps. */
export interface HashWork {
  files: { place: string; size: number }[]
  /** How many of them somebody has begun with. */
  claimed: Int32Array
}

/** A thread has little to remember here, and lives for less than a second as a rule. */
const MAX_YOUNG_MB = 4

/** The index of the next file that nobody has begun with; beyond the last when there is none. */
export function claim(claimed: Int32Array): number {
  return Atomics.add(claimed, 0, 1)
}

export interface Helper {
  /** By index; what it could not read is not among them. Never rejects. */
  digests: Promise<ReadonlyMap<number, Sha256>>
  end(): void
}

/** Starts the thread of hash-worker.ts. Without it everything is done all the same: undefined where none can be had. */
export function startHelper(work: HashWork): Helper | undefined {
  let worker: Worker
  try {
    worker = workerOf({ workerData: work, resourceLimits: { maxYoungGenerationSizeMb: MAX_YOUNG_MB } })
  } catch {
    return undefined
  }
  const digests = new Promise<ReadonlyMap<number, Sha256>>((resolve) => {
    worker.once('message', (pairs: [number, Sha256][]) => resolve(new Map(pairs)))
    const none = () => resolve(new Map())
    worker.once('error', none)
    worker.once('exit', none)
  })
  return { digests, end: () => void worker.terminate() }
}

function workerOf(options: WorkerOptions): Worker {
  return typeof __TARMAC_HASH_WORKER__ === 'string'
    ? new Worker(__TARMAC_HASH_WORKER__, { ...options, eval: true })
    : new Worker(new URL('./hash-worker.ts', import.meta.url), options)
}
