import type { Registry } from '@prometheus-io/client'
import type { Agent } from '../agent.ts'
import { type Facts, type Family, familiesOf } from './metric-families.ts'
import { agentStatus } from './status.ts'

// Metrics are a question like `status`: the disk, init and the ledger are asked at each scrape, and nothing of them is
// kept. Only what is about the agent's own process (CPU, memory, the delay of its event loop) is watched in between.

/** The library's own intervals take 0.5 % of a core; with these, which its lag values then include, it is 0.09 %. */
const LOOP_SAMPLE_MS = 100
const UTILIZATION_SAMPLE_MS = 1_000

export interface Scrape {
  text: string
  /** For the content-type of the answer. */
  type: string
}

export interface Metrics {
  /** One at a time: those who ask while one is under way are given the same. */
  scrape(): Promise<Scrape>
}

export function createMetrics(agent: Agent): Metrics {
  let ofProcess: Registry | undefined
  let underWay: Promise<Scrape> | undefined

  async function gather(): Promise<Scrape> {
    // Loaded by the first to ask: an agent that nobody scrapes pays for none of it.
    const library = await import('@prometheus-io/client')
    if (ofProcess === undefined) {
      ofProcess = new library.Registry()
      library.collectDefaultMetrics({
        register: ofProcess,
        eventLoopMonitoringPrecision: LOOP_SAMPLE_MS,
        eventLoopUtilizationTimeout: UTILIZATION_SAMPLE_MS,
      })
      // Before the first sample it says 292 years, and after it never anything but the interval.
      ofProcess.removeSingleMetric('nodejs_eventloop_lag_min_seconds')
    }
    const ofFacts = registryOf(library, familiesOf(await factsOf(agent)))
    const registry = library.Registry.merge([ofFacts, ofProcess])
    return { text: await registry.metrics(), type: registry.contentType }
  }
  return {
    scrape() {
      underWay ??= gather().finally(() => {
        underWay = undefined
      })
      return underWay
    },
  }
}

async function factsOf(agent: Agent): Promise<Facts> {
  const { ledger, operations } = agent
  const status = await agentStatus(agent, undefined)
  return {
    status,
    busy: operations.all().map(({ app }) => app),
    exits: ledger.exitTotals(),
    changes: ledger.changeTotals(),
  }
}

/** A registry of its own for each scrape: what is no longer there leaves no series behind. Label values are escaped. */
export function registryOf(
  { Registry, Gauge, Counter }: typeof import('@prometheus-io/client'),
  families: Family[],
): Registry {
  const registry = new Registry()
  // The library would show a family without samples as one of value 0.
  for (const { type, name, help, samples } of families.filter(({ samples }) => samples.length > 0)) {
    const labelNames = Object.keys(samples[0]?.labels ?? {})
    const about = { name, help, labelNames, registers: [registry] }
    if (type === 'gauge') {
      const metric = new Gauge(about)
      for (const { labels, value } of samples) metric.set(labels, value)
    } else {
      const metric = new Counter(about)
      for (const { labels, value } of samples) metric.inc(labels, value)
    }
  }
  return registry
}
