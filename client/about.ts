import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import * as v from 'valibot'
import type { Manifest } from '../shared/manifest.ts'
import { shortLine } from '../shared/service-spec.ts'
import type { Context } from './context.ts'
import type { Project } from './project.ts'
import { runProgram } from './run.ts'

// What is said of a release besides what it is made of.

/** What it says of commit, branch and changes; nothing that takes long besides. */
const GIT_STATUS = ['status', '--porcelain=v2', '--branch', '--no-ahead-behind', '--untracked-files=no']

/** What package.json and git say, as far as they are there. Never rejects. */
export async function versionAndSource(
  { surroundings }: Context,
  project: Project,
  signal: AbortSignal,
): Promise<Pick<Manifest, 'version' | 'source'>> {
  const version = project.head.version ?? packageVersion(project.dir)
  const git = (...args: string[]) =>
    runProgram(['git', '--no-optional-locks', '-C', project.dir, ...args], { env: surroundings.env, signal }).then(
      ({ exit, stdout }) => (exit === 0 ? stdout : undefined),
      () => undefined,
    )
  const status = await git(...GIT_STATUS)
  // With a damaged index it can tell the commit alone: then all may have changed.
  const commit = status === undefined ? (await git('rev-parse', '--verify', 'HEAD'))?.trim() : undefined
  const source = status === undefined ? commit && { commit, dirty: true } : sourceOf(status)
  return { ...(version === undefined ? {} : { version }), ...(source ? { source } : {}) }
}

/** Of what git-status(1) says in its porcelain format 2: first headers, then a line a change. None before the first commit. */
function sourceOf(status: string): Manifest['source'] {
  const lines = status.split('\n').filter((line) => line !== '')
  const header = (name: string) => lines.find((line) => line.startsWith(`# ${name} `))?.slice(name.length + 3)
  const commit = header('branch.oid')
  if (commit === undefined || commit === '(initial)') return undefined
  const branch = header('branch.head')
  return {
    commit,
    // Of what git lets a branch be named, a manifest cannot say all.
    ...(branch === '(detached)' || !v.is(shortLine, branch) ? {} : { branch }),
    dirty: lines.some((line) => !line.startsWith('# ')),
  }
}

function packageVersion(dir: string): string | undefined {
  try {
    const { version } = JSON.parse(readFileSync(join(dir, 'package.json'), 'utf8')) as { version?: unknown }
    return v.is(shortLine, version) ? version : undefined
  } catch {
    // No package.json, or a broken one: a release needs no version.
    return undefined
  }
}
