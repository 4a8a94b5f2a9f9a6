import type { UnitExit, UnitKey } from './init-system.ts'
import type { Properties } from './systemd-bus.ts'
import { exitOf, number } from './systemd-facts.ts'

/** SubStates on the way down: an exit seen then was asked for, by us or by a person with systemctl. */
const STOPPING = /^(stop|final)/

export type Exits = ReturnType<typeof createExits>

/**
 * Turns systemd's changes of properties into exits, each once: some 15 changes come with one crash, and what tells two
 * exits apart is their time. `keyOf` says whose a unit is; undefined for units that are none of ours.
 */
export function createExits(keyOf: (unit: string) => UnitKey | undefined) {
  const listeners: ((exit: UnitExit) => void)[] = []
  const ofFailed: ((unit: UnitKey) => void)[] = []
  const lastExits = new Map<string, number>()
  const subStates = new Map<string, string>()
  /** Exits whose run is not known yet. */
  const pending = new Map<string, Properties>()

  const isNew = (unit: string, properties: Properties) => {
    const at = number(properties, 'ExecMainExitTimestampMonotonic')
    if (at === 0 || lastExits.get(unit) === at) return false
    lastExits.set(unit, at)
    return true
  }
  const report = (unit: string, properties: Properties) => {
    const key = keyOf(unit)
    const exit = exitOf(properties)
    if (key === undefined || exit === undefined) return
    const { app, service, slot } = key
    const run = runOf(properties)
    const told = { app, service, slot, exit, respawns: number(properties, 'NRestarts'), run }
    for (const listener of listeners) listener(told)
  }
  const noteSubState = (unit: string, now: string) => {
    const before = subStates.get(unit)
    subStates.set(unit, now)
    const key = now === 'failed' && before !== 'failed' ? keyOf(unit) : undefined
    if (key === undefined) return
    const { app, service, slot } = key
    for (const listener of ofFailed) listener({ app, service, slot })
  }
  return {
    listen: (listener: (exit: UnitExit) => void) => void listeners.push(listener),
    /** Each crash passes through "failed", also when a restart follows; a refused restart ends there. */
    listenToFailed: (listener: (unit: UnitKey) => void) => void ofFailed.push(listener),
    /**
     * systemd sends the Service properties before the Unit ones: the SubState known at the first is the one before the
     * exit, and the second, which come at once, say which run it was.
     */
    changed: (unit: string, changed: Properties) => {
      if (isNew(unit, changed) && !STOPPING.test(subStates.get(unit) ?? '')) pending.set(unit, changed)
      if (typeof changed.SubState !== 'string') return
      const exited = pending.get(unit)
      pending.delete(unit)
      if (exited !== undefined) report(unit, { ...changed, ...exited })
      noteSubState(unit, changed.SubState)
    },
    /** We are about to stop it: a busy systemd may tell of the stop and of the exit in one signal. */
    expectStop: (unit: string) => void subStates.set(unit, 'stop'),
    /** How things stand when nothing was heard before: that exit is history. */
    seed: (unit: string, properties: Properties) => {
      isNew(unit, properties)
      subStates.set(unit, String(properties.SubState))
    },
    /** How things stand after signals were missed: an exit not told of yet is told now, unless it was a stop. */
    catchUp: (unit: string, properties: Properties) => {
      if (isNew(unit, properties) && properties.ActiveState !== 'inactive') report(unit, properties)
      noteSubState(unit, String(properties.SubState))
    },
    forget: (unit: string) => {
      lastExits.delete(unit)
      subStates.delete(unit)
      pending.delete(unit)
    },
  }
}

/** The invocation ID as the journal writes it. */
function runOf({ InvocationID: id }: Properties): string | null {
  const isThere = (Buffer.isBuffer(id) || Array.isArray(id)) && id.length > 0
  return isThere ? Buffer.from(id).toString('hex') : null
}
