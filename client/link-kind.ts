import type { LinkKind } from '../shared/difference.ts'
import type { Connection } from './connection.ts'

/**
 * A host in the same building or on this machine answers sooner, and is mostly reached faster than zstd works. One or two
 * milliseconds are our own, and up to six on a busy machine.
 */
const NEAR_MS = 8
/** What is farther is seldom reached as fast as zstd works. */
const FAR_MS = 12

/** How far away a host is, by which it is chosen how much zstd does; undefined where that is not clear. */
export function linkKindOf({ roundTripMs }: Connection): LinkKind | undefined {
  if (roundTripMs < NEAR_MS) return 'near'
  return roundTripMs > FAR_MS ? 'far' : undefined
}
