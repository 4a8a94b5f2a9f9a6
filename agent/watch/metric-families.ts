import type { AppName } from '../../shared/names.ts'
import type { AgentStatus, ChangeKind, DiskState, ServiceState } from '../../shared/wire.ts'
import type { ChangeTotal, ExitCause, ExitTotal } from '../state/ledger-totals.ts'

// What there is to measure, and by which name. Pure. Names and units as Prometheus wants them: seconds, bytes, `_total`
// for what only rises. https://prometheus.io/docs/practices/naming/

export interface Facts {
  status: AgentStatus
  /** Apps in which a change is under way, also those that have no release yet. */
  busy: readonly AppName[]
  exits: readonly ExitTotal[]
  changes: readonly ChangeTotal[]
}

export interface Family {
  type: 'gauge' | 'counter'
  name: string
  help: string
  samples: Sample[]
}

/** All samples of a family have the same labels. */
export interface Sample {
  labels: Readonly<Record<string, string>>
  value: number
}

// A series that is not there until its first event hides that event from `increase()`: all of them begin at 0. As keys,
// so that the compiler asks for those that come to be.
const SERVICE_STATES = keys({
  running: 0,
  starting: 0,
  'crash-looping': 0,
  failed: 0,
  stopped: 0,
  degraded: 0,
} satisfies Record<ServiceState, 0>)
const DISK_STATES = keys({ ok: 0, low: 0, critical: 0 } satisfies Record<DiskState, 0>)
const EXIT_CAUSES = keys({ exit: 0, signal: 0, oom: 0 } satisfies Record<ExitCause, 0>)
const RESULTS = keys({ done: 0, failed: 0, interrupted: 0 } satisfies Record<ChangeTotal['result'], 0>)
const CHANGE_KINDS = keys({
  push: 0,
  rollback: 0,
  'auto-rollback': 0,
  'gave-up': 0,
  restart: 0,
  stop: 0,
  start: 0,
  prune: 0,
  rebuilt: 0,
  env: 0,
} satisfies Record<ChangeKind, 0>)

export function familiesOf(facts: Facts): Family[] {
  return [...agentFamilies(facts), ...serviceFamilies(facts), ...appFamilies(facts), ...diskFamilies(facts)]
}

function agentFamilies({ status: { agent } }: Facts): Family[] {
  const { version, init } = agent
  return [
    gauge('tarmac_agent_info', 'The agent and its init system; always 1.', [{ labels: { version, init }, value: 1 }]),
  ]
}

function serviceFamilies({ status: { apps }, exits }: Facts): Family[] {
  const all = apps.flatMap(({ app, services }) =>
    services.map((service) => ({ labels: { app, service: service.name }, service })),
  )
  const none = all.flatMap(({ labels }) => EXIT_CAUSES.map((cause) => ({ ...labels, cause })))
  return [
    gauge(
      'tarmac_service_state',
      'The state of a service: 1 for the one it is in, 0 for the others.',
      all.flatMap(({ labels, service }) =>
        SERVICE_STATES.map((state) => ({ labels: { ...labels, state }, value: Number(service.state === state) })),
      ),
    ),
    gauge(
      'tarmac_service_respawns',
      'Automatic restarts of a service since it was last started by a change.',
      all.map(({ labels, service }) => ({ labels, value: service.respawns.sinceSwitch })),
    ),
    gauge(
      'tarmac_service_memory_bytes',
      'Memory of a service, as init accounts for it.',
      all.flatMap(({ labels, service: { memoryBytes } }) =>
        memoryBytes === null ? [] : { labels, value: memoryBytes },
      ),
    ),
    counter(
      'tarmac_exits_total',
      'Exits of a service that nobody asked for.',
      withZeros(
        exits.map(({ app, service, cause, count }) => ({ labels: { app, service, cause }, value: count })),
        none,
      ),
    ),
  ]
}

function appFamilies({ status: { apps }, busy, changes }: Facts): Family[] {
  const names = apps.map(({ app }) => app)
  const known = [...new Set([...names, ...busy])]
  const none = known.flatMap((app) => CHANGE_KINDS.flatMap((kind) => RESULTS.map((result) => ({ app, kind, result }))))
  const switched = apps.flatMap(({ app, lastSwitch }) =>
    lastSwitch === null ? [] : { labels: { app }, ...lastSwitch },
  )
  return [
    gauge(
      'tarmac_app_busy',
      '1 while a change of the app is under way.',
      known.map((app) => ({ labels: { app }, value: Number(busy.includes(app)) })),
    ),
    gauge(
      'tarmac_releases_kept',
      'Releases of the app on the disk.',
      apps.map(({ app, releasesKept }) => ({ labels: { app }, value: releasesKept })),
    ),
    gauge(
      'tarmac_app_disk_bytes',
      'Disk space of the app, its releases counted once.',
      apps.map(({ app, bytesOnDisk }) => ({ labels: { app }, value: bytesOnDisk })),
    ),
    gauge(
      'tarmac_last_switch_timestamp_seconds',
      'When traffic last moved to another release, or to another start of it.',
      switched.map(({ labels, at }) => ({ labels, value: Date.parse(at) / 1000 })),
    ),
    gauge(
      'tarmac_last_switch_gap_seconds',
      'The longest time in that switch in which nobody was served.',
      switched.flatMap(({ labels, gapMs }) => (gapMs === null ? [] : { labels, value: gapMs / 1000 })),
    ),
    gauge(
      'tarmac_last_switch_failed_probes',
      "Questions of the agent's own to the public port that failed in that switch.",
      switched.flatMap(({ labels, probe }) => (probe === null ? [] : { labels, value: probe.failed })),
    ),
    counter(
      'tarmac_changes_total',
      'Changes that have ended, by what was asked and what became of it.',
      withZeros(
        changes.map(({ app, kind, result, count }) => ({ labels: { app, kind, result }, value: count })),
        none,
      ),
    ),
  ]
}

function diskFamilies({ status: { disk } }: Facts): Family[] {
  const one = (value: number) => [{ labels: {}, value }]
  return [
    gauge('tarmac_disk_size_bytes', 'Size of the file system that holds the releases.', one(disk.totalBytes)),
    gauge('tarmac_disk_free_bytes', 'Bytes free there.', one(disk.freeBytes)),
    gauge('tarmac_disk_inodes', 'Inodes of that file system; 0 when it counts none.', one(disk.totalInodes)),
    gauge('tarmac_disk_free_inodes', 'Inodes free there.', one(disk.freeInodes)),
    gauge(
      'tarmac_disk_state',
      'The state of that file system: 1 for the one it is in, 0 for the others.',
      DISK_STATES.map((state) => ({ labels: { state }, value: Number(disk.state === state) })),
    ),
  ]
}

function gauge(name: string, help: string, samples: Sample[]): Family {
  return { type: 'gauge', name, help, samples }
}

function counter(name: string, help: string, samples: Sample[]): Family {
  return { type: 'counter', name, help, samples }
}

/** The counted ones, and 0 for each of `all` that is not among them. */
function withZeros(counted: Sample[], all: Readonly<Record<string, string>>[]): Sample[] {
  const key = (labels: Sample['labels']) => JSON.stringify(Object.entries(labels))
  const there = new Set(counted.map(({ labels }) => key(labels)))
  return [...counted, ...all.filter((labels) => !there.has(key(labels))).map((labels) => ({ labels, value: 0 }))]
}

function keys<K extends string>(record: Record<K, 0>): K[] {
  return Object.keys(record) as K[]
}
