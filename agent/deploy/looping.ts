import type { AppName, ReleaseId, ServiceName } from '../../shared/names.ts'
import type { Receipt } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import type { UnitFacts, UnitKey } from '../init/init-system.ts'
import { readRelease } from '../state/release-store.ts'
import type { Change } from './change.ts'
import { receiptOf } from './failure-receipt.ts'
import { NotHealthy } from './gate.ts'
import { servingNow } from './switch.ts'

/** In the record, where a person's name and the fingerprint of a key would stand. */
export const TARMAC = { who: 'tarmac', key: '-' }

/** A service that does not stay up. */
export interface Loop {
  service: ServiceName
  /** What it did, as the rest of a sentence that begins with its name. */
  why: string
  /** Its last exit, ms since 1970. */
  at: number | undefined
  /** When it became a loop. */
  since: number | undefined
}

/** A loop out of which there is no way, as it was found before anything was stopped. */
export interface GaveUp {
  app: AppName
  release: ReleaseId
  loop: Loop
  unit: UnitKey
  facts: UnitFacts
  /** Why it is not gone back from. */
  why: string
  /** What the agent stopped, since init would have gone on. */
  stopped: readonly ServiceName[]
  /** Whether other services of the release go on. */
  runsOn: boolean
  /** Where a person could go back to. */
  back: ReleaseId | null
}

/**
 * Why the agent goes back by itself, and what becomes of it when that ends well. Init's own facts of the looping
 * release are asked at once, since a stop ends them. Never throws, as nobody waits for it while the switch goes on:
 * the record is worth having, but not worth the way back.
 */
export async function loopReceipt(agent: Agent, loop: Loop, change: Change): Promise<Receipt | null> {
  const { app, from, to } = change
  try {
    const unit = (await servingNow(agent, app)).units.find((unit) => unit.service === loop.service)
    if (from === null || unit === undefined) return null
    const receipt = await evidenceOf(agent, { app, release: from, loop, unit, facts: await agent.init.facts(unit) })
    const undone = [`${from} was stopped`, `${to} was started and is healthy`]
    return { ...receipt, phase: 'probation', running: to, undone }
  } catch (err) {
    agent.log.warn({ app, change: change.id, err }, 'why it loops could not be found out')
    return null
  }
}

/** Writes the verdict down, where those who look for what happened will look. */
export async function recordGaveUp(agent: Agent, gaveUp: GaveUp): Promise<void> {
  const { app, release, stopped, back } = gaveUp
  const { ledger } = agent
  const began = new Date().toISOString()
  const evidence = await evidenceOf(agent, gaveUp)
  const receipt = {
    ...evidence,
    phase: 'serving',
    reason: `${evidence.reason}; not rolled back: ${gaveUp.why}`,
    running: gaveUp.runsOn ? release : null,
    undone: stopped.map((service) => `${service} was stopped`),
    next: [
      ...evidence.next,
      ...(back === null ? [] : [`or go back to ${back}: tarmac rollback`]),
      'or let it try again as it is: tarmac start',
    ],
  }
  const id = ledger.openDeploy({ app, kind: 'gave-up', ...TARMAC, from: release, to: null, at: began })
  ledger.closeDeploy(id, {
    to: null,
    result: 'failed',
    code: 'unhealthy',
    seconds: null,
    gapMs: null,
    probe: null,
    steps: [],
    receipt,
    at: new Date().toISOString(),
  })
}

async function evidenceOf(
  agent: Agent,
  { app, release, loop, unit, facts }: Pick<GaveUp, 'app' | 'release' | 'loop' | 'unit' | 'facts'>,
): Promise<Receipt> {
  // While it runs again init knows of no exit.
  const lastExit = facts.lastExit ?? agent.ledger.lastExit(app, loop.service, release) ?? undefined
  const cause = new NotHealthy(unit, { ...facts, lastExit }, loop.why)
  const about = { release: readRelease(agent.layout, app, release), units: [], cause }
  return receiptOf(agent, about, { app, kind: 'gave-up', phase: 'healthy' })
}
