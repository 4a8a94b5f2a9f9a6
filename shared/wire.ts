import type { Code, Refusal } from './failure.ts'
import type { AppName, ReleaseId, ServiceName, Slot } from './names.ts'

export { type BasisAnswer, DIRECT, type KnownAnswer, type MissingAnswer, ROOM_PER_OBJECT } from './wire-push.ts'
export type { PruneAnswer, ReleaseEntry, ReleaseState } from './wire-releases.ts'

// All that crosses between client and agent. Both sides import it; it imports neither.

export const DEFAULT_PORT = 7433
export const RELEASE_NAMESPACE = 'tarmac-release'
export const VERSION_HEADER = 'tarmac-version'
/** On a bundle: sha256 of the release.json it is written on, see difference.ts. */
export const REFERENCE_HEADER = 'tarmac-reference'

export const paths = {
  status: '/v1/status',
  known: (app: AppName) => `/v1/apps/${app}/known`,
  missing: (app: AppName) => `/v1/apps/${app}/missing`,
  releases: (app: AppName) => `/v1/apps/${app}/releases`,
  rollback: (app: AppName) => `/v1/apps/${app}/rollback`,
  prune: (app: AppName) => `/v1/apps/${app}/prune`,
  hold: (app: AppName) => `/v1/apps/${app}/hold`,
  restart: (app: AppName) => `/v1/apps/${app}/restart`,
  stop: (app: AppName) => `/v1/apps/${app}/stop`,
  start: (app: AppName) => `/v1/apps/${app}/start`,
  ledger: '/v1/ledger',
  doctor: '/v1/doctor',
  deploys: (app: AppName) => `/v1/apps/${app}/deploys`,
  logs: (app: AppName) => `/v1/apps/${app}/logs`,
  env: (app: AppName) => `/v1/apps/${app}/env`,
}

/** The steps of a change, in the order they can come. */
export type StepName =
  | 'received'
  | 'stored'
  | 'assembled'
  | 'prepared'
  | 'rehearsed'
  | 'revised'
  | 'stopped'
  | 'started'
  | 'healthy'
  | 'switched'
  | 'draining'
  | 'probed'
  | 'unhealthy'
  | 'going-back'
  | 'gone-back'
  | 'pruned'
  | 'warning'
  | 'waiting'

/** One line of NDJSON. `at` is ISO 8601 UTC, `ms` since the change began, `deploy` its number in the ledger. */
export interface StepLine {
  step: StepName
  at: string
  ms: number
  deploy?: number
  release?: ReleaseId
  service?: ServiceName
  slot?: Slot
  /** Of the app's environment. */
  revision?: number
  message?: string
  /** What removing it gave back. */
  freedBytes?: number
}

export interface DoneLine {
  step: 'done'
  at: string
  ms: number
  deploy: number
  app: AppName
  release: ReleaseId | null
  previous: ReleaseId | null
  /** The push changed nothing: a release of the same content runs already. */
  alreadyRunning?: true
  /** The environment is what was asked for already: there was no change, and `deploy` is 0. */
  unchanged?: true
}

export interface FailedLine {
  step: 'failed'
  at: string
  ms: number
  deploy: number
  code: Code
  message: string
  hint?: string
  receipt: Receipt
}

export type Line = StepLine | DoneLine | FailedLine

/** Everything about one failed change that someone at 2 a.m. needs: shown as one screen and as JSON. */
export interface Receipt {
  app: AppName
  release: ReleaseId | null
  service: ServiceName | null
  phase: string
  reason: string
  exit: ExitFact | null
  respawns: number | null
  /** The last lines the failed release wrote, oldest first, at most 40. */
  output: string[]
  running: ReleaseId | null
  undone: string[]
  next: string[]
}

export interface ExitFact {
  code: number | null
  signal: string | null
  oom: boolean
  at: string
}

export type ServiceState = 'running' | 'starting' | 'crash-looping' | 'failed' | 'stopped' | 'degraded'
export type DiskState = 'ok' | 'low' | 'critical'

export interface ServiceStatus {
  name: ServiceName
  state: ServiceState
  release: ReleaseId | null
  slot: Slot | null
  pid: number | null
  since: string | null
  respawns: { sinceSwitch: number; lastHour: number; limit: { attempts: number; withinSeconds: number } }
  lastExit: ExitFact | null
  memoryBytes: number | null
  port: number | null
}

export interface AppStatus {
  app: AppName
  wanted: ReleaseId | null
  running: ReleaseId | null
  previousGood: ReleaseId | null
  bytesOnDisk: number
  releasesKept: number
  /** Releases that are not what was signed any more, by what was found when somebody looked. */
  damaged: ReleaseId[]
  /** Of the environment that `running` has. */
  envRevision: number
  /** Null before the first. */
  lastSwitch: LastSwitch | null
  services: ServiceStatus[]
}

export interface DiskStatus {
  path: string
  totalBytes: number
  freeBytes: number
  totalInodes: number
  freeInodes: number
  state: DiskState
  /** What there is least of, when the state is not ok. */
  scarce: 'bytes' | 'inodes' | null
  /** Whole days until pushes are refused, as the lowest points of the last 30 days go; null when nothing gets less. */
  daysUntilFull: number | null
  /** Pushes of the usual size until then; null when they let go as much as they add, or nobody knows what is usual. */
  pushesUntilFull: number | null
}

/** What is to be said of a host beside its figures. `bad`: it is not well. `warn`: somebody should know of it. */
export interface Note {
  state: 'warn' | 'bad'
  text: string
  hint: string
}

/** One agent's answer to GET /v1/status: the host object of `status --json` less name, url and reachable. */
export interface AgentStatus {
  agent: { version: string; init: string; startedAt: string }
  disk: DiskStatus
  memory: { totalBytes: number; availableBytes: number }
  load: [number, number, number]
  apps: AppStatus[]
  /** Not there when there is nothing to say. */
  notes?: Note[]
}

/**
 * `auto-rollback`: the agent's own way out of a crash loop. `rebuilt`: what the ledger did not know was taken from the
 * disk when the agent started. The receipt of both says why, also when they are done. `gave-up`: a loop out of which
 * there was no way, so that it was ended and left; it always failed.
 */
export type ChangeKind =
  | 'push'
  | 'rollback'
  | 'auto-rollback'
  | 'gave-up'
  | 'restart'
  | 'stop'
  | 'start'
  | 'prune'
  | 'env'
  | 'rebuilt'

export interface DeployEntry {
  id: number
  kind: ChangeKind
  who: string
  key: string
  from: ReleaseId | null
  to: ReleaseId | null
  result: 'running' | 'done' | 'failed' | 'interrupted'
  /** A failure's code, or null. */
  code: Code | null
  startedAt: string
  seconds: number | null
  gapMs: number | null
  /** What the agent's own questions to the public port saw meanwhile; null when nothing served that could be asked. */
  probe: SwitchProbe | null
  steps: StepLine[]
  receipt: Receipt | null
}

/** What callers noticed of the last change that moved traffic. */
export type LastSwitch = { at: string } & Pick<DeployEntry, 'gapMs' | 'probe'>

/** Questions through the public port, with keep-alive and by new connections, while a change went on. */
export interface SwitchProbe {
  sent: number
  failed: number
  /** From the first that failed to the next that was answered. */
  longestGapMs: number
}

/** One line of an app's own output. */
export interface LogLine {
  at: string
  service: ServiceName
  release: ReleaseId | null
  message: string
}

export type LogAnswer = LogLine | { refusal: Refusal }
