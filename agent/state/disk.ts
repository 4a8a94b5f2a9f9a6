import {
  closeSync,
  fchmodSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  type Stats,
  writeFileSync,
} from 'node:fs'
import { lstat, open, readlink, rename, rm, symlink } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { Failure, isErrno } from '../../shared/failure.ts'
import { reach } from '../fault.ts'
import { run } from '../run.ts'

// The only file that renames and syncs: a path holds what it held before or all of the new thing, never a part,
// whenever the power goes. A file's own data is synced before its name changes, the directory after.

/** A slow disk under load; `sync -f` waits for everything dirty on the file system, not only what is ours. */
export const DISK_TIMEOUT_MS = 600_000

/**
 * Writes a file beside its name and renames it there. The mode is exact, whatever the umask. Refuses to replace
 * anything but a regular file: a link or directory where we expect a file was put there by somebody else.
 */
export async function writeWhole(path: string, data: string | Uint8Array, { mode }: { mode: number }): Promise<void> {
  refuseOtherThan('file', await statsOf(path), path)
  const temporary = besides(path)
  await rm(temporary, { force: true })
  try {
    // `wx` is O_EXCL: whatever stands there is not followed or reused.
    const file = await open(temporary, 'wx', mode)
    try {
      await file.writeFile(data)
      await file.chmod(mode)
      await file.sync()
    } finally {
      await file.close()
    }
    reach('disk.written')
    await renameWhole(temporary, path)
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
}

/** The same for what is written beside a row: SQLite is synchronous too, and no other change may come in between. */
export function writeWholeSync(path: string, data: string, { mode }: { mode: number }): void {
  refuseOtherThan('file', lstatSync(path, { throwIfNoEntry: false }), path)
  const temporary = besides(path)
  rmSync(temporary, { force: true })
  try {
    const file = openSync(temporary, 'wx', mode)
    try {
      writeFileSync(file, data)
      fchmodSync(file, mode)
      fsyncSync(file)
    } finally {
      closeSync(file)
    }
    reach('disk.written')
    renameWholeSync(temporary, path)
  } catch (error) {
    rmSync(temporary, { force: true })
    throw error
  }
}

/** Makes `path` a symbolic link to `target`, at once in place of the link that was there. */
export async function linkWhole(path: string, target: string): Promise<void> {
  const there = await statsOf(path)
  refuseOtherThan('link', there, path)
  // A way back on a full disk must not need room for what is so already.
  if (there !== undefined && (await readlink(path)) === target) return syncDirectory(dirname(path))
  const temporary = besides(path)
  await rm(temporary, { force: true })
  await symlink(target, temporary)
  reach('disk.written')
  await renameWhole(temporary, path)
}

/** Renames, and returns when the new name will be there after a power loss. */
export async function renameWhole(from: string, to: string): Promise<void> {
  await rename(from, to)
  await syncDirectory(dirname(to))
  if (dirname(from) !== dirname(to)) await syncDirectory(dirname(from))
  reach('disk.renamed')
}

export function renameWholeSync(from: string, to: string): void {
  renameSync(from, to)
  for (const dir of new Set([dirname(to), dirname(from)])) {
    const directory = openSync(dir, 'r')
    try {
      fsyncSync(directory)
    } finally {
      closeSync(directory)
    }
  }
  reach('disk.renamed')
}

/** Everything written so far to the file system that holds `path`: one call for a release of 24,000 files. */
export async function syncFilesystem(path: string): Promise<void> {
  await run(['sync', '-f', path], { timeoutMs: DISK_TIMEOUT_MS })
  reach('disk.synced')
}

/** Eight calls for half a gigabyte: little is left for the end, and they are few. */
const SYNC_EVERY_BYTES = 64 * 1024 * 1024

/**
 * Sets the disk to work while more comes, which the sync at the end waits for otherwise. `end` throws what went wrong: a
 * failed write is told to one sync only.
 */
export function syncAlong(path: string): { wrote(bytes: number): void; end(): Promise<void> } {
  let unsynced = 0
  let syncing: Promise<void> | undefined
  let failure: unknown
  return {
    wrote(bytes) {
      unsynced += bytes
      if (unsynced < SYNC_EVERY_BYTES || syncing) return
      unsynced = 0
      syncing = syncFilesystem(path)
        .catch((error: unknown) => {
          failure ??= error
        })
        .finally(() => {
          syncing = undefined
        })
    },
    async end() {
      await syncing
      if (failure) throw failure
    },
  }
}

/**
 * Renames a finished file to its place, making its directory; not yet durable: `syncFilesystem` makes a whole batch
 * so. Synchronous: it is called for each of thousands of files.
 */
export function placeFile(temporary: string, path: string): void {
  try {
    renameSync(temporary, path)
  } catch (error) {
    if (!isErrno(error, 'ENOENT')) throw error
    mkdirSync(dirname(path), { recursive: true, mode: 0o755 })
    renameSync(temporary, path)
  }
  reach('disk.placed')
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}

// A dot in front: systemd, Upstart and glob patterns pass over it while it is there.
function besides(path: string): string {
  return join(dirname(path), `.${basename(path)}.tmp`)
}

async function statsOf(path: string): Promise<Stats | undefined> {
  try {
    return await lstat(path)
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined
    throw error
  }
}

function refuseOtherThan(kind: 'file' | 'link', there: Stats | undefined, path: string): void {
  if (there === undefined || (kind === 'file' ? there.isFile() : there.isSymbolicLink())) return
  throw new Failure('internal', `replace ${path}: what is there is no ${kind === 'file' ? 'regular file' : 'link'}`)
}
