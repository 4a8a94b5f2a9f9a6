import type { Signed } from '../../shared/manifest.ts'
import type { AppName, ReleaseId, Sha256 } from '../../shared/names.ts'
import type { Survey, Whole } from '../state/store-survey.ts'
import type { Operations } from './operations.ts'

/** A push follows its question at once; one that does not come must not hold 20 MB of a big manifest for long. */
const KEPT_MS = 30_000
/** What runs was whole so long ago at the most: longer than a client looks at 25,000 files, and soon over. */
const WHOLE_MS = 3_000

export interface Answered {
  /** What was asked about, and what the store has of it. */
  asked?: { signed: Signed; survey: Omit<Survey, 'whole'> } | undefined
  running?: Running | undefined
}

/** What runs. */
export interface Running {
  release: Signed
  content: Sha256
  /** Of its release.json. */
  digest: Sha256
  /** All objects that it is made of, each of them whole. Undefined when one is not, or that was seen too long ago. */
  whole: Whole | undefined
}

export type Asked = ReturnType<typeof createAsked>

/** When something was looked up, by the clock and by what can make it untrue. */
export interface Moment {
  at: number
  begun: number
  voided: number
}

/**
 * What was read and looked up for the questions before a push, so that the next one and the push need not do it again.
 * One per app, and good only while nothing was begun for the app in between, and nothing of it was found damaged.
 */
export function createAsked(operations: Operations) {
  const kept = new Map<AppName, { answered: Answered; moment: Moment; timer: NodeJS.Timeout }>()
  const voided = new Map<AppName, number>()
  const proved = new Map<AppName, ReleaseId>()
  const now = (app: AppName): Moment => ({
    at: performance.now(),
    begun: operations.begun(app),
    voided: voided.get(app) ?? 0,
  })
  const forget = (app: AppName) => {
    clearTimeout(kept.get(app)?.timer)
    kept.delete(app)
  }
  const look = (app: AppName, begunSince: number): Answered | undefined => {
    const known = kept.get(app)
    const moment = now(app)
    if (known === undefined || known.moment.voided !== moment.voided) return undefined
    if (known.moment.begun + begunSince !== moment.begun) return undefined
    const { asked, running } = known.answered
    const isFresh = moment.at - known.moment.at < WHOLE_MS
    return { asked, running: running && { ...running, whole: isFresh ? running.whole : undefined } }
  }
  return {
    /** To be taken before anything is looked up, while no operation is under way. */
    now,
    keep(app: AppName, answered: Answered, moment: Moment): void {
      forget(app)
      const timer = setTimeout(() => kept.delete(app), KEPT_MS).unref()
      kept.set(app, { answered, moment, timer })
    },
    /** Something of the app is not what it was, or is looked at anew. */
    void(app: AppName): void {
      voided.set(app, (voided.get(app) ?? 0) + 1)
      forget(app)
    },
    /** All of this release.json was checked, by the rules of this program. */
    prove: (app: AppName, id: ReleaseId) => void proved.set(app, id),
    /** What runs, if it is one of which that is known: what an agent before this one took may be refused now. */
    proved: (app: AppName, running: Running | undefined): Signed | undefined =>
      running !== undefined && proved.get(app) === running.release.id ? running.release : undefined,
    /** For the next question. */
    look: (app: AppName) => look(app, 0),
    /** For the push that has just begun. */
    take(app: AppName): Answered | undefined {
      const answered = look(app, 1)
      forget(app)
      return answered
    },
  }
}
