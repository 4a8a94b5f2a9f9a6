import { statfs } from 'node:fs/promises'
import prettyBytes from 'pretty-bytes'
import { Failure } from '../../shared/failure.ts'
import { type Manifest, objectsOf } from '../../shared/manifest.ts'
import type { DiskState } from '../../shared/wire.ts'
import { type Config, DEFAULTS } from '../config.ts'
import { missingObjects } from '../state/objects.ts'

export interface Disk {
  path: string
  totalBytes: number
  freeBytes: number
  totalInodes: number
  freeInodes: number
  reserveBytes: number
  reserveInodes: number
}

export async function diskOf({ layout, reserve }: Pick<Config, 'layout' | 'reserve'>): Promise<Disk> {
  const { bsize, blocks, bavail, files, ffree } = await statfs(layout.root)
  const totalBytes = bsize * blocks
  return {
    path: layout.root,
    totalBytes,
    freeBytes: bsize * bavail,
    totalInodes: files,
    freeInodes: ffree,
    reserveBytes: reserve.bytes ?? Math.min(DEFAULTS.reserveBytes, Math.floor(totalBytes * DEFAULTS.reserveFraction)),
    // btrfs and some network file systems count no inodes: there is nothing to run out of.
    reserveInodes: files === 0 ? 0 : Math.min(reserve.inodes, Math.floor(files * DEFAULTS.reserveFraction)),
  }
}

/** Pure: how full a disk is, in the three words of `status`. */
export function diskState(disk: Disk): DiskState {
  const bytes = disk.freeBytes / Math.max(1, disk.reserveBytes)
  const inodes = disk.totalInodes === 0 ? Number.POSITIVE_INFINITY : disk.freeInodes / Math.max(1, disk.reserveInodes)
  const least = Math.min(bytes, inodes)
  return least < 1 ? 'critical' : least < DEFAULTS.lowFactor ? 'low' : 'ok'
}

/** Refuses what would not fit, with the numbers. Throws `disk_full`. */
export async function checkRoom({ config }: { config: Config }, manifest: Manifest): Promise<void> {
  const disk = await diskOf(config)
  const need = await roomNeeded(config, manifest, disk)
  if (need.bytes > disk.freeBytes - disk.reserveBytes) {
    throw new Failure(
      'disk_full',
      `push ${manifest.app}: needs ${prettyBytes(need.bytes)}; ${disk.path} has ${prettyBytes(disk.freeBytes)} free, of which ${prettyBytes(disk.reserveBytes)} stay in reserve`,
      { hint: 'keep fewer releases ([keep] in tarmac.toml), or make room on the host' },
    )
  }
  if (disk.totalInodes > 0 && need.inodes > disk.freeInodes - disk.reserveInodes) {
    throw new Failure(
      'disk_full',
      `push ${manifest.app}: needs ${need.inodes} inodes; ${disk.path} has ${disk.freeInodes} free, of which ${disk.reserveInodes} stay in reserve`,
      { hint: 'keep fewer releases ([keep] in tarmac.toml), or leave out files nobody runs' },
    )
  }
}

/** Objects to store, a block each at the least, and a directory entry per file: hard links cost no inode of their own. */
async function roomNeeded(
  { layout }: Config,
  manifest: Manifest,
  disk: Disk,
): Promise<{ bytes: number; inodes: number }> {
  const BLOCK = 4096
  /** A name, an inode number and padding in a directory block. */
  const LINK_BYTES = 64
  const sizes = objectsOf(manifest)
  const missing = await missingObjects(layout, manifest)
  const objects = missing.reduce((sum, digest) => sum + Math.ceil((sizes.get(digest) ?? 0) / BLOCK) * BLOCK, 0)
  const dirs = new Set(manifest.files.map(({ path }) => path.slice(0, Math.max(0, path.lastIndexOf('/')))))
  const links = manifest.files.filter((entry) => 'link' in entry).length
  return {
    bytes: objects + dirs.size * BLOCK + manifest.files.length * LINK_BYTES,
    inodes: disk.totalInodes === 0 ? 0 : missing.length + dirs.size + links + 8,
  }
}
