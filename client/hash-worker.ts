import { parentPort, workerData } from 'node:worker_threads'
import type { Sha256 } from '../shared/names.ts'
import { drained } from '../shared/turns.ts'
import { digestOf } from './file-digest.ts'
import { claim, type HashWork } from './hash-work.ts'
import { PORTION_BYTES } from './source.ts'

// Runs as a thread beside the one that started it. Both take the next file that nobody has taken.

const { files, claimed } = workerData as HashWork
const scratch = Buffer.allocUnsafeSlow(PORTION_BYTES)
const digests: [index: number, digest: Sha256][] = []
for (let index = claim(claimed); index < files.length; index = claim(claimed)) {
  const file = files[index]
  try {
    if (file) digests.push([index, drained(digestOf(file.place, file.size, scratch))])
  } catch {
    // It is tried once more where somebody can be told why.
  }
}
parentPort?.postMessage(digests)
