import { randomFillSync } from 'node:crypto'
import { readdirSync, rmSync, type StatsFsBase, statfsSync, statSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { reasonOf } from '../../shared/failure.ts'
import type { Log } from '../log.ts'
import type { Layout } from './layout.ts'

// Files that hold nothing. On a full disk they are given back, so that what leads out of it can be written: a rollback's
// environment and units, the rows of the ledger, a link. Many small ones, since a disk may lack inodes and not bytes.

/** A rollback of ten services writes some 100 KiB, the ledger's log grows to 4 MiB. */
const RESERVE_BYTES = 16 * 1024 ** 2
/** Ten services: environment, unit, socket, pipe, links. */
const RESERVE_FILES = 64
/** Of a small disk it is this part. */
const MAX_PART = 1 / 32
/** So much more than itself must be free before it is made, or the next look would give it back. */
const ROOM_FACTOR = 3

export interface Reserve {
  /** Makes it, when it is not there and there is room for it. Never rejects. */
  keep(): Promise<void>
  /** On a disk that is all but full: gives it back, and says whether there was anything to give. Never throws. */
  giveBack(): boolean
}

export interface ReserveSize {
  files: number
  fileBytes: number
}

export function reserveAt({ root, reserveDir, reserveFile }: Layout, log: Log): Reserve {
  const sizeNow = () => {
    const stats = statfsSync(root)
    return { stats, size: reserveSize(stats) }
  }
  const remove = () => rmSync(reserveDir, { recursive: true, force: true })

  async function make({ files, fileBytes }: ReserveSize): Promise<void> {
    remove()
    await mkdir(reserveDir, { mode: 0o700 })
    // A file system that compresses would make nothing of zeros. One buffer: an agent that idles keeps what it had once.
    const noise = Buffer.allocUnsafeSlow(fileBytes)
    for (let n = 0; n < files; n++) await writeFile(reserveFile(n), randomFillSync(noise), { mode: 0o600 })
  }

  return {
    async keep() {
      try {
        const { stats, size } = sizeNow()
        if (isThere(reserveDir, reserveFile, size) || !hasRoom(stats, size, ROOM_FACTOR)) return
        await make(size)
      } catch (error) {
        log.warn({ reason: reasonOf(error) }, 'the reserve for a full disk could not be made')
        remove()
      }
    },
    giveBack() {
      try {
        const { stats, size } = sizeNow()
        if (hasRoom(stats, size, 1) || !isThereAtAll(reserveDir)) return false
        log.warn({ dir: reserveDir }, 'the disk is full: the reserve is given back')
        remove()
        return true
      } catch (error) {
        log.error({ reason: reasonOf(error) }, 'the reserve for a full disk could not be given back')
        return false
      }
    },
  }
}

/** Another program may fill the disk in the middle of what makes an app serve again: the reserve is worth one more try. */
export async function withReserve({ giveBack }: Reserve, work: () => Promise<void>): Promise<void> {
  try {
    await work()
  } catch (error) {
    if (!giveBack()) throw error
    await work()
  }
}

/** Pure: how much is set aside on a file system of this size. */
export function reserveSize({
  bsize,
  blocks,
  files,
}: Pick<StatsFsBase<number>, 'bsize' | 'blocks' | 'files'>): ReserveSize {
  // 0: one that counts no inodes.
  const count = files === 0 ? RESERVE_FILES : Math.max(1, Math.min(RESERVE_FILES, Math.floor(files * MAX_PART)))
  const bytes = Math.min(RESERVE_BYTES, bsize * blocks * MAX_PART)
  return { files: count, fileBytes: Math.max(1, Math.floor(bytes / count / bsize)) * bsize }
}

function hasRoom({ bsize, bavail, files, ffree }: StatsFsBase<number>, size: ReserveSize, times: number): boolean {
  return bsize * bavail >= times * size.files * size.fileBytes && (files === 0 || ffree >= times * size.files)
}

/** Whole: after a power loss files may be there without what was written to them. */
function isThere(dir: string, fileOf: (n: number) => string, { files, fileBytes }: ReserveSize): boolean {
  if (!isThereAtAll(dir)) return false
  for (let n = 0; n < files; n++) {
    if (statSync(fileOf(n), { throwIfNoEntry: false })?.size !== fileBytes) return false
  }
  return true
}

function isThereAtAll(dir: string): boolean {
  return statSync(dir, { throwIfNoEntry: false })?.isDirectory() === true && readdirSync(dir).length > 0
}
