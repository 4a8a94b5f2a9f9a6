import { execFileSync, spawnSync } from 'node:child_process'
import {
  chmodSync,
  closeSync,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  statfsSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { isErrno } from '../../shared/failure.ts'

const MIB = 1024 ** 2

/** A file system of its own, to be filled. */
export interface SmallDisk {
  /** Where it is mounted; others may pass through. */
  dir: string
  /** What was made: ext4 in a loop device, or where there are none a tmpfs with limits. */
  kind: 'ext4' | 'tmpfs'
  free(): { bytes: number; inodes: number }
  /** Takes all bytes but so many, as another program would. */
  fill(leaveBytes?: number): void
  /** Takes all inodes but so many. */
  fillInodes(leave?: number): void
  /** Takes away what `fill` and `fillInodes` made. */
  empty(): void
  /** Unmounted meanwhile: nobody may have anything open there. For ext4 alone: a tmpfs would be lost. */
  offline(work: (image: string) => void): void
}

/** Needs root. `inodes` is how many there are in all; the file system's own choice when not given. */
export function smallDisk(t: TestContext, { mebibytes, inodes }: { mebibytes: number; inodes?: number }): SmallDisk {
  const place = mkdtempSync(join(tmpdir(), 'tarmac-disk-'))
  const dir = join(place, 'mounted')
  const image = join(place, 'image')
  mkdirSync(dir)
  chmodSync(place, 0o711)
  t.after(() => {
    // Lazily: the agent whose root it is may end a moment later.
    execFileSync('umount', ['-l', dir])
    rmSync(place, { recursive: true, force: true })
  })
  writeFileSync(image, '')
  truncateSync(image, mebibytes * MIB)
  // No part for root alone, who is the one to fill it here; no bytes are set aside that statfs does not show.
  execFileSync('mkfs.ext4', ['-q', '-F', '-m', '0', ...(inodes === undefined ? [] : ['-N', String(inodes)]), image])
  const isLoop = spawnSync('mount', ['-o', 'loop', image, dir]).status === 0
  if (!isLoop) {
    const limits = `size=${mebibytes}m,mode=755${inodes === undefined ? '' : `,nr_inodes=${inodes}`}`
    execFileSync('mount', ['-t', 'tmpfs', '-o', limits, 'tmpfs', dir])
  }
  const filler = join(dir, 'filler')
  const free = () => {
    const { bsize, bavail, ffree } = statfsSync(dir)
    return { bytes: bsize * bavail, inodes: ffree }
  }
  return {
    dir,
    kind: isLoop ? 'ext4' : 'tmpfs',
    free,
    fill(leaveBytes = 0) {
      mkdirSync(filler, { recursive: true })
      const file = openSync(join(filler, `bytes-${Date.now()}`), 'a')
      try {
        // Once more after the sync: what a file system had set aside for what was under way shows only then.
        for (const chunk of [MIB, 4096, 4096].map((bytes) => Buffer.alloc(bytes, 1))) {
          while (free().bytes - leaveBytes >= (leaveBytes === 0 ? 0 : chunk.length)) {
            if (!wrote(() => writeSync(file, chunk))) break
          }
          fsyncSync(file)
        }
      } finally {
        closeSync(file)
      }
    },
    fillInodes(leave = 0) {
      mkdirSync(filler, { recursive: true })
      for (let n = 0; free().inodes > leave; n++) if (!wrote(() => writeFileSync(join(filler, `${n}`), ''))) return
    },
    empty: () => rmSync(filler, { recursive: true, force: true }),
    offline(work) {
      execFileSync('umount', [dir])
      try {
        work(image)
      } finally {
        execFileSync('mount', ['-o', 'loop', image, dir])
      }
    },
  }
}

function wrote(write: () => unknown): boolean {
  try {
    write()
    return true
  } catch (error) {
    if (isErrno(error, 'ENOSPC')) return false
    throw error
  }
}
