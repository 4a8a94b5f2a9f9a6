import type { ServiceSpec } from '../../shared/manifest.ts'
import type { AppName, ReleaseId, ServiceName, Slot } from '../../shared/names.ts'
import type { ExitFact, LogLine } from '../../shared/wire.ts'
import type { Finding } from '../../shared/wire-doctor.ts'

/** Which place of which service: names one unit on every init system. */
export interface UnitKey {
  app: AppName
  service: ServiceName
  slot: Slot
}

/** A service, whichever slot it runs in. */
export type ServiceKey = Omit<UnitKey, 'slot'>

export interface ServicePort extends ServiceKey {
  port: number
}

/** Unix sockets on which one slot answers its probe and takes orders; nobody but the agent can reach them. */
export interface PrivateSockets {
  probe: string
  control: string
}

/** The unprivileged user an app runs as; undefined ids mean "as the caller" (embedded without root). */
export interface Account {
  user: string
  uid: number | undefined
  gid: number | undefined
}

/** All an init system needs to know to run one service of one release in one slot. */
export interface UnitSpec extends UnitKey {
  release: ReleaseId
  service: ServiceName
  spec: ServiceSpec
  account: Account
  /** The release's `tree`: the working directory. */
  treeDir: string
  /** The directory that holds every app; hidden from the service but for its own release. */
  appsDir: string
  /** The whole environment, written by the init system into a 0600 file at `envFile`. */
  env: Record<string, string>
  envFile: string
  /** Which revision of the app's own variables is in `env`; kept with the unit, and told by `installed`. */
  envRevision: number
  /** Directories the service may write. */
  writableDirs: string[]
  /**
   * The service is given its listening socket instead of opening its port, so that two slots can hand traffic over.
   * `preload`: an unmodified Node app, by our preload, with private sockets. `inherited`: it speaks LISTEN_FDS itself.
   */
  handover?: Handover | undefined
}

export interface Handover {
  port: number
  style: 'preload' | 'inherited'
  /** It is given a socket on this port of the loopback in the place, and by the name, of the public one. */
  rehearsalPort?: number
}

/** What init says of a unit right now. */
export interface UnitFacts {
  /** `absent`: init knows no such unit. `gave-up`: the respawn limit was reached. `failed`: failed in another way. */
  state: 'absent' | 'stopped' | 'starting' | 'running' | 'respawning' | 'stopping' | 'gave-up' | 'failed'
  pid: number | undefined
  /** ISO 8601 UTC; when the present process started, undefined when none runs. */
  since: string | undefined
  /**
   * Automatic restarts since the unit was last started by hand: systemd's NRestarts to the letter. It counts a restart
   * before the limit refuses it: five starts and no more are 5 at give-up.
   */
  respawns: number
  /** The last exit init still remembers. */
  lastExit: ExitFact | undefined
  memoryBytes: number | undefined
}

/** What is said of a unit that is not there. */
export const NO_UNIT: UnitFacts = Object.freeze({
  state: 'absent',
  pid: undefined,
  since: undefined,
  respawns: 0,
  lastExit: undefined,
  memoryBytes: undefined,
})

/** A unit there is, and the release it was written for. */
export interface InstalledUnit extends UnitKey {
  release: ReleaseId | undefined
  envRevision: number
}

/** A process of a unit ended without being asked to. */
export interface UnitExit extends UnitKey {
  exit: ExitFact
  respawns: number
  /** Init's own name for this run of the process, the same when it is asked later; null where init keeps no record. */
  run: string | null
}

/** An exit that init has written down, whoever was there to hear of it. */
export interface PastExit extends Omit<UnitExit, 'respawns'> {
  /** Undefined when the slot has been given another one since. */
  release: ReleaseId | undefined
}

/** `place` is for the next time: where the record ends now. */
export interface PastExits {
  exits: PastExit[]
  place: string
}

export interface LogQuery {
  app: AppName
  service?: ServiceName
  release?: ReleaseId
  /** The newest n lines. */
  lines: number
  /** ISO 8601 UTC. */
  since?: string
  /** Goes on until the signal aborts. */
  follow?: boolean
}

/**
 * One interface for systemd, Upstart and the embedded one; one contract suite runs against all.
 * Every method throws a Failure that names the unit. `start` forgets earlier failures first, so that a fix
 * pushed after a crash loop starts at once.
 */
export interface InitSystem {
  readonly name: 'systemd' | 'upstart' | 'embedded'
  /** Makes the app's user if there is none yet. */
  ensureAccount(app: AppName): Promise<Account>
  /** Writes the unit and its env file, whole, replacing what was there; the unit is not started or enabled. */
  install(unit: UnitSpec): Promise<void>
  /** Returns when the process was started; says nothing about its health. */
  start(unit: UnitKey): Promise<void>
  /** Returns when no process of it is left. Stopping what does not run is fine. */
  stop(unit: UnitKey): Promise<void>
  /** Whether a boot starts it. */
  enable(unit: UnitKey): Promise<void>
  disable(unit: UnitKey): Promise<void>
  isEnabled(unit: UnitKey): Promise<boolean>
  /** After enabling and disabling: what init shows an admin agrees with what a boot would do. */
  refresh(): Promise<void>
  /** Stops, disables and forgets the unit; its files are gone afterwards. */
  remove(unit: UnitKey): Promise<void>
  /** Opens a service's port, to stay open through every switch: with nothing accepting, connections wait. Idempotent. */
  openPort(port: ServicePort): Promise<void>
  closePort(service: ServiceKey): Promise<void>
  /** Nobody is behind the port for now: callers are refused instead of waiting, until it is opened or the host boots. */
  refusePort(service: ServiceKey): Promise<void>
  openPorts(app: AppName): Promise<ServicePort[]>
  privateSockets(unit: UnitKey): PrivateSockets
  /** From its next start on, after a crash too, the unit takes no public connection, until `unhold` and `activate`. */
  hold(unit: UnitKey): Promise<void>
  unhold(unit: UnitKey): Promise<void>
  /**
   * Ends a crash loop before init's own limit does, or one that it would never end: the unit is stopped, and `facts` say
   * `gave-up` until the next start.
   */
  giveUp(unit: UnitKey): Promise<void>
  facts(unit: UnitKey): Promise<UnitFacts>
  /** Units of ours that exist on this host, by the files there are. */
  installed(app: AppName): Promise<InstalledUnit[]>
  /** Calls back for each exit until `close`; at once, not by polling. */
  onExit(listener: (exit: UnitExit) => void): void
  /** Calls back when a unit may have been given up, at once; `facts` say whether it was. */
  onGaveUp(listener: (unit: UnitKey) => void): void
  /**
   * Exits of the units there are since a place that was given earlier, oldest first; with none only the place of now.
   * Null where services end with the agent, so that there is nothing to hear of later.
   */
  exitsSince(place: string | null): Promise<PastExits | null>
  /** Oldest first. */
  logs(query: LogQuery, signal: AbortSignal): AsyncIterable<LogLine>
  /** How much of the disk the apps' output may take in all, and whether that is well. */
  logLimit(): Promise<Finding>
  /** A release was pruned: logs that init keeps itself go with it. journald has caps of its own. */
  forgetRelease(app: AppName, release: ReleaseId): Promise<void>
  close(): Promise<void>
}
