import type { ServicePort, UnitKey, UnitSpec } from '../init/init-system.ts'

// Which units of a release can start beside those that serve. Pure.

export type Handed = UnitSpec & { handover: NonNullable<UnitSpec['handover']> }

export interface SwitchPlan {
  /** Started and gated while the old ones go on. */
  beside: UnitSpec[]
  /** Started when what stands in their way has stopped. */
  alone: UnitSpec[]
  /** Old units that must be stopped before the `alone` ones start. */
  inTheWay: UnitKey[]
}

/**
 * Beside the old one can start what is handed a port that is open, or that nobody has yet, and what has no port and says
 * that two of it do no harm. A worker that says nothing starts after the old one has stopped: two that take the same
 * jobs are the worse surprise.
 */
export function planSwitch(
  units: readonly UnitSpec[],
  old: readonly UnitKey[],
  open: readonly ServicePort[],
): SwitchPlan {
  const beside = units.filter((unit) => {
    const { service, handover, spec } = unit
    if (handover === undefined) return spec.port === undefined && spec.overlap === true
    const isFirst = !old.some((other) => other.service === service)
    return isFirst || open.some((port) => port.service === service && port.port === handover.port)
  })
  return {
    beside,
    alone: units.filter((unit) => !beside.includes(unit)),
    inTheWay: old.filter(({ service }) => !beside.some((unit) => unit.service === service)),
  }
}

export function isHanded(unit: UnitSpec): unit is Handed {
  return unit.handover !== undefined
}
