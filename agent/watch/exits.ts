import type { AppName, ReleaseId } from '../../shared/names.ts'
import type { Agent } from '../agent.ts'
import type { UnitExit, UnitKey } from '../init/init-system.ts'
import { readHead } from '../state/release-store.ts'

export type Served = UnitKey & { release: ReleaseId }

/**
 * Writes each unasked exit into the ledger as init reports it: init itself forgets it at the next start. Then, and when
 * init has given up, `look` is called. Never throws: the caller is init, in the middle of bringing the service back.
 */
export function watchExits(agent: Agent, look: (app: AppName) => void): void {
  agent.init.onExit((unit) => {
    record(agent, unit)
      .catch((err: unknown) => agent.log.error({ ...unit, err }, 'an exit could not be recorded'))
      .finally(() => look(unit.app))
  })
  agent.init.onGaveUp(({ app }) => look(app))
}

/** Writes down what ended while no agent was there to see it, so that a loop of that time is one, too. */
export async function recordMissed({ init, ledger }: Pick<Agent, 'init' | 'ledger'>): Promise<void> {
  const past = await init.exitsSince(ledger.exitsReadTo())
  if (past === null) return
  const exits = past.exits.map(({ app, service, release, exit, run }) => ({
    ...{ app, service, exit, run },
    release: release ?? null,
  }))
  ledger.recordMissed(exits, past.place)
}

/** Init says which release a slot holds: while a change is under way, both are there and either may end. */
async function record(agent: Agent, { app, service, slot, exit, respawns, run }: UnitExit): Promise<void> {
  const { init, ledger, log } = agent
  const units = await init.installed(app)
  const release = units.find((unit) => unit.service === service && unit.slot === slot)?.release ?? null
  ledger.recordExit({ app, service, release, exit, run })
  log.warn({ app, service, slot, release, respawns, code: exit.code, signal: exit.signal, oom: exit.oom }, 'exit')
  if (release !== null) await endLoop(agent, { app, service, slot, respawns }, release)
}

/**
 * When a slot reaches its start limit systemd fails the socket that both slots share, and the other slot's release
 * could never be followed by another. So the agent stops it at its last allowed exit, before systemd would; the limit
 * in the unit file stays, for the time when the agent is away.
 */
async function endLoop(
  { init, ledger, layout, log }: Agent,
  { respawns, ...unit }: UnitKey & Pick<UnitExit, 'respawns'>,
  release: ReleaseId,
): Promise<void> {
  const ports = await init.openPorts(unit.app)
  if (!ports.some(({ service }) => service === unit.service)) return
  const { restart } = readHead(layout, unit.app, release).services[unit.service] ?? {}
  if (restart === undefined) return
  // The other slot may hold the same release, which did not live with a new environment: what serves is not to end for
  // the exits of that one.
  if (respawns + 1 < restart.attempts) return
  const since = new Date(Date.now() - restart.withinMs).toISOString()
  if (ledger.exitsOf(unit.app, unit.service, { release, since }) < restart.attempts) return
  log.warn({ ...unit, release, attempts: restart.attempts }, 'crash loop: given up')
  await init.giveUp(unit)
}
