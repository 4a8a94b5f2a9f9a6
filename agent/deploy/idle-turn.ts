import { setImmediate as breathe } from 'node:timers/promises'
import type { AppName } from '../../shared/names.ts'
import type { Operations } from './operations.ts'

/** A change has begun, and at its end everything will be looked at anew. */
export class Interrupted extends Error {}

/** To be awaited now and then by what is done while nobody waits. Throws `Interrupted` when a change is under way. */
export function idleTurn(operations: Operations, app: AppName): () => Promise<void> {
  return async () => {
    await breathe()
    if (operations.of(app) !== undefined) throw new Interrupted()
  }
}
