import type { Agent } from '../agent.ts'
import { currentRelease } from '../state/release-store.ts'

/**
 * Writes each unasked exit into the ledger as init reports it: init itself forgets it at the next start. Never throws:
 * the caller is init, in the middle of bringing the service back.
 */
export function watchExits({ init, ledger, layout, log, operations }: Agent): void {
  init.onExit(({ app, service, slot, exit, respawns }) => {
    const about = { app, service, slot, respawns, code: exit.code, signal: exit.signal, oom: exit.oom }
    try {
      const release = operations.of(app)?.release ?? currentRelease(layout, app)
      ledger.recordExit(app, service, release, exit)
      log.warn({ ...about, release }, 'exit')
    } catch (err) {
      log.error({ ...about, err }, 'an exit could not be recorded')
    }
  })
}
