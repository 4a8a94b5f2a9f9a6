import { mkdirSync, symlinkSync, unlinkSync } from 'node:fs'
import { dirname } from 'node:path'
import { setImmediate as breathe } from 'node:timers/promises'
import { isErrno } from '../../shared/failure.ts'
import { type Entry, type FileEntry, isFile, isLink } from '../../shared/manifest.ts'
import type { Sha256 } from '../../shared/names.ts'
import { inTurns, pacedBy, whenDue } from '../../shared/turns.ts'
import type { Layout } from '../state/layout.ts'
import { linkObject } from '../state/objects.ts'
import type { Release } from '../state/release-store.ts'
import { removeIfEmpty } from '../state/remove.ts'
import { sharedLinks } from './mend.ts'

// The tree of a release, made of links to objects; not yet in its place.

/** So many of one content are made where there is a turn for others. */
const MANY = 200

/** Makes `tree` of nothing. `turn` is awaited now and then; what it throws ends the work. */
export async function makeTree(
  layout: Layout,
  release: Release,
  tree: string,
  turn: () => Promise<unknown> = breathe,
): Promise<void> {
  mkdirSync(tree, { recursive: true, mode: 0o755 })
  await addEntries(layout, { tree, release, entries: entriesOf(layout, release) }, turn)
}

/** A tree that is made while its contents come, which is done with the last of them. */
export interface GrowingTree {
  /** To be told of each object as soon as it is in the store. */
  stored(sha256: Sha256): void
  /** What it takes of the rest. */
  finish(): Promise<void>
}

export async function growTree(layout: Layout, release: Release, tree: string): Promise<GrowingTree> {
  // Not recursive: on a disk that takes no writes that says ENOENT.
  mkdirIfNone(dirname(tree))
  mkdirIfNone(tree)
  const add = adderTo(layout, release, tree)
  const left = new Set<Entry>()
  const waiting = new Map<Sha256, FileEntry[]>()
  const expect = (entry: Entry) => {
    left.add(entry)
    if (!isFile(entry)) return
    const others = waiting.get(entry.sha256)
    if (others === undefined) waiting.set(entry.sha256, [entry])
    else others.push(entry)
  }
  await pacedBy(breathe, inTurns(entriesOf(layout, release), expect))
  return {
    stored(sha256) {
      const entries = waiting.get(sha256) ?? []
      if (entries.length > MANY) return
      for (const entry of entries) {
        add(entry)
        left.delete(entry)
      }
    },
    finish: () => addEntries(layout, { tree, release, entries: left }, breathe),
  }
}

/**
 * Makes the tree of `to` of what is the tree of `from`, and nothing but that: where they differ, entries are removed and
 * made. The rest is not looked at.
 */
export async function alterTree(layout: Layout, tree: string, { from, to }: { from: Release; to: Release }) {
  await breathe()
  const { gone, fresh } = differencesOf(entriesOf(layout, from), entriesOf(layout, to))
  await breathe()
  const emptied = new Set<string>()
  const due = whenDue(breathe)
  for (const entry of gone) {
    await due()
    const path = `${tree}/${entry.path}`
    if (isFile(entry) || isLink(entry)) unlinkSync(path)
    else emptied.add(path)
    for (let dir = dirname(path); dir !== tree && !emptied.has(dir); dir = dirname(dir)) emptied.add(dir)
  }
  // Those below before those above them.
  for (const dir of [...emptied].sort((a, b) => b.length - a.length)) {
    removeIfEmpty(dir)
    await due()
  }
  await addEntries(layout, { tree, release: to, entries: fresh }, breathe)
}

/**
 * Those that stand in one list only. Both are sorted, so each is gone through once; where they are not (links to shared
 * directories come last), something may be called gone and fresh, which is removed and made again.
 */
function differencesOf(older: Entry[], newer: Entry[]): { gone: Entry[]; fresh: Entry[] } {
  const gone: Entry[] = []
  const fresh: Entry[] = []
  let at = 0
  for (const entry of newer) {
    for (let before = older[at]; before !== undefined && before.path < entry.path; before = older[++at])
      gone.push(before)
    const before = older[at]
    if (before?.path !== entry.path) {
      fresh.push(entry)
      continue
    }
    at++
    if (isSame(before, entry)) continue
    gone.push(before)
    fresh.push(entry)
  }
  return { gone: [...gone, ...older.slice(at)], fresh }
}

async function addEntries(
  layout: Layout,
  { tree, release, entries }: { tree: string; release: Release; entries: Iterable<Entry> },
  turn: () => Promise<unknown>,
): Promise<void> {
  const add = adderTo(layout, release, tree)
  const due = whenDue(turn)
  for (const entry of entries) {
    add(entry)
    await due()
  }
}

/** Makes an entry, and the directories it is in where they are not there yet. */
function adderTo(layout: Layout, { manifest: { app } }: Release, tree: string): (entry: Entry) => void {
  const made = new Set([tree])
  const makeDir = (dir: string): void => {
    if (made.has(dir)) return
    makeDir(dirname(dir))
    mkdirIfNone(dir)
    made.add(dir)
  }
  return (entry) => {
    const path = `${tree}/${entry.path}`
    makeDir(isFile(entry) || isLink(entry) ? dirname(path) : path)
    if (isFile(entry)) linkObject(layout, app, entry, path)
    else if (isLink(entry)) symlinkSync(entry.link, path)
  }
}

/** One call each: a recursive mkdir looks at all above it, every time. */
function mkdirIfNone(dir: string): void {
  try {
    mkdirSync(dir, { mode: 0o755 })
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error
  }
}

function entriesOf(layout: Layout, { id, manifest }: Release): Entry[] {
  return [...manifest.files, ...sharedLinks(layout, layout.treeDir(manifest.app, id), manifest)]
}

function isSame(a: Entry, b: Entry): boolean {
  if (isFile(a)) return isFile(b) && a.sha256 === b.sha256 && a.mode === b.mode
  if (isLink(a)) return isLink(b) && a.link === b.link
  return !isFile(b) && !isLink(b)
}
