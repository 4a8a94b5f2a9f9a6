import type { AppName } from '../../shared/names.ts'
import type { Agent } from '../agent.ts'
import { lookThrough, ORPHAN_GRACE_MS, removeOrphans } from '../state/object-sweep.ts'
import { Interrupted, idleTurn } from './idle-turn.ts'
import { renewSpare } from './spare.ts'

// What is done for an app while nobody waits: the tree for the next push, and after a push a look through the store.

/** After a change: the app that was just started, and whoever comes next, go first. */
const DELAY_MS = 500

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

  async function run(app: AppName): Promise<void> {
    timers.delete(app)
    if (underWay.has(app)) return
    underWay.add(app)
    try {
      await renewSpare(agent, app)
      if (pushed.has(app)) await tidyStore(agent, app)
      pushed.delete(app)
    } catch (err) {
      if (!(err instanceof Interrupted)) agent.log.warn({ app, err }, 'what is done after a change could not be done')
    } finally {
      underWay.delete(app)
    }
  }

  return {
    due(app, { push } = { push: false }) {
      if (push) pushed.add(app)
      clearTimeout(timers.get(app))
      timers.set(app, setTimeout(() => void run(app), DELAY_MS).unref())
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
  await turn()
  // Who was told that one of them is here is not to count on it.
  if (looked.unlinked.length > 0) asked.void(app)
  const orphans = await removeOrphans(looked, { graceMs: ORPHAN_GRACE_MS })
  ledger.setBytesOnDisk(app, looked.bytes - orphans.bytes)
}
