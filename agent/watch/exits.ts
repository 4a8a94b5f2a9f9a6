import type { Agent } from '../agent.ts'
import { currentRelease } from '../state/release-store.ts'

/** Writes each unasked exit into the ledger as init reports it: init itself forgets it at the next start. */
export function watchExits({ init, ledger, layout, log, operations }: Agent): void {
  init.onExit(({ app, service, slot, exit, respawns }) => {
    const release = operations.of(app)?.release ?? currentRelease(layout, app)
    ledger.recordExit(app, service, release, exit)
    log.warn({ app, service, slot, release, respawns, code: exit.code, signal: exit.signal, oom: exit.oom }, 'exit')
  })
}
