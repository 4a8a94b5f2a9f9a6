import { type Dirent, existsSync, lstatSync, readdirSync, readFileSync, realpathSync, rmdirSync } from 'node:fs'
import { readdir, rm, rmdir, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { setImmediate as breathe } from 'node:timers/promises'
import { isErrno } from '../../shared/failure.ts'
import { reach } from '../fault.ts'
import { run } from '../run.ts'
import { DISK_TIMEOUT_MS } from './disk.ts'

// How files and trees go. What is removed is named by its path alone: links themselves, and not what they point to.

/** Node has four threads for all that waits for the disk: two are left to those who ask something. */
const REMOVERS = 2
/** Of this process's own view, which may have mounts of its own. */
const MOUNTS = '/proc/self/mountinfo'
/** A few ms of listing. */
const DIRS_PER_TURN = 100

/**
 * Removes a file or tree, links themselves and not what they point to; nothing there is fine. Node's own recursive `rm`
 * asks its threads for everything at once, and whoever else wants the disk waits behind 24,000 removals (measured:
 * 110 ms on an idle machine). What somebody has mounted in it stays, and is told as a directory that is busy.
 */
export async function removeTree(path: string): Promise<void> {
  const stats = lstatSync(path, { throwIfNoEntry: false })
  if (stats?.isDirectory()) await removeDirectory(path)
  else await rm(path, { force: true })
  reach('disk.removed')
}

/**
 * The same of a release's tree, by another process: in a third of the time, and nearly none of this one's. It may go on
 * after the agent has ended: only for paths at which nothing is ever made that is to stay.
 */
export async function removeBigTree(path: string): Promise<void> {
  // What it could not remove says why when it is tried here.
  if (mountsBelow(path).size === 0) await run(['rm', '-rf', '--', path], { timeoutMs: DISK_TIMEOUT_MS }).catch(() => {})
  await removeTree(path)
}

async function removeDirectory(path: string): Promise<void> {
  const dirs = [path]
  const files: string[] = []
  const mounts = mountsBelow(path)
  let seen = 0
  // Grows while it is walked: each directory before those below it.
  for (const dir of dirs) {
    if (mounts.has(dir)) continue
    for (const entry of entriesIn(dir)) {
      const at = join(dir, entry.name)
      if (entry.isDirectory()) dirs.push(at)
      else files.push(at)
    }
    if (++seen % DIRS_PER_TURN === 0) await breathe()
  }
  await removeFiles(files)
  for (const dir of dirs.reverse()) await rmdir(dir).catch(unlessGone)
}

/**
 * What is mounted in this directory, as paths that begin as it does. Of proc_pid_mountinfo(5), whose fifth field is where;
 * by its device alone a directory of the same file system, bound there, is not told from one that was made there.
 */
function mountsBelow(path: string): Set<string> {
  const real = existsSync(path) ? realpathSync(path) : path
  const points = linesOf(MOUNTS).map((line) => unescaped(line.split(' ')[4] ?? ''))
  const below = points.filter((point) => point.startsWith(`${real}/`))
  return new Set(below.map((point) => path + point.slice(real.length)))
}

/** None on a system that has no such file. */
function linesOf(file: string): string[] {
  try {
    return readFileSync(file, 'utf8').split('\n')
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return []
    throw error
  }
}

/** Space, tab, line feed and backslash are written as three octal digits of a byte. */
function unescaped(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)))
}

function entriesIn(dir: string): Dirent[] {
  try {
    return readdirSync(dir, { withFileTypes: true })
  } catch (error) {
    unlessGone(error)
    return []
  }
}

/** Two may remove the same: a change that frees a disk does not wait for what clears up behind the one before. */
function unlessGone(error: unknown): void {
  if (!isErrno(error, 'ENOENT')) throw error
}

/** Removes files that are there, without being in anybody's way: on a busy disk one removal may take a second. */
export async function removeFiles(paths: readonly string[]): Promise<void> {
  const left = paths.values()
  await Promise.all(
    Array.from({ length: REMOVERS }, async () => {
      for (const path of left) await unlink(path).catch(unlessGone)
    }),
  )
}

/** Removes what a write that was cut off left beside its name in this directory. */
export async function removeTemporaries(dir: string, prefix = ''): Promise<void> {
  for (const name of await readdir(dir)) {
    if (name.startsWith(`.${prefix}`) && name.endsWith('.tmp')) await removeTree(join(dir, name))
  }
}

/** Removes a directory and those in it as far as they are empty; what holds a file stays, with all above it. */
export function removeEmptyDirs(path: string): void {
  try {
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      if (entry.isDirectory()) removeEmptyDirs(join(path, entry.name))
    }
  } catch (error) {
    if (!isErrno(error, 'ENOENT')) throw error
  }
  removeIfEmpty(path)
}

/** Removes this one directory if nothing is in it. */
export function removeIfEmpty(path: string): void {
  try {
    rmdirSync(path)
  } catch (error) {
    if (!isErrno(error, 'ENOENT', 'ENOTEMPTY', 'EEXIST')) throw error
  }
}
