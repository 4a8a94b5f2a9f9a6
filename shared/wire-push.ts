import type { ReleaseId, Sha256 } from './names.ts'

// What crosses the wire before an upload. Everybody takes it from wire.ts.

/**
 * A push that brings less than both is sent at once, with no question what the host lacks: what it has of the reference
 * it has. More is worth the question, since a no (a full disk) comes before it then.
 */
export const DIRECT = { bytes: 1024 * 1024, objects: 1_000 } as const

/**
 * What a content takes of a disk beside its bytes: whole blocks, an inode, a name in the store and one in the tree at
 * least, and a part of their directories.
 */
export const ROOM_PER_OBJECT = 16 * 1024

/**
 * Answer of `known`: `{"reference"?, "again"?}` goes up, a digest and whether the same push has asked just before, this
 * comes back.
 */
export interface KnownAnswer {
  /** The release that runs as it was wanted, and is whole; to push the same content there is nothing to sign or to send. */
  running: { release: ReleaseId; content: Sha256 } | null
  /** Whether a bundle may be written on that reference: see difference.ts. */
  reference: boolean
  /** Nothing of the app is stored: a push has to bring all of it, and there is nothing to ask. */
  empty: boolean
  /** Of objects a push of less than DIRECT on that reference has room for, for certain; where `empty`, what is free, less where inodes are what there is least of. */
  roomBytes: number
}

/** Answer of `missing`: a bundle without objects goes up, this comes back. */
export interface MissingAnswer {
  release: ReleaseId
  /** Digests of objects the agent lacks; an executable and a plain file of the same content are one object. */
  missing: Sha256[]
  /** How many of them were here and were found damaged; an agent that does not look says nothing. */
  damaged?: number
  /** What some of the missing ones may be made of, when the client asked for it. */
  bases?: BasisAnswer[]
  /** Set when a release of the same content already runs: there is nothing to push. */
  alreadyRunning: ReleaseId | null
}

/** An object that the agent has in the place where these missing ones are to be. */
export interface BasisAnswer {
  basis: Sha256
  objects: Sha256[]
  /** Base64 of 20 bytes a chunk: see recipe.ts. */
  chunks: string
}
