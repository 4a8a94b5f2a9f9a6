import { constants } from 'node:zlib'
import { MAX_WINDOW_LOG, WINDOW_LOG, ZSTD_LEVEL, ZSTD_LEVEL_FAR, ZSTD_LEVEL_NEAR } from './bundle.ts'

// A reference is the exact text of a release.json that both ends have. As zstd's dictionary it makes the manifest of a bundle
// a difference: two of 4.5 MB that differ in five files take 700 bytes instead of 1.1 MB. It names no one and proves
// nothing: what comes out of the frame is checked like any other bundle.

/** zstd's own for level 3; it makes its window no smaller for a short text. */
const USUAL_WINDOW_LOG = 21
const HASH_LOG = 17
/** 16 MiB of table. zstd uses the last 16 MiB of a longer reference, whatever the table. */
const MAX_HASH_LOG = 22
/**
 * Of the table for short matches, which zstd would make as large: a reference fills it for nothing. With 16 a manifest of
 * 4.5 MB takes 12 ms, with 18 or 20 four times that.
 */
const CHAIN_LOG = 16

/** A table of 32 KiB stays in the nearest cache of a core: a sixth less time for 3 % more bytes. */
const HASH_LOG_NEAR = 13

/** The smallest power of two that holds it. */
function reachOf(reference: Uint8Array): number {
  return Math.ceil(Math.log2(Math.max(reference.length, 2)))
}

/** `near`: zstd is what it waits for, so less of that. `far`: the link is, so fewer bytes. Neither is known of a file. */
export type LinkKind = 'near' | 'far'

const WITHOUT_REFERENCE = {
  near: { [constants.ZSTD_c_compressionLevel]: ZSTD_LEVEL_NEAR, [constants.ZSTD_c_hashLog]: HASH_LOG_NEAR },
  file: { [constants.ZSTD_c_compressionLevel]: ZSTD_LEVEL, [constants.ZSTD_c_windowLog]: WINDOW_LOG },
  far: { [constants.ZSTD_c_compressionLevel]: ZSTD_LEVEL_FAR, [constants.ZSTD_c_windowLog]: MAX_WINDOW_LOG },
}

/**
 * What a zstd compressor needs to write a bundle on a reference, or without one. On a reference objects get nearly as
 * small as at level 3; without one, as suits the link.
 */
export function compression(reference: Uint8Array | undefined, link?: LinkKind) {
  if (reference === undefined) return { params: WITHOUT_REFERENCE[link ?? 'file'] }
  const level = { [constants.ZSTD_c_compressionLevel]: ZSTD_LEVEL }
  const reach = reachOf(reference)
  return {
    dictionary: reference,
    params: {
      ...level,
      // A dictionary is out of reach once more than a window has come after it: the whole manifest must fit.
      [constants.ZSTD_c_windowLog]: Math.max(USUAL_WINDOW_LOG, reach),
      // An entry for eight bytes of the reference: the tables of level 3 forget nearly all of it.
      [constants.ZSTD_c_hashLog]: Math.min(MAX_HASH_LOG, Math.max(HASH_LOG, reach - 3)),
      [constants.ZSTD_c_chainLog]: CHAIN_LOG,
    },
  }
}

/** The same for reading. The memory is bounded by what is held already: the reference. */
export function decompression(reference: Uint8Array | undefined) {
  if (reference === undefined) return { params: { [constants.ZSTD_d_windowLogMax]: MAX_WINDOW_LOG } }
  return {
    dictionary: reference,
    params: { [constants.ZSTD_d_windowLogMax]: Math.max(MAX_WINDOW_LOG, reachOf(reference)) },
  }
}
