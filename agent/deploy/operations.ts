import { Failure } from '../../shared/failure.ts'
import type { AppName, ReleaseId } from '../../shared/names.ts'
import type { ChangeKind } from '../../shared/wire.ts'

export interface Operation {
  app: AppName
  /** `recovery`: what an agent before this one left half done is brought to an end. */
  kind: ChangeKind | 'recovery' | 'hold'
  who: string
  since: string
  phase: string
  release: ReleaseId | null
}

/**
 * One change at a time per app, owned by the agent's own operation and ended with it: there is no lock file, and so
 * nothing to unlock. A second change is told who is busy, since when and with what.
 */
export function createOperations() {
  const open = new Map<AppName, Operation>()
  const counts = new Map<AppName, number>()
  return {
    /** Throws `busy`. Call the returned function when the operation ends, however it ends. */
    begin(operation: Omit<Operation, 'since' | 'phase' | 'release'>): { operation: Operation; end: () => void } {
      const busy = open.get(operation.app)
      if (busy) throw busyFailure(busy)
      const begun: Operation = { ...operation, since: new Date().toISOString(), phase: 'receiving', release: null }
      open.set(operation.app, begun)
      counts.set(operation.app, (counts.get(operation.app) ?? 0) + 1)
      return { operation: begun, end: () => void (open.get(operation.app) === begun && open.delete(operation.app)) }
    },
    of: (app: AppName): Operation | undefined => open.get(app),
    /** How many have begun for this app: whether there was one in between. */
    begun: (app: AppName): number => counts.get(app) ?? 0,
    all: (): Operation[] => [...open.values()],
  }
}

export type Operations = ReturnType<typeof createOperations>

export function busyFailure({ app, kind, who, since, phase }: Operation): Failure {
  const what = kind === 'env' ? 'an env change' : `${kind === 'auto-rollback' ? 'an' : 'a'} ${kind}`
  return new Failure('busy', `change ${app}: ${who} has been busy with ${what} since ${since} (${phase})`, {
    hint: 'it ends by itself; follow it with: tarmac deploys',
  })
}
