import type { AppName } from '../../shared/names.ts'
import type { DiskState } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import { prune } from '../deploy/prune.ts'
import { planPrune } from '../deploy/prune-plan.ts'
import { diskOf, diskState } from '../deploy/room.ts'
import { appsOn } from '../state/release-store.ts'
import { type News, newsOfDisk } from './news.ts'

/** In the record, where a person's name and the fingerprint of a key would stand. */
const TARMAC = { who: 'tarmac', key: '-' }

export interface DiskWatch {
  /** From here on it acts. */
  begin(): Promise<void>
  /** A round: what a forecast is made of, and a look. Never rejects. */
  sample(): Promise<void>
  /** Tells and prunes when the disk has got worse. Never rejects. */
  look(): Promise<void>
  end(): void
}

/**
 * Tells once when the disk gets low, and once more when critical; and then prunes every app, since less is kept from
 * there on. What was told last is all that is remembered, and not beyond this process: an agent that starts on a full
 * disk says so, but removes nothing. It may have been started with another reserve, and that may be a slip.
 */
export function watchDisk(agent: Agent, tell: (news: News) => void): DiskWatch {
  const { config, ledger, log, reserve } = agent
  let before: DiskState | undefined
  /** Apps that may have something to let go. One that is busy stays here until it is not. */
  const due = new Set<AppName>()
  let isRelieving = false
  let on = false

  async function look(): Promise<void> {
    if (!on) return
    try {
      await reserve.keep()
      const disk = await diskOf(config)
      const now = diskState(disk)
      const news = newsOfDisk(before ?? 'ok', now, disk)
      const isWorse = before !== undefined && news !== undefined
      before = now
      if (news !== undefined) {
        log.warn({ freeBytes: disk.freeBytes, freeInodes: disk.freeInodes }, `disk ${now}`)
        tell(news)
      }
      if (isWorse) for (const app of appsOn(agent.layout)) due.add(app)
      await relieve()
    } catch (err) {
      log.error({ err }, 'the disk could not be looked at')
    }
  }

  /** Each prune is a change, and each change ends with a look. */
  async function relieve(): Promise<void> {
    if (isRelieving) return
    isRelieving = true
    for (const app of due) {
      if (!on || agent.operations.of(app) !== undefined) continue
      due.delete(app)
      await relieveApp(agent, app).catch((err: unknown) => log.error({ app, err }, 'it could not be pruned'))
    }
    isRelieving = false
  }

  async function sample(): Promise<void> {
    try {
      const { totalBytes, freeBytes, totalInodes, freeInodes } = await diskOf(config)
      ledger.recordSample({ at: new Date().toISOString(), totalBytes, freeBytes, totalInodes, freeInodes })
    } catch (err) {
      log.error({ err }, 'the disk could not be looked at')
    }
    await look()
  }

  return {
    async begin() {
      on = true
      await sample()
    },
    sample,
    look,
    end() {
      on = false
    },
  }
}

async function relieveApp(agent: Agent, app: AppName): Promise<void> {
  const { doomed } = await planPrune(agent, app)
  if (doomed.length === 0) return
  const ask = { app, kind: 'prune', ...TARMAC } as const
  const { operation, end } = agent.operations.begin(ask)
  try {
    await prune(agent, { ...ask, operation, report: () => {} })
  } finally {
    end()
  }
}
