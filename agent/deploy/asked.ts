import type { Signed } from '../../shared/manifest.ts'
import type { AppName } from '../../shared/names.ts'
import type { Release } from '../state/release-store.ts'
import type { Survey } from '../state/store-survey.ts'
import type { Operations } from './operations.ts'

/** A push follows its question at once; one that does not come must not hold 20 MB of a big manifest for long. */
const KEPT_MS = 30_000
/** What runs was whole so long ago at the most: the push comes as soon as the client has looked at its files, or asks again. */
const WHOLE_MS = 3_000

export interface Answered {
  /** What was asked about, and what the store has of it. */
  asked?: { signed: Signed; survey: Survey }
  /** What runs, and the paths of all objects it is made of, each of them whole. */
  running?: { release: Release; whole: ReadonlySet<string> } | undefined
}

export type Asked = ReturnType<typeof createAsked>

/**
 * What was read and looked up for the questions before a push, so that the next one and the push need not do it again.
 * One per app, and good only while nothing was begun for the app in between.
 */
export function createAsked(operations: Operations) {
  const kept = new Map<AppName, { answered: Answered; begun: number; timer: NodeJS.Timeout }>()
  const forget = (app: AppName) => {
    clearTimeout(kept.get(app)?.timer)
    kept.delete(app)
  }
  return {
    forget,
    /** `begun`: of the app's operations, when none was under way and the looking up began. */
    keep(app: AppName, answered: Answered, begun: number): void {
      forget(app)
      const timer = setTimeout(() => kept.delete(app), answered.asked ? KEPT_MS : WHOLE_MS).unref()
      kept.set(app, { answered, begun, timer })
    },
    /** For the next question. */
    look(app: AppName): Answered | undefined {
      const known = kept.get(app)
      return known?.begun === operations.begun(app) ? known.answered : undefined
    },
    /** For the push that has just begun. */
    take(app: AppName): Answered | undefined {
      const known = kept.get(app)
      forget(app)
      return known !== undefined && known.begun + 1 === operations.begun(app) ? known.answered : undefined
    },
  }
}
