import { isFile, isLink, type Manifest } from '../../shared/manifest.ts'
import { DIRECT } from '../../shared/wire.ts'
import type { Amount } from '../state/ledger-disk.ts'
import type { Lacking } from '../state/store-survey.ts'

// What a release takes of a disk beyond what is there. Pure. Rather a little too much than too little: what fits by this
// must not run out half-way.

/** A directory entry: inode number, lengths, the name, rounded up to 4. https://docs.kernel.org/filesystems/ext4/directory.html */
const ENTRY_BYTES = 8 + 3
/** A split leaves directory blocks between half and all full. */
const DIR_SLACK = 4 / 3
/** A longer target of a symbolic link takes a block. */
const INLINE_LINK_BYTES = 59
/** ext4 has set its inodes aside; xfs and btrfs make them as they come. */
const INODE_BYTES = 512
/** A change's row with its steps and a receipt of 40 long lines, in the database and in its log. */
const LEDGER_BYTES = 256 * 1024
/** Per service: environment, unit, private socket, a pipe, two links of enablement. */
const FILES_PER_SERVICE = 6
/** In release.json: `{"path":"a","dir":true},` */
const MIN_ENTRY_TEXT_BYTES = 24
/** Of an app: itself, objects, staging, env, releases, shared, current. */
const FILES_PER_APP = 7

interface Release {
  manifest: Manifest
  /** release.json as it was signed, and its signatures. */
  textBytes: number
  signatures: number
}

export interface Coming extends Release {
  lacking: Lacking
}

/** What must be free for a push: what it takes for good (`roomTaken`), what the switch writes, and what a file system does beside. */
export function roomNeeded({ manifest }: Coming, { bytes, inodes }: Amount, blockBytes: number): Amount {
  const { services, shared } = manifest
  const small = Object.keys(services).length * FILES_PER_SERVICE + shared.length + FILES_PER_APP
  const all = inodes + small
  return { inodes: all, bytes: bytes + small * blockBytes + all * INODE_BYTES + LEDGER_BYTES }
}

/**
 * Of a push of less than DIRECT, more than it can take beside the bytes of its objects: as if each entry of its manifest
 * had a directory to itself.
 */
export function mostForLittle(textBytes: number, blockBytes: number): Amount {
  const inodes = Math.ceil(textBytes / MIN_ENTRY_TEXT_BYTES) + 2 * DIRECT.objects + FILES_PER_APP
  return { inodes, bytes: textBytes + inodes * (blockBytes + INODE_BYTES) + LEDGER_BYTES }
}

/** What a push takes for good: what it stores, and the release made of that. */
export function roomTaken(coming: Coming, blockBytes: number): Amount {
  const { objects, shards } = coming.lacking
  const stored = objects.reduce((sum, { size }) => sum + blocks(size, blockBytes), shards * blockBytes)
  const release = roomOfRelease(coming, blockBytes)
  return { inodes: objects.length + shards + release.inodes, bytes: stored + release.bytes }
}

/** A release directory less its contents. */
export function roomOfRelease({ manifest, textBytes, signatures }: Release, blockBytes: number): Amount {
  const tree = roomOfTree(manifest, blockBytes)
  // Beside the tree: the release's own directory, that of its signatures, and release.json.
  const texts = blocks(textBytes, blockBytes) + (2 + signatures) * blockBytes
  return { inodes: tree.inodes + signatures + 3, bytes: tree.bytes + texts }
}

/** Its contents are hard links: each costs an entry, and no inode of its own. */
function roomOfTree(manifest: Manifest, blockBytes: number): Amount {
  const entryBytes = new Map<string, number>([['', 0]])
  let links = 0
  let bytes = 0
  for (const entry of manifest.files) {
    addEntry(entryBytes, entry.path)
    if (isLink(entry)) {
      links++
      if (entry.link.length > INLINE_LINK_BYTES) bytes += blockBytes
    } else if (!isFile(entry)) entryBytes.set(entry.path, entryBytes.get(entry.path) ?? 0)
  }
  for (const path of manifest.shared) {
    addEntry(entryBytes, path)
    links++
    bytes += blockBytes
  }
  for (const used of entryBytes.values()) bytes += blocks(Math.max(1, used * DIR_SLACK), blockBytes)
  return { bytes, inodes: entryBytes.size + links }
}

/** Its name in its directory; and that directory, when it is new, in the one above. */
function addEntry(entryBytes: Map<string, number>, path: string): void {
  const dir = dirOf(path)
  const known = entryBytes.get(dir)
  entryBytes.set(dir, (known ?? 0) + bytesOf(path, dir))
  if (known === undefined) addEntry(entryBytes, dir)
}

/** '' for the top. */
function dirOf(path: string): string {
  return path.slice(0, Math.max(path.lastIndexOf('/'), 0))
}

function bytesOf(path: string, dir: string): number {
  const name = dir === '' ? path : path.slice(dir.length + 1)
  return ENTRY_BYTES + Buffer.byteLength(name)
}

function blocks(bytes: number, blockBytes: number): number {
  return Math.ceil(bytes / blockBytes) * blockBytes
}
