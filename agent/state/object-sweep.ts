import { lstatSync, readdirSync, type Stats, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate as breathe } from 'node:timers/promises'
import { isErrno } from '../../shared/failure.ts'
import { type Entry, isFile, type Mode } from '../../shared/manifest.ts'
import type { AppName, Sha256 } from '../../shared/names.ts'
import { reach } from '../fault.ts'
import type { Layout } from './layout.ts'
import { removeFiles } from './remove.ts'

// How objects go again. Only while no upload is under way for the app: it may be about to link what nobody links to yet.

/**
 * What a cut upload brought is not sent again by the next push, which may be tomorrow's. What a release leaves behind
 * is not meant: that goes with it.
 */
export const ORPHAN_GRACE_MS = 24 * 3_600_000
/** About 1 ms. After it the event loop gets its turn, so that `status` answers meanwhile. */
const FILES_PER_TURN = 200
/** The same of paths that are only put together. */
const NAMES_PER_TURN = 1_000

/** stat(2) counts in these, whatever a block of the file system is. */
const STAT_BLOCK_BYTES = 512

/** What else lies there (an admin's copy, lost+found) is none of ours, and is not touched. */
const SHARD = /^[0-9a-f]{2}$/
const OBJECT = /^[0-9a-f]{62}(\.x)?$/
const DIGEST_REST = 62

export interface Sweep {
  objects: number
  bytes: number
}

export interface Removed extends Sweep {
  /** In whole blocks: what the disk got back. */
  diskBytes: number
}

/** Removes those contents of a removed release that no other one has. */
export async function removeObjectsOf(layout: Layout, app: AppName, entries: readonly Entry[]): Promise<Removed> {
  const found = sweep()
  let seen = 0
  for (const [path] of await linksOf(layout, app, entries)) {
    if (++seen % FILES_PER_TURN === 0) await breathe()
    const stats = lstatSync(path, { throwIfNoEntry: false })
    if (stats?.nlink === 1) found.add(path, stats)
  }
  return found.remove()
}

/** What removing releases one after the other, in this order, would free: for each, the bytes that go with it. */
export async function bytesFreed(
  layout: Layout,
  app: AppName,
  releases: readonly (readonly Entry[])[],
): Promise<number[]> {
  const left = new Map<string, { nlink: number; size: number }>()
  const freed: number[] = []
  let seen = 0
  for (const entries of releases) {
    let bytes = 0
    for (const [path, links] of await linksOf(layout, app, entries)) {
      if (++seen % FILES_PER_TURN === 0) await breathe()
      const { nlink = 0, size = 0 } = left.get(path) ?? lstatSync(path, { throwIfNoEntry: false }) ?? {}
      left.set(path, { nlink: nlink - links, size })
      if (nlink > 1 && nlink - links === 1) bytes += size
    }
    freed.push(bytes)
  }
  return freed
}

/** All objects of an app, looked at once. */
export interface Looked {
  /** What its releases cost on disk, each content counted once. */
  bytes: number
  /** Those that no release linked to. */
  unlinked: { path: string; size: number }[]
}

/** `turn` is awaited now and then; what it throws ends it. */
export async function lookThrough(
  layout: Layout,
  app: AppName,
  turn: () => Promise<unknown> = breathe,
): Promise<Looked> {
  const looked: Looked = { bytes: 0, unlinked: [] }
  let seen = 0
  for (const shard of namesIn(layout.objectsDir(app), SHARD)) {
    const dir = join(layout.objectsDir(app), shard)
    for (const name of namesIn(dir, OBJECT)) {
      const path = `${dir}/${name}`
      const stats = lstatSync(path, { throwIfNoEntry: false })
      if (!stats?.isFile()) continue
      looked.bytes += stats.size
      if (stats.nlink === 1) looked.unlinked.push({ path, size: stats.size })
      if (++seen % FILES_PER_TURN === 0) await turn()
    }
  }
  return looked
}

/** Removes those of the unlinked that no release links to by now and that have lain here for longer than `graceMs`. */
export async function removeOrphans({ unlinked }: Looked, grace: { graceMs: number }): Promise<Removed> {
  return (await orphansOf(unlinked, grace)).remove()
}

/** What `removeOrphans` would remove. */
export async function countOrphans({ unlinked }: Looked, grace: { graceMs: number }): Promise<Sweep> {
  const { objects, bytes } = await orphansOf(unlinked, grace)
  return { objects, bytes }
}

async function orphansOf(unlinked: Looked['unlinked'], { graceMs }: { graceMs: number }) {
  const found = sweep()
  const now = Date.now()
  let seen = 0
  for (const { path } of unlinked) {
    if (++seen % FILES_PER_TURN === 0) await breathe()
    const stats = lstatSync(path, { throwIfNoEntry: false })
    if (stats !== undefined && isOrphan(stats, now, graceMs)) found.add(path, stats)
  }
  return found
}

/** Finding first and removing then: the one blocks, a little, and the other waits for the disk. */
function sweep() {
  const paths: string[] = []
  return {
    objects: 0,
    bytes: 0,
    diskBytes: 0,
    add(path: string, { size, blocks }: Stats) {
      paths.push(path)
      this.objects += 1
      this.bytes += size
      this.diskBytes += blocks * STAT_BLOCK_BYTES
    },
    async remove(): Promise<Removed> {
      await removeFiles(paths)
      reach('disk.removed')
      return { objects: this.objects, bytes: this.bytes, diskBytes: this.diskBytes }
    },
  }
}

export interface StoredObject {
  sha256: Sha256
  mode: Mode
  size: number
  path: string
}

/** The objects whose digest begins with these two digits. Looked at one by one, as whoever asks gets to them. */
export function* objectsIn(layout: Layout, app: AppName, shard: string): Generator<StoredObject> {
  const dir = join(layout.objectsDir(app), shard)
  for (const name of namesIn(dir, OBJECT)) {
    const path = join(dir, name)
    const stats = lstatSync(path, { throwIfNoEntry: false })
    if (!stats?.isFile()) continue
    const sha256 = `${shard}${name.slice(0, DIGEST_REST)}` as Sha256
    yield { sha256, mode: name.endsWith('.x') ? '0755' : '0644', size: stats.size, path }
  }
}

/** One object, if it is an orphan that has lain here long enough. At once, so that no upload can begin in between. */
export function removeIfOrphan(path: string): boolean {
  const stats = lstatSync(path, { throwIfNoEntry: false })
  if (stats === undefined || !isOrphan(stats, Date.now(), ORPHAN_GRACE_MS)) return false
  unlinkSync(path)
  return true
}

/** Both ways: a clock that was ahead when it came keeps it no longer than one that was right. */
function isOrphan({ nlink, ctimeMs }: Stats, now: number, graceMs: number): boolean {
  return nlink === 1 && Math.abs(now - ctimeMs) >= graceMs
}

/** Path of an object → how many names it has in this release. */
async function linksOf(layout: Layout, app: AppName, entries: readonly Entry[]): Promise<Map<string, number>> {
  const links = new Map<string, number>()
  let seen = 0
  for (const entry of entries) {
    if (++seen % NAMES_PER_TURN === 0) await breathe()
    if (!isFile(entry)) continue
    const path = layout.object(app, entry.sha256, entry.mode)
    links.set(path, (links.get(path) ?? 0) + 1)
  }
  return links
}

/** Also those that a cut upload left. */
export function hasObjects(layout: Layout, app: AppName): boolean {
  return namesIn(layout.objectsDir(app), SHARD).some((shard) => namesOf(join(layout.objectsDir(app), shard)).length > 0)
}

/** The names of the objects in this directory of the store; none when there is no such directory. */
export function namesOf(shardDir: string): string[] {
  return namesIn(shardDir, OBJECT)
}

function namesIn(dir: string, rule: RegExp): string[] {
  try {
    return readdirSync(dir).filter((name) => rule.test(name))
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return []
    throw error
  }
}
