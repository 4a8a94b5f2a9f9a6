import { setTimeout as sleep } from 'node:timers/promises'
import { Failure } from '../../shared/failure.ts'
import type { AppName, ReleaseId, ServiceName } from '../../shared/names.ts'
import type { Agent } from '../agent.ts'
import { rollBackLoop } from '../deploy/deploy.ts'
import { recordGaveUp, TARMAC } from '../deploy/looping.ts'
import { previousGood } from '../deploy/retention.ts'
import { servingNow } from '../deploy/switch.ts'
import { chooseTarget } from '../deploy/target.ts'
import type { UnitFacts } from '../init/init-system.ts'
import { appsOn, releasesOn } from '../state/release-store.ts'
import {
  isNewLoop,
  type Looping,
  type LoopLimits,
  planLoop,
  type ServiceFacts,
  type StayDown,
  type Verdict,
} from './crash-loop.ts'
import { recordMissed, type Served } from './exits.ts'
import { type News, newsOfLoop } from './news.ts'

// Acts on what crash-loop.ts decides. What counts is asked anew each time, of init, the disk and the ledger.

/** A change ends by itself; the one who holds it has no way to tell us. */
const BUSY_PAUSE_MS = 200

export interface LoopWatch {
  /** Something happened to an app. Returns at once and never throws. */
  look(app: AppName): void
  /** From here on it acts, and begins with what happened while the agent was away. */
  begin(): Promise<void>
  end(): void
}

interface Judged {
  app: AppName
  release: ReleaseId
  verdict: Verdict
  units: { unit: Served; facts: UnitFacts }[]
  /** Where a person could go back to. */
  back: ReleaseId | null
}

export function watchLoops(agent: Agent, tell: (news: News) => void): LoopWatch {
  const { config, init, layout, ledger, log, operations } = agent
  /** Apps that are being looked at, and whether something happened meanwhile. */
  const looking = new Map<AppName, { again: boolean }>()
  let on = false

  function look(app: AppName): void {
    const busy = looking.get(app)
    if (busy) busy.again = true
    if (!on || busy) return
    const own = { again: false }
    looking.set(app, own)
    watchApp(app)
      .catch((err: unknown) => log.error({ app, err }, 'a crash loop could not be looked into'))
      .finally(() => {
        looking.delete(app)
        if (own.again) look(app)
      })
  }

  async function watchApp(app: AppName): Promise<void> {
    while (on) {
      const judged = await judge(agent, app, config.watch)
      if (judged === undefined || judged.verdict.act === 'nothing') return
      const { verdict } = judged
      if (verdict.act === 'stay-down' && isSettled(judged, verdict)) return
      if (operations.of(app)) await sleep(BUSY_PAUSE_MS)
      else return verdict.act === 'go-back' ? await goBackFrom(app) : await stayDown(app)
    }
  }

  /** Decided once more, now that nobody else can change the app: a change may have come and gone meanwhile. */
  async function goBackFrom(app: AppName): Promise<void> {
    const ask = { app, kind: 'auto-rollback', ...TARMAC } as const
    const { operation, end } = operations.begin(ask)
    try {
      const judged = await judge(agent, app, config.watch)
      if (judged?.verdict.act !== 'go-back') return
      const target = await chooseTarget(agent, app, undefined)
      say(judged, { ...judged.verdict, to: target.release.id })
      const way = { ...target, loop: judged.verdict.loops[0] }
      await rollBackLoop(agent, { ...ask, operation, report: () => {} }, way)
    } catch (error) {
      // All that were good are damaged on the disk, and marked so by now: judged again, there is no way back.
      if (!(error instanceof Failure) || error.code !== 'nothing_to_roll_back_to') throw error
      look(app)
    } finally {
      end()
    }
  }

  /**
   * A loop that init does not end is ended here. What init gave up is left as it is: a boot may try again. That it is
   * written down and told once is asked of the ledger, which outlives this process.
   */
  async function stayDown(app: AppName): Promise<void> {
    const { end } = operations.begin({ app, kind: 'stop', who: TARMAC.who })
    let found: { judged: Judged; verdict: StayDown; stopped: ServiceName[] } | undefined
    try {
      const judged = await judge(agent, app, config.watch)
      if (judged?.verdict.act !== 'stay-down') return
      found = { judged, verdict: judged.verdict, stopped: [] }
      for (const { unit, facts } of loopingUnits(judged, judged.verdict)) {
        if (facts.state !== 'gave-up') {
          await init.giveUp(unit)
          found.stopped.push(unit.service)
        }
        // The port stayed open for the one who would follow; nobody does.
        await init.refusePort(unit)
      }
    } finally {
      end()
    }
    const { judged, verdict, stopped } = found
    const { release, units, back } = judged
    const looping = loopingUnits(judged, verdict)
    const [first] = looping
    if (first === undefined || !isNews(judged, verdict)) return
    say(judged, verdict)
    const runsOn = units.some((one) => !looping.includes(one) && one.facts.state === 'running')
    const loop = verdict.loops[0]
    await recordGaveUp(agent, { app, release, loop, ...first, why: verdict.why, stopped, runsOn, back })
  }

  const isNews = ({ app, release }: Judged, { loops }: StayDown) => isNewLoop(loops, ledger.lastGaveUp(app, release))

  /** Nothing is left to do: it is down, and it was said. */
  function isSettled(judged: Judged, verdict: StayDown): boolean {
    return loopingUnits(judged, verdict).every(({ facts }) => facts.state === 'gave-up') && !isNews(judged, verdict)
  }

  function say({ app, release }: Judged, verdict: Looping): void {
    const news = newsOfLoop({ app, release }, verdict)
    log.error({ app, release, loops: verdict.loops }, news.text)
    tell(news)
  }

  return {
    look,
    async begin() {
      await recordMissed(agent).catch((err: unknown) => log.error({ err }, 'missed exits could not be read'))
      on = true
      for (const app of appsOn(layout)) look(app)
    },
    end() {
      on = false
    },
  }
}

/** Those of the verdict, in its order: the first is the one that it names first. */
function loopingUnits({ units }: Judged, { loops }: Looping): Judged['units'] {
  return loops.flatMap(({ service }) => units.filter(({ unit }) => unit.service === service))
}

async function servedBy(agent: Agent, app: AppName): Promise<Served[]> {
  const { release, units } = await servingNow(agent, app)
  return release === null ? [] : units.map(({ service, slot }) => ({ app, service, slot, release }))
}

async function judge(agent: Agent, app: AppName, limits: LoopLimits): Promise<Judged | undefined> {
  const { init, layout, ledger } = agent
  const serving = await servedBy(agent, app)
  const release = serving[0]?.release
  if (release === undefined) return undefined
  const units = await Promise.all(serving.map(async (unit) => ({ unit, facts: await init.facts(unit) })))
  const changed = ledger.lastChangeOf(app, release)
  // A unit that gave up keeps its state through a stop; but who said stop wants nothing started.
  if (changed?.kind === 'stop') return undefined
  const since = changed?.endedAt ?? ''
  const services = units.map(({ unit: { service }, facts: { state, respawns, lastExit } }): ServiceFacts => {
    const last = lastExit?.at ?? ledger.lastExit(app, service, release)?.at
    const lastExitAt = last === undefined ? undefined : Date.parse(last)
    return { service, state, respawns, exits: ledger.exitTimes(app, service, { release, since }), lastExitAt }
  })
  const onDisk = new Set(releasesOn(layout, app))
  const releases = ledger.releases(app).filter(({ id }) => onDisk.has(id))
  const facts = { current: release, services, switches: ledger.switches(app), releases, now: Date.now() }
  return {
    app,
    release,
    verdict: planLoop(facts, limits),
    units,
    back: previousGood(releases, release),
  }
}
