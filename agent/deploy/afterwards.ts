import type { AppName } from '../../shared/names.ts'
import type { Agent } from '../agent.ts'
import { lookThrough, removeIfOrphan } from '../state/object-sweep.ts'
import { Interrupted, idleTurn } from './idle-turn.ts'
import { renewSpare } from './spare.ts'

// What is done for an app while nobody waits: the tree for the next push, and after a push a look through the store.

/** After a change: the app that was just started, and whoever comes next, go first. */
const DELAY_MS = 500
/** Some ms. */
const ORPHANS_PER_TURN = 200

export interface Afterwards {
  /** To be told of each change that ended, and now and then. Returns at once and never throws. */
  due(app: AppName, after?: { push: boolean }): void
  end(): void
}

type Parts = Pick<Agent, 'config' | 'layout' | 'ledger' | 'log' | 'operations' | 'asked'>

export function doAfterwards(agent: Parts): Afterwards {
  const timers = new Map<AppName, NodeJS.Timeout>()
  const underWay = new Set<AppName>()
  const pushed = new Set<AppName>()

  function arm(app: AppName): void {
    clearTimeout(timers.get(app))
    timers.set(app, setTimeout(() => void run(app), DELAY_MS).unref())
  }

  async function run(app: AppName): Promise<void> {
    timers.delete(app)
    if (underWay.has(app)) return arm(app)
    underWay.add(app)
    await attempt(app, () => renewSpare(agent, app))
    if (pushed.delete(app) && !(await attempt(app, () => tidyStore(agent, app)))) pushed.add(app)
    underWay.delete(app)
  }

  /** Whether it came to its end. */
  async function attempt(app: AppName, work: () => Promise<void>): Promise<boolean> {
    try {
      await work()
      return true
    } catch (err) {
      if (!(err instanceof Interrupted)) agent.log.warn({ app, err }, 'what is done after a change could not be done')
      return false
    }
  }

  return {
    due(app, { push } = { push: false }) {
      if (push) pushed.add(app)
      arm(app)
    },
    end() {
      for (const timer of timers.values()) clearTimeout(timer)
      timers.clear()
    },
  }
}

/** Removes what a cut upload left for too long, and counts what is there. Throws when a change begins meanwhile. */
async function tidyStore({ layout, ledger, operations, asked }: Parts, app: AppName): Promise<void> {
  const turn = idleTurn(operations, app)
  const looked = await lookThrough(layout, app, turn)
  let { bytes } = looked
  for (const [index, { path, size }] of looked.unlinked.entries()) {
    if (index % ORPHANS_PER_TURN === 0) await turn()
    // Not awaiting anything between the two: an upload that begins, or is asked about, may count on it.
    if (!removeIfOrphan(path)) continue
    asked.void(app)
    bytes -= size
  }
  await turn()
  ledger.setBytesOnDisk(app, bytes)
}
