import type { ServiceName } from '../../shared/names.ts'
import type { Receipt } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import { readRelease } from '../state/release-store.ts'
import type { Change } from './change.ts'
import { NotHealthy } from './gate.ts'
import { receiptOf } from './go-back.ts'
import { servingNow } from './switch.ts'

/** A service that does not stay up. */
export interface Loop {
  service: ServiceName
  /** What it did, as the rest of a sentence that begins with its name. */
  why: string
  /** Its last exit, ms since 1970. */
  at: number | undefined
}

/**
 * Why the agent goes back by itself, and what becomes of it when that ends well. Init's own facts of the looping
 * release are asked at once, since a stop ends them. Never throws, as nobody waits for it while the switch goes on:
 * the record is worth having, but not worth the way back.
 */
export async function loopReceipt(agent: Agent, loop: Loop, change: Change): Promise<Receipt | null> {
  try {
    return await evidenceOf(agent, loop, change)
  } catch (err) {
    agent.log.warn({ app: change.app, change: change.id, err }, 'why it loops could not be found out')
    return null
  }
}

async function evidenceOf(agent: Agent, { service, why }: Loop, change: Change): Promise<Receipt | null> {
  const { app, from, to } = change
  const unit = (await servingNow(agent, app)).units.find((unit) => unit.service === service)
  if (from === null || unit === undefined) return null
  const facts = await agent.init.facts(unit)
  // While it runs again init knows of no exit.
  const lastExit = facts.lastExit ?? agent.ledger.lastExit(app, service, from) ?? undefined
  const cause = new NotHealthy(unit, { ...facts, lastExit }, why)
  const receipt = await receiptOf(agent, { release: readRelease(agent.layout, app, from), units: [], cause }, change)
  return {
    ...receipt,
    phase: 'probation',
    running: to,
    undone: [`${from} was stopped`, `${to} was started and is healthy`],
  }
}
