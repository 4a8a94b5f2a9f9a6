import type { Agent } from '../agent.ts'
import type { UnitExit } from '../init/init-system.ts'

/**
 * Writes each unasked exit into the ledger as init reports it: init itself forgets it at the next start. Never throws:
 * the caller is init, in the middle of bringing the service back.
 */
export function watchExits(agent: Agent): void {
  agent.init.onExit((unit) => {
    record(agent, unit).catch((err: unknown) => agent.log.error({ ...unit, err }, 'an exit could not be recorded'))
  })
}

/** Init says which release a slot holds: while a change is under way, both are there and either may end. */
async function record({ init, ledger, log }: Agent, { app, service, slot, exit, respawns }: UnitExit): Promise<void> {
  const units = await init.installed(app)
  const release = units.find((unit) => unit.service === service && unit.slot === slot)?.release ?? null
  ledger.recordExit(app, service, release, exit)
  log.warn({ app, service, slot, release, respawns, code: exit.code, signal: exit.signal, oom: exit.oom }, 'exit')
}
