import { setTimeout as sleep } from 'node:timers/promises'
import { editFive } from './cases.ts'
import type { Choice } from './compare.ts'
import { growthPlot } from './growth-plot.ts'
import { become, SETTLED_MS } from './measure.ts'
import { memoryOf, type Ran } from './programs.ts'
import { writePlot, writeResult } from './results.ts'
import { makeSite, type Site } from './site.ts'
import { median, shownMs } from './table.ts'
import { type Tarmac, tarmac, workerToml } from './tarmac.ts'

// How what a command takes grows with files, apps and releases. Tarmac alone, on this machine, without a link.

const FILES = [1_000, 10_000, 100_000] as const
const APPS = [1, 10, 100]
const RELEASES = [1, 10, 50]
const ROUNDS = 3

/** A median for each size. */
export interface Series {
  what: string
  /** `bytes`: the agent's resident memory. */
  unit: 'ms' | 'bytes'
  points: { size: number; value: number }[]
}

export interface Growth {
  of: 'files' | 'apps' | 'releases'
  series: Series[]
}

type Measures = Record<string, number[]>

export async function growth({ out, programs }: Pick<Choice, 'out' | 'programs'>): Promise<void> {
  const all: Growth[] = []
  for (const [of, sizes, measured] of [
    ['files', FILES, ofFiles],
    ['apps', APPS, ofApps],
    ['releases', RELEASES, ofReleases],
  ] as const) {
    const series = new Map<string, Series>()
    const site = await makeSite('local')
    const host = tarmac(site, { programs })
    try {
      for (const size of sizes) {
        const measures = await measured(site, host, size)
        for (const [what, values] of Object.entries(measures)) {
          const one = series.get(what) ?? { what, unit: what === 'agent memory' ? 'bytes' : 'ms', points: [] }
          series.set(what, one)
          one.points.push({ size, value: median(values) })
          const shown = one.unit === 'ms' ? shownMs(median(values)) : `${Math.round(median(values) / 1e6)} MB`
          console.log(`${size} ${of}: ${what}: ${shown}`)
        }
      }
    } finally {
      await host.end()
      await site.end()
    }
    all.push({ of, series: [...series.values()] })
  }
  console.log(`all of it: ${await writeResult('growth', { rounds: ROUNDS, growth: all }, out)}`)
  if (out === undefined) console.log(`plot: ${writePlot('growth', growthPlot(all))}`)
}

async function ofFiles(site: Site, host: Tarmac, size: number): Promise<Measures> {
  await become(site, `files-${size}`)
  await host.reset()
  await sleep(SETTLED_MS)
  const { ms } = await host.push()
  return { 'first push': [ms], ...(await usual(site, host)) }
}

async function ofApps(site: Site, host: Tarmac, size: number): Promise<Measures> {
  await become(site, 'tiny')
  await host.reset()
  for (let app = 0; app < size; app++) {
    host.become(`bench-app-${app}`, workerToml())
    await host.push()
  }
  return usual(site, host)
}

async function ofReleases(site: Site, host: Tarmac, size: number): Promise<Measures> {
  await become(site, 'small')
  await host.reset()
  // The quota leaves room for those that the measuring makes.
  host.become('bench-releases', `${workerToml()}[keep]\nreleases = ${size + 2 * ROUNDS + 1}\n`)
  for (let release = 0; release < size; release++) {
    editFive(site.source, release)
    await host.push()
  }
  return { ...(await usual(site, host)), releases: await timed(() => host.client('releases')) }
}

/** What people type all day. */
async function usual(site: Site, host: Tarmac): Promise<Measures> {
  let round = 0
  const push = await timed(() => {
    editFive(site.source, 1_000 + round++)
    return host.push()
  })
  return {
    '5 files changed': push,
    'nothing changed': await timed(() => host.push()),
    rollback: await timed(() => host.rollback()),
    status: await timed(() => host.client('status')),
    'agent memory': [memoryOf(host.agentPid())?.residentBytes ?? 0],
  }
}

async function timed(act: () => Promise<Ran>): Promise<number[]> {
  const times: number[] = []
  for (let round = 0; round < ROUNDS; round++) times.push((await act()).ms)
  return times
}
