import type { ReleaseId } from './names.ts'
import type { DiskState } from './wire.ts'

// What crosses the wire about the releases that are kept. Everybody takes it from wire.ts.

/** `damaged`: it was healthy, but on the disk it is not what was signed any more. */
export type ReleaseState =
  | 'received'
  | 'assembled'
  | 'started'
  | 'healthy'
  | 'failed'
  | 'rolled-back'
  | 'bad'
  | 'damaged'
  | 'pruned'

export interface ReleaseEntry {
  id: ReleaseId
  state: ReleaseState
  current: boolean
  createdAt: string
  signers: string[]
  bytes: number
  /** Of the environment it runs with, or would after a rollback. */
  envRevision: number
  /** Why it is still here. */
  keep: string
}

/** What `prune` would do, and why; answer of GET prune. */
export interface PruneAnswer {
  /** Of the file system: under pressure less is kept. */
  pressure: DiskState
  /** Newest first. `freesBytes` is what goes with it when all that are to be removed go, the oldest first. */
  releases: { id: ReleaseId; state: ReleaseState; keep: boolean; why: string; freesBytes: number }[]
  /** Contents that no release has and that have lain here long enough: they go too. */
  orphans: { objects: number; bytes: number }
  /** Names among the releases that are none of ours: never counted, never removed. */
  strays: string[]
}
