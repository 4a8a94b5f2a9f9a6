import { setTimeout as sleep } from 'node:timers/promises'
import type { AppName, ReleaseId } from '../../shared/names.ts'
import type { Agent } from '../agent.ts'
import { rollBackLoop } from '../deploy/deploy.ts'
import { servingNow } from '../deploy/switch.ts'
import type { UnitFacts } from '../init/init-system.ts'
import { appsOn, readRelease, releasesOn } from '../state/release-store.ts'
import { type Looping, type LoopLimits, planLoop, type ServiceFacts, type Verdict } from './crash-loop.ts'
import { recordMissed, type Served } from './exits.ts'
import { type News, newsOfLoop } from './news.ts'

// Acts on what crash-loop.ts decides. What counts is asked anew each time, of init, the disk and the ledger.

/** In the record, where a person's name and the fingerprint of a key would stand. */
const TARMAC = { who: 'tarmac', key: '-' }
/** Init says nothing when it refuses a respawn: after an exit it is asked until it has made up its mind. */
const FIRST_PAUSE_MS = 50
/** A third of the delay before a respawn at the most, so that it is noticed soon, and cheaply when that is an hour. */
const PAUSE_GROWTH = 1.4
const MAX_PAUSE_MS = 1_000
/** States that another follows by itself. */
const MOVING: ReadonlySet<UnitFacts['state']> = new Set(['starting', 'respawning', 'stopping'])
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
  units: { unit: Served; state: UnitFacts['state'] }[]
}

export function watchLoops(agent: Agent, tell: (news: News) => void): LoopWatch {
  const { config, init, layout, ledger, log, operations } = agent
  /** Apps that are being looked at, and whether something happened meanwhile. */
  const looking = new Map<AppName, { again: boolean }>()
  /** The exits that were told: one loop is told once, however often it is looked at. */
  const told = new Map<string, string | undefined>()
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
    let pauseMs = FIRST_PAUSE_MS
    while (on) {
      const judged = await judge(agent, app, config.watch)
      if (judged === undefined) return
      const { verdict, units } = judged
      if (verdict.act !== 'nothing' && operations.of(app)) await sleep(BUSY_PAUSE_MS)
      else if (verdict.act !== 'nothing') {
        say(judged, verdict)
        return verdict.act === 'go-back' ? await goBackFrom(app) : await stopLoops(app)
      } else if (units.some(({ state }) => MOVING.has(state))) {
        await sleep(pauseMs)
        pauseMs = Math.min(pauseMs * PAUSE_GROWTH, MAX_PAUSE_MS)
      } else return
    }
  }

  /** Decided once more, now that nobody else can change the app: a change may have come and gone meanwhile. */
  async function goBackFrom(app: AppName): Promise<void> {
    const ask = { app, kind: 'auto-rollback', ...TARMAC } as const
    const { operation, end } = operations.begin(ask)
    try {
      const { verdict } = (await judge(agent, app, config.watch)) ?? {}
      if (verdict?.act !== 'go-back') return
      const way = { release: readRelease(layout, app, verdict.to), loop: verdict.loops[0] }
      await rollBackLoop(agent, { ...ask, operation, report: () => {} }, way)
    } finally {
      end()
    }
  }

  /** A loop that init does not end is ended here. What init gave up is left as it is: a boot may try again. */
  async function stopLoops(app: AppName): Promise<void> {
    const { end } = operations.begin({ app, kind: 'stop', who: TARMAC.who })
    try {
      const { verdict, units = [] } = (await judge(agent, app, config.watch)) ?? {}
      if (verdict?.act !== 'stay-down') return
      for (const { unit, state } of units) {
        if (state !== 'gave-up' && verdict.loops.some(({ service }) => service === unit.service)) {
          await init.giveUp(unit)
        }
      }
    } finally {
      end()
    }
  }

  function say({ app, release, units }: Judged, verdict: Looping): void {
    const looping = units.filter(({ unit }) => verdict.loops.some(({ service }) => service === unit.service))
    const isNews = looping.some(({ unit }) => !told.has(nameOf(unit)) || told.get(nameOf(unit)) !== lastExitOf(unit))
    if (!isNews) return
    for (const { unit } of looping) told.set(nameOf(unit), lastExitOf(unit))
    const news = newsOfLoop({ app, release }, verdict)
    log.error({ app, release, loops: verdict.loops }, news.text)
    tell(news)
  }

  const lastExitOf = ({ app, service, release }: Served) => ledger.lastExit(app, service, release)?.at

  /** A loop whose end an agent before this one has seen was told by it. */
  async function catchUp(app: AppName): Promise<void> {
    for (const unit of await servedBy(agent, app)) {
      const { state, lastExit } = await init.facts(unit)
      if (state === 'gave-up' && !recordMissed(agent, unit, lastExit)) told.set(nameOf(unit), lastExitOf(unit))
    }
  }

  return {
    look,
    async begin() {
      const apps = appsOn(layout)
      for (const app of apps) {
        await catchUp(app).catch((err: unknown) => log.error({ app, err }, 'missed exits could not be read'))
      }
      on = true
      for (const app of apps) look(app)
    },
    end() {
      on = false
    },
  }
}

function nameOf({ app, service, release }: Served): string {
  return `${app} ${service} ${release}`
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
  const now = Date.now()
  const windowBegan = new Date(now - limits.withinMs).toISOString()
  const changed = ledger.lastChangeOf(app, release)
  // A unit that gave up keeps its state through a stop; but who said stop wants nothing started.
  if (changed?.kind === 'stop') return undefined
  const since = changed !== null && changed.endedAt > windowBegan ? changed.endedAt : windowBegan
  const services = units.map(({ unit: { service }, facts: { state, respawns, lastExit } }): ServiceFacts => {
    const last = lastExit?.at ?? ledger.lastExit(app, service, release)?.at
    const lastExitAt = last === undefined ? undefined : Date.parse(last)
    return { service, state, respawns, exits: ledger.exitsOf(app, service, { release, since }), lastExitAt }
  })
  const onDisk = new Set(releasesOn(layout, app))
  const releases = ledger.releases(app).filter(({ id }) => onDisk.has(id))
  const facts = { current: release, services, switches: ledger.switches(app), releases, now }
  return {
    app,
    release,
    verdict: planLoop(facts, limits),
    units: units.map(({ unit, facts: { state } }) => ({ unit, state })),
  }
}
