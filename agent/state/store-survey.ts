import { existsSync } from 'node:fs'
import { setImmediate as breathe } from 'node:timers/promises'
import { Failure } from '../../shared/failure.ts'
import { type FileEntry, isFile, type Manifest, type Mode } from '../../shared/manifest.ts'
import type { Sha256 } from '../../shared/names.ts'
import type { Layout } from './layout.ts'
import { isIntact, lookAt, otherSizeOf, quarantine } from './object-check.ts'
import { hasObjects, namesOf } from './object-sweep.ts'

/** About 2 ms. After it the event loop gets its turn. */
const FILES_PER_TURN = 500

export type Whole = ReadonlyMap<string, number>

/** What of a release is in the store, and what is not. */
export interface Survey {
  /** Contents that are here in no mode at all: they have to come. */
  missing: Sha256[]
  /** Contents that were here and damaged. They were set aside, and so are missing where no other mode is here. */
  damaged: Sha256[]
  lacking: Lacking
  /** Why it can be no release: the first size that is not that of what has the content. */
  wrongSize: Failure | undefined
  /** The objects that it would be made of and that are here: key (see `keyOf`) → size. */
  whole: Whole
}

/** Names an object. Mostly its digest itself, which takes no time to put together. */
export function keyOf({ sha256, mode }: { sha256: Sha256; mode: Mode }): string {
  return mode === '0755' ? `${sha256}.x` : sha256
}

/** What a release would add to the store. A content that is needed in two modes is two objects. */
export interface Lacking {
  objects: { sha256: Sha256; mode: Mode; size: number }[]
  /** Directories of the store that are not there yet. */
  shards: number
}

/**
 * One look at each object that a release would be made of; what bears no mark of being whole is read. What is damaged
 * goes aside, so that no release is made of it. `whole`: those that were looked at just now.
 */
export async function surveyStore(layout: Layout, { app, files }: Manifest, whole: Whole = new Map()): Promise<Survey> {
  const look = hasObjects(layout, app) ? lookingAt() : () => 'absent' as const
  const seen = new Set<string>()
  const usable = new Map<string, number>()
  const here = new Set<Sha256>()
  const damaged = new Set<Sha256>()
  let wrongSize: Failure | undefined
  const objects: FileEntry[] = []
  const shards = new Map<string, boolean>()
  const isUsable = async (object: FileEntry, path: string): Promise<boolean> => {
    if (await isIntact(path, object)) return true
    const otherSize = await otherSizeOf(path, object)
    if (otherSize !== undefined) {
      wrongSize ??= wrongSizeOf(object, otherSize)
      return false
    }
    quarantine(layout, app, object)
    damaged.add(object.sha256)
    return false
  }
  let looked = 0
  for (const entry of files) {
    if (!isFile(entry)) continue
    const { sha256, mode } = entry
    const key = keyOf(entry)
    if (seen.size === seen.add(key).size) continue
    if (++looked % FILES_PER_TURN === 0) await breathe()
    if (whole.get(key) === entry.size) {
      usable.set(key, entry.size)
      continue
    }
    const path = layout.object(app, sha256, mode)
    const found = look(path, entry)
    if (found === 'sealed' || (found !== 'absent' && (await isUsable(entry, path)))) {
      here.add(sha256)
      usable.set(key, entry.size)
      continue
    }
    objects.push(entry)
    // It is made of the other one, where only that is here.
    const other = { ...entry, mode: mode === '0755' ? '0644' : '0755' } as const
    const otherPath = layout.object(app, sha256, other.mode)
    if (look(otherPath, other) !== 'absent' && (await isUsable(other, otherPath))) here.add(sha256)
    const shard = shardOf(path)
    if (!shards.has(shard)) shards.set(shard, existsSync(shard))
  }
  const isHere = (digest: Sha256) => here.has(digest) || whole.has(digest) || whole.has(`${digest}.x`)
  const missing = new Set(objects.map(({ sha256 }) => sha256).filter((digest) => !isHere(digest)))
  return {
    missing: [...missing],
    damaged: [...damaged],
    lacking: { objects, shards: [...shards.values()].filter((isThere) => !isThere).length },
    wrongSize,
    whole: usable,
  }
}

/**
 * A look, where there is something to look at: the first one that finds nothing asks for all the names beside it, and
 * 24,000 objects of a first push then take 256 calls instead of 48,000.
 */
function lookingAt(): typeof lookAt {
  const listed = new Map<string, ReadonlySet<string>>()
  return (path, content) => {
    const shard = shardOf(path)
    const names = listed.get(shard)
    if (names !== undefined && !names.has(path.slice(shard.length + 1))) return 'absent'
    const look = lookAt(path, content)
    if (look === 'absent' && names === undefined) listed.set(shard, new Set(namesOf(shard)))
    return look
  }
}

function wrongSizeOf({ path, sha256, size }: FileEntry, there: number): Failure {
  return new Failure(
    'manifest_invalid',
    `release.json: ${JSON.stringify(path)}: ${size} bytes; what has the sha256 ${sha256} has ${there}`,
  )
}

function shardOf(path: string): string {
  return path.slice(0, path.lastIndexOf('/'))
}
