import { readFileSync, readlinkSync } from 'node:fs'
import { Failure, isErrno, reasonOf } from '../../shared/failure.ts'
import { type AppName, isReleaseId, type ReleaseId } from '../../shared/names.ts'
import type { Variables } from '../../shared/variables.ts'
import { reach } from '../fault.ts'
import { linkWhole, writeWhole } from './disk.ts'
import type { Layout } from './layout.ts'
import { currentRelease, namesIn, releasesOn } from './release-store.ts'
import { removeTree } from './remove.ts'

// An app's environments: each revision is a file that is written once and holds all of it. Which one a release runs
// with is a link named after the release, and `newest` is the one that a push takes. All of it is on the disk, so that
// a rollback finds its environment also when the ledger is lost.

/** One revision: a whole environment. */
export interface Environment {
  /** 0 for the empty one of an app that was never given any. */
  revision: number
  at: string | null
  by: string | null
  variables: Variables
}

const NONE: Environment = Object.freeze({ revision: 0, at: null, by: null, variables: {} })
const PRIVATE = 0o600

/** What a release runs with, or would. */
export function environmentOfRelease(layout: Layout, app: AppName, id: ReleaseId): Environment {
  return readEnvironment(layout, app, revisionOf(layout, app, id))
}

/** The revision a release last ran healthy with; the newest for one that never did. */
export function revisionOf(layout: Layout, app: AppName, id: ReleaseId): number {
  return linkedRevision(layout.releaseEnvLink(app, id)) ?? newestRevision(layout, app)
}

export function newestEnvironment(layout: Layout, app: AppName): Environment {
  return readEnvironment(layout, app, newestRevision(layout, app))
}

/** What a push takes: the last revision that came into force, not one that the release did not become healthy with. */
export function newestRevision(layout: Layout, app: AppName): number {
  const current = currentRelease(layout, app)
  const newest = linkedRevision(layout.newestEnvLink(app)) ?? 0
  // An agent that was killed between the two links of one change has moved that of the release only.
  return current === null ? newest : Math.max(newest, linkedRevision(layout.releaseEnvLink(app, current)) ?? 0)
}

/** The highest number that was ever given and is still here, in force or not. */
export function highestRevision(layout: Layout, app: AppName): number {
  return Math.max(0, ...revisionsOn(layout, app))
}

/** Writes the next revision. It is in force for nobody yet. */
export async function addRevision(
  layout: Layout,
  app: AppName,
  { by, variables }: { by: string; variables: Variables },
): Promise<Environment> {
  const revision = highestRevision(layout, app) + 1
  const at = new Date().toISOString()
  await writeWhole(layout.envRevision(app, revision), JSON.stringify({ at, by, variables }), { mode: PRIVATE })
  return { revision, at, by, variables }
}

export async function bindRevision(layout: Layout, app: AppName, id: ReleaseId, revision: number): Promise<void> {
  await linkWhole(layout.releaseEnvLink(app, id), String(revision))
  reach('env.bound')
}

export async function setNewestRevision(layout: Layout, app: AppName, revision: number): Promise<void> {
  await linkWhole(layout.newestEnvLink(app), String(revision))
}

/** Removes what no release on the disk can need again: its values are secrets that nobody looks after any longer. */
export async function pruneRevisions(layout: Layout, app: AppName): Promise<void> {
  const onDisk = new Set(releasesOn(layout, app))
  const stale = namesIn(layout.envDir(app)).filter((name) => isReleaseId(name) && !onDisk.has(name))
  for (const id of stale) await removeTree(layout.releaseEnvLink(app, id as ReleaseId))
  const needed = new Set([...onDisk].map((id) => revisionOf(layout, app, id)))
  needed.add(newestRevision(layout, app)).add(linkedRevision(layout.newestEnvLink(app)) ?? 0)
  // The last number is kept, in force or not, so that no number ever means two environments.
  needed.add(highestRevision(layout, app))
  for (const revision of revisionsOn(layout, app)) {
    if (!needed.has(revision)) await removeTree(layout.envRevision(app, revision))
  }
}

function revisionsOn(layout: Layout, app: AppName): number[] {
  return namesIn(layout.envDir(app))
    .filter((name) => /^[1-9]\d{0,8}$/.test(name))
    .map(Number)
}

/** Throws `env_invalid` when its file is gone or damaged. */
export function readEnvironment(layout: Layout, app: AppName, revision: number): Environment {
  if (revision === 0) return NONE
  const file = layout.envRevision(app, revision)
  try {
    return { revision, ...parseEnvironment(JSON.parse(readFileSync(file, 'utf8'))) }
  } catch (cause) {
    // Its content is in no message: JSON.parse would quote from it.
    const why = cause instanceof SyntaxError ? 'it is damaged' : reasonOf(cause)
    throw new Failure('env_invalid', `read env of ${app}: revision ${revision}: ${why}`, {
      hint: 'another release may have a whole one: tarmac releases; or set it anew: tarmac env set',
    })
  }
}

// By hand: a schema library leaves out names such as `constructor`, which are variables like any other.
function parseEnvironment(value: unknown): Omit<Environment, 'revision'> {
  const { at, by, variables } = value as Record<keyof Environment, unknown>
  const entries = Object.entries(variables as Record<string, unknown>)
  if (typeof at !== 'string' || typeof by !== 'string') throw new SyntaxError('no at, or no by')
  if (entries.some(([, text]) => typeof text !== 'string')) throw new SyntaxError('a value that is no text')
  return { at, by, variables: Object.fromEntries(entries) as Variables }
}

function linkedRevision(link: string): number | undefined {
  let target: string
  try {
    target = readlinkSync(link)
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined
    throw error
  }
  if (/^\d{1,9}$/.test(target)) return Number(target)
  throw new Failure('env_invalid', `read ${link}: it names no revision, but ${JSON.stringify(target)}`)
}
