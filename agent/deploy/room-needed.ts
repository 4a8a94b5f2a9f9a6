import { isFile, isLink, type Manifest } from '../../shared/manifest.ts'
import { parentsOf } from '../../shared/tree.ts'
import type { Lacking } from '../state/objects.ts'

// What a release takes of a disk beyond what is there. Pure. Rather a little too much than too little: what fits by this
// must not run out half-way.

export interface Room {
  bytes: number
  inodes: number
}

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
/** Of an app: itself, objects, staging, env, releases, shared, current. */
const FILES_PER_APP = 7

export interface Coming {
  manifest: Manifest
  /** release.json as it was signed, and its signatures. */
  textBytes: number
  signatures: number
  lacking: Lacking
}

/** The whole of a push: what it stores, the release made of that, and what the switch writes. */
export function roomNeeded(coming: Coming, blockBytes: number): Room {
  const { manifest, lacking } = coming
  const stored = lacking.objects.reduce((sum, { size }) => sum + blocks(size, blockBytes), 0)
  const release = roomOfRelease(coming, blockBytes)
  const small = Object.keys(manifest.services).length * FILES_PER_SERVICE + manifest.shared.length + FILES_PER_APP
  const inodes = lacking.objects.length + lacking.shards + release.inodes + small
  const files = (lacking.shards + small) * blockBytes
  return { inodes, bytes: stored + release.bytes + files + inodes * INODE_BYTES + LEDGER_BYTES }
}

/** A release directory without the contents, which are hard links: each costs an entry, and no inode of its own. */
export function roomOfRelease(
  { manifest, textBytes, signatures }: Pick<Coming, 'manifest' | 'textBytes' | 'signatures'>,
  blockBytes: number,
): Room {
  const entryBytes = new Map<string, number>([['', 0]])
  let links = 0
  let bytes = blocks(textBytes, blockBytes) + signatures * blockBytes
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
  // The release's own directory, that of its signatures, and release.json.
  return { bytes: bytes + 2 * blockBytes, inodes: entryBytes.size + links + signatures + 3 }
}

/** Its name in its directory; and that directory, when it is new, in the one above. */
function addEntry(entryBytes: Map<string, number>, path: string): void {
  let name = path
  for (const dir of [...parentsOf(path), '']) {
    const known = entryBytes.get(dir)
    const nameBytes = Buffer.byteLength(dir === '' ? name : name.slice(dir.length + 1))
    entryBytes.set(dir, (known ?? 0) + ENTRY_BYTES + nameBytes)
    if (known !== undefined) return
    name = dir
  }
}

function blocks(bytes: number, blockBytes: number): number {
  return Math.ceil(bytes / blockBytes) * blockBytes
}
