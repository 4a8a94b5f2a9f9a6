import { Header } from 'tar/header'
import { Failure } from './failure.ts'
import { isSha256, type Sha256 } from './names.ts'

// The bundle: a tar in one zstd frame. `release.json`, then `signatures/0.sig` and on, then `objects/<sha256>` in any
// order, or on the wire, for one that is much like one the agent has, `recipes/<sha256>` (see recipe.ts); regular files, each name once, two zero blocks, and nothing after them. What a tar could say besides (paths,
// links, modes, owners, times) has one value here, so that nothing in it needs to be trusted or cleaned.
// bundle-write.ts writes it, bundle-read.ts reads it.

/** The unit of a tar: headers are one block, contents are filled up to whole ones (POSIX.1-1988 ustar). */
export const BLOCK_BYTES = 512
export const ZEROS = Buffer.alloc(BLOCK_BYTES)
/** The end of a tar: two blocks of zeros. */
export const END_BYTES = 2 * BLOCK_BYTES
/** An armored SSHSIG of ecdsa-sk is about 700 bytes; a certificate may add some thousands. */
export const MAX_SIGNATURE_BYTES = 16 * 1024
/** Enough for any rule of N persons. */
export const MAX_SIGNATURES = 16
/**
 * 8 MiB: what RFC 8878 asks every decoder to support. Installed packages have much in common over such a distance: with it
 * they get a tenth smaller at level 3, in no more time.
 */
export const WINDOW_LOG = 23
/** 16 MiB, all that a stranger may make us hold: 4 % fewer bytes over a slow link. Twice as much gives 1 % more. */
export const MAX_WINDOW_LOG = 24
/** A third of the time of level 6 for nine tenths of its effect on installed packages. */
export const ZSTD_LEVEL = 3
/** A third more bytes than at level 3 in two thirds of its time, on a link that is faster than zstd. */
export const ZSTD_LEVEL_NEAR = 1
/**
 * Over a slow link: 526 MB of installed packages become 79 MB instead of 97, at 65 MB a second on a slow core, which is
 * faster than such a link as long as that takes less than some 80 Mbit/s. Level 9 takes a third longer for 77 MB.
 */
export const ZSTD_LEVEL_FAR = 7
/** Big enough that a call into zstd's thread costs little, small enough to have several in flight. */
export const CHUNK_BYTES = 1024 * 1024
/** zstd works on one in its thread while this one fills the next: with one only, they wait for each other in turn. */
export const CHUNKS_IN_FLIGHT = 4

export const MANIFEST_NAME = 'release.json'

/** What a name in a bundle means. */
export type EntryName =
  | { kind: 'manifest' }
  | { kind: 'signature'; index: number }
  | { kind: 'object' | 'recipe'; sha256: Sha256 }

/** One object on its way into a bundle. */
export interface BundleObject {
  sha256: Sha256
  /** In bytes; packing fails when `open` gives more or fewer. */
  size: number
  /** Where it comes from, for messages. */
  path?: string
  /** What `open` gives is a recipe for it, and `size` that one's. Not in a bundle that is to stand alone. */
  recipe?: true
  /** Gives the content. A buffer may be used again when the next one is asked for. */
  open(): AsyncIterable<Uint8Array> | Iterable<Uint8Array>
  /** The same from this byte on, where the source can go to a place. */
  openAt?(from: number): Iterable<Uint8Array>
}

export function signatureName(index: number): string {
  return `signatures/${index}.sig`
}

export function objectName(digest: Sha256): string {
  return `objects/${digest}`
}

export function recipeName(digest: Sha256): string {
  return `recipes/${digest}`
}

/** Throws `bundle_malformed` for every name that is not one of the four. */
export function parseEntryName(name: string): EntryName {
  if (name === MANIFEST_NAME) return { kind: 'manifest' }
  const index = /^signatures\/(0|[1-9]\d?)\.sig$/.exec(name)?.[1]
  if (index !== undefined) return { kind: 'signature', index: Number(index) }
  const digest = name.slice('objects/'.length)
  if (name.startsWith('objects/') && isSha256(digest)) return { kind: 'object', sha256: digest }
  if (name.startsWith('recipes/') && isSha256(digest)) return { kind: 'recipe', sha256: digest }
  throw malformed(`entry ${JSON.stringify(name)}: no such name in a bundle`)
}

/** Where POSIX.1-1988 ustar has what differs between our headers. */
export const NAME_FIELD = { at: 0, bytes: 100 } as const
export const SIZE_FIELD = { at: 124, bytes: 12 } as const
const CHECKSUM_FIELD = { at: 148, bytes: 8 } as const

/** The header of an empty file without a name: all ours are that but for the three fields. */
const PLAIN_HEADER = plainHeader()
const PLAIN_SUM = sumOf(PLAIN_HEADER) + CHECKSUM_FIELD.bytes * 0x20

/** The one header an entry of this name (ASCII, at most 100 bytes) and size can have. Made for each of 25,000 files. */
export function entryHeader(name: string, size: number): Buffer {
  const block = Buffer.from(PLAIN_HEADER)
  block.write(name, NAME_FIELD.at, 'latin1')
  block.write(octal(size, SIZE_FIELD.bytes), SIZE_FIELD.at, 'latin1')
  const sum = PLAIN_SUM + sumOf(block.subarray(0, name.length)) + sumOf(field(block, SIZE_FIELD))
  block.write(octal(sum, CHECKSUM_FIELD.bytes), CHECKSUM_FIELD.at, 'latin1')
  return block
}

function plainHeader(): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES)
  const still = { mode: 0o644, uid: 0, gid: 0, mtime: new Date(0), uname: '', gname: '' }
  new Header({ ...still, type: 'File', path: '', size: 0 }).encode(block)
  for (const { at, bytes } of [SIZE_FIELD, CHECKSUM_FIELD]) block.fill(0, at, at + bytes)
  return block
}

export function field(block: Buffer, { at, bytes }: { at: number; bytes: number }): Buffer {
  return block.subarray(at, at + bytes)
}

/** As the tar package writes it: a space and a zero behind it, or the zero alone where there is room for no more. */
function octal(value: number, bytes: number): string {
  const digits = value.toString(8)
  return `${digits.length === bytes - 1 ? digits : `${digits.padStart(bytes - 2, '0')} `}\0`
}

function sumOf(bytes: Buffer): number {
  let sum = 0
  for (const byte of bytes) sum += byte
  return sum
}

/** Zeros after a content of this size, up to the next block. */
export function paddingBytes(size: number): number {
  return (BLOCK_BYTES - (size % BLOCK_BYTES)) % BLOCK_BYTES
}

export function malformed(reason: string, cause?: unknown): Failure {
  return new Failure('bundle_malformed', `bundle ${reason}`, { cause, hint: 'let tarmac pack or tarmac push write it' })
}
