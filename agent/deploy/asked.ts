import type { Signed } from '../../shared/manifest.ts'
import type { AppName } from '../../shared/names.ts'
import type { Survey } from '../state/store-survey.ts'
import type { Operations } from './operations.ts'

/** A push follows its question at once; one that does not come must not hold 20 MB of a big manifest for long. */
const KEPT_MS = 30_000

export interface Answered {
  signed: Signed
  survey: Survey
}

export type Asked = ReturnType<typeof createAsked>

/**
 * What was read and looked up for the question what an app lacks, so that the push right behind it need not do it again.
 * One per app, and good only while nothing was begun for the app in between.
 */
export function createAsked(operations: Operations) {
  const kept = new Map<AppName, { answered: Answered; begun: number; timer: NodeJS.Timeout }>()
  const forget = (app: AppName) => {
    clearTimeout(kept.get(app)?.timer)
    kept.delete(app)
  }
  return {
    keep(app: AppName, answered: Answered): void {
      forget(app)
      const timer = setTimeout(() => kept.delete(app), KEPT_MS).unref()
      kept.set(app, { answered, begun: operations.begun(app), timer })
    },
    /** For the push that has just begun. */
    take(app: AppName): Answered | undefined {
      const known = kept.get(app)
      forget(app)
      return known !== undefined && known.begun + 1 === operations.begun(app) ? known.answered : undefined
    },
  }
}
