import { statfs } from 'node:fs/promises'
import prettyBytes from 'pretty-bytes'
import { Failure } from '../../shared/failure.ts'
import type { Signed } from '../../shared/manifest.ts'
import type { AppName } from '../../shared/names.ts'
import { type DiskState, type DiskStatus, ROOM_PER_OBJECT } from '../../shared/wire.ts'
import { type Config, DEFAULTS } from '../config.ts'
import type { Amount } from '../state/ledger-disk.ts'
import type { Lacking } from '../state/store-survey.ts'
import { mostForLittle, roomNeeded, roomTaken } from './room-needed.ts'

export interface Disk {
  path: string
  /** A file takes whole ones of these. */
  blockBytes: number
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
    blockBytes: bsize,
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
  const { bytes, inodes } = timesReserve(disk)
  const least = Math.min(bytes, inodes)
  return least < 1 ? 'critical' : least < DEFAULTS.lowFactor ? 'low' : 'ok'
}

/** Pure: what there is least of; null when there is enough of both. */
export function scarceOf(disk: Disk): DiskStatus['scarce'] {
  if (diskState(disk) === 'ok') return null
  const { bytes, inodes } = timesReserve(disk)
  return bytes <= inodes ? 'bytes' : 'inodes'
}

function timesReserve(disk: Disk): Amount {
  return {
    bytes: disk.freeBytes / Math.max(1, disk.reserveBytes),
    inodes: disk.totalInodes === 0 ? Number.POSITIVE_INFINITY : disk.freeInodes / Math.max(1, disk.reserveInodes),
  }
}

/** Refuses what would not fit, with the numbers; else says what it takes for good. Throws `disk_full`. */
export async function checkRoom(
  { config }: { config: Config },
  { signed, signatures }: { signed: Signed; signatures: readonly string[] },
  lacking: Lacking,
): Promise<Amount> {
  const { manifest, text } = signed
  const disk = await diskOf(config)
  const coming = { manifest, textBytes: Buffer.byteLength(text), signatures: signatures.length, lacking }
  const taken = roomTaken(coming, disk.blockBytes)
  const needed = roomNeeded(coming, taken, disk.blockBytes)
  const short = shortOf(disk, needed)
  if (short.length === 0) return taken
  const amounts = {
    bytes: `needs ${prettyBytes(needed.bytes)}, and ${disk.path} has ${prettyBytes(disk.freeBytes)} free, of which ${prettyBytes(disk.reserveBytes)} stay in reserve`,
    inodes: `needs ${needed.inodes} inodes, and ${disk.path} has ${disk.freeInodes} free, of which ${disk.reserveInodes} stay in reserve`,
  }
  throw new Failure('disk_full', `push ${manifest.app}: ${short.map((what) => amounts[what]).join('; it ')}`, {
    hint: short.includes('inodes')
      ? 'keep fewer releases ([keep] in tarmac.toml), or leave out files nobody runs (.tarmacignore)'
      : `make room on the host, or keep fewer releases; what could go: tarmac prune --explain --app ${manifest.app}`,
  })
}

/** Without a look at the tree: the bytes of objects that a push of less than DIRECT may bring, with such a release.json. */
export async function roomForLittle({ config }: { config: Config }, textBytes: number): Promise<number> {
  const disk = await diskOf(config)
  const needed = mostForLittle(textBytes, disk.blockBytes)
  if (shortOf(disk, needed).length > 0) return 0
  return disk.freeBytes - disk.reserveBytes - needed.bytes
}

/** Before the reserve is touched, bytes of objects that each count as ROOM_PER_OBJECT more. */
export async function roomForObjects({ config }: { config: Config }): Promise<number> {
  const { freeBytes, reserveBytes, totalInodes, freeInodes, reserveInodes } = await diskOf(config)
  // btrfs and some network file systems count no inodes.
  const objects = totalInodes === 0 ? Number.POSITIVE_INFINITY : freeInodes - reserveInodes
  return Math.max(0, Math.min(freeBytes - reserveBytes, objects * ROOM_PER_OBJECT))
}

/** How much may come before the disk is asked again: little beside any reserve, and 0.1 % of the time. */
const BYTES_PER_LOOK = 4 * 1024 ** 2
const CALLS_PER_LOOK = 100

/** To be told of all that is about to be written. Gives a promise when the disk is asked again; that throws `disk_full`. */
export type Spend = (bytes: number) => Promise<void> | undefined

/**
 * What fitted before the upload may fit no more: others write too, and so do two pushes of two apps. Half the reserve is
 * for them and for what a file system needs beside; below that an upload ends, before nobody can write any more.
 */
export function watchRoom({ config }: { config: Config }, app: AppName): Spend {
  let bytes = 0
  let calls = 0
  const look = async () => {
    const disk = await diskOf(config)
    const short = shortOf(disk, { bytes: -disk.reserveBytes / 2, inodes: -disk.reserveInodes / 2 })
    if (short.length === 0) return
    throw new Failure(
      'disk_full',
      `push ${app}: the disk filled up during the upload: ${disk.path} has ${prettyBytes(disk.freeBytes)} and ${disk.freeInodes} inodes free, of which ${prettyBytes(disk.reserveBytes)} and ${disk.reserveInodes} are the reserve`,
      { hint: 'nothing of it was kept; make room on the host and push again' },
    )
  }
  return (more) => {
    bytes += more
    if (bytes < BYTES_PER_LOOK && ++calls < CALLS_PER_LOOK) return undefined
    bytes = 0
    calls = 0
    return look()
  }
}

/** Pure: what there would be too little of. */
export function shortOf(disk: Disk, needed: Amount): ('bytes' | 'inodes')[] {
  const short: ('bytes' | 'inodes')[] = []
  if (needed.bytes > disk.freeBytes - disk.reserveBytes) short.push('bytes')
  // btrfs and some network file systems count no inodes.
  if (disk.totalInodes > 0 && needed.inodes > disk.freeInodes - disk.reserveInodes) short.push('inodes')
  return short
}
