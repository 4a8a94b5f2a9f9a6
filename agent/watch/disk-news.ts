import type { DiskState } from '../../shared/wire.ts'
import type { Config } from '../config.ts'
import { diskOf, diskState } from '../deploy/room.ts'
import type { Log } from '../log.ts'
import type { Reserve } from '../state/reserve.ts'
import { type News, newsOfDisk } from './news.ts'

/**
 * Tells once when the disk gets low, and once more when critical. What was told last is all that is remembered, and
 * not beyond this process: an agent that starts on a full disk says so.
 */
export function watchDisk(
  config: Config,
  { tell, log, reserve }: { tell: (news: News) => void; log: Log; reserve: Reserve },
) {
  let before: DiskState = 'ok'
  return {
    /** Never throws. */
    async look(): Promise<void> {
      try {
        await reserve.keep()
        const disk = await diskOf(config)
        const now = diskState(disk)
        const news = newsOfDisk(before, now, disk)
        before = now
        if (news === undefined) return
        log.warn({ freeBytes: disk.freeBytes, freeInodes: disk.freeInodes }, `disk ${now}`)
        tell(news)
      } catch (err) {
        log.error({ err }, 'the disk could not be looked at')
      }
    },
  }
}
