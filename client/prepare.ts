import { readFileSync, statSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import prettyBytes from 'pretty-bytes'
import * as v from 'valibot'
import { Failure, isErrno } from '../shared/failure.ts'
import { contentOf, type Manifest, normaliseManifest, type Signed, writeManifest } from '../shared/manifest.ts'
import type { AppName, Sha256 } from '../shared/names.ts'
import { shortLine } from '../shared/service-spec.ts'
import { bundleSource } from './bundle-source.ts'
import { type Context, openSigning, projectOf, type Signing } from './context.ts'
import { PROJECT_FILE } from './ignore.ts'
import { startProgress } from './progress.ts'
import { findProjectFile, type Project, parseProject, readProject } from './project.ts'
import { runBuild, runProgram } from './run.ts'
import type { Source } from './source.ts'
import { treeSource } from './tree-source.ts'

/** What it says of commit, branch and changes; nothing that takes long besides. */
const GIT_STATUS = ['status', '--porcelain=v2', '--branch', '--no-ahead-behind', '--untracked-files=no']

export interface Release {
  signed: Signed
  signatures: string[]
}

/** What is to be pushed, and where its contents are. */
export interface Prepared {
  app: AppName
  /** Digest of what it is made of. A bundle has none: its signatures are for the host to judge, also when it runs. */
  content: Sha256 | undefined
  /** Made and signed when it is first asked for: a host that runs it already needs no signature of anybody. */
  release(): Promise<Release>
  source: Source
  project: Project | undefined
  signing: Signing
}

/** What is known of a directory before its files are looked at. */
export type Planned = Pick<Prepared, 'app' | 'signing'> & { project: Project }

/**
 * Build, walk and hash; or take what was packed and signed before. Close the source when done. `meanwhile`: with a
 * directory, done between the build and the walk; what it begins goes on while the files are looked at.
 */
export async function prepare(
  context: Context,
  path: string | undefined,
  meanwhile?: (planned: Planned) => Promise<void>,
): Promise<Prepared> {
  const kind = path === undefined ? 'directory' : kindOf(path)
  if (kind === 'bundle' && path !== undefined) return preparedBundle(context, path)
  let chosen: Promise<Signing> | undefined
  const chooseOnce = () => (chosen ??= openSigning(context))
  const begin = async (project: Project) => meanwhile?.({ project, app: project.app, signing: await chooseOnce() })
  // Who does not need what git says does not wait for it.
  const unneeded = new AbortController()
  const opening =
    path === undefined || kind === 'directory'
      ? openDirectory(context, path, { signal: unneeded.signal, begin })
      : openArchive(context, path, unneeded.signal)
  const { project, source, about } = await opening.catch((error: unknown) => {
    unneeded.abort()
    throw error
  })
  const close = () => {
    unneeded.abort()
    source.close()
  }
  try {
    refuseOther(context, project.app)
    for (const warning of source.warnings) context.print.warn(warning)
    const signing = await chooseOnce()
    const files = source.entries
    const head = (): Manifest => ({ format: 1, ...project.head, created: now(), files })
    let made: Promise<Release> | undefined
    const make = async (): Promise<Release> => {
      const signed = writeManifest({ ...head(), ...(await about) })
      return { signed, signatures: [await signing.signRelease(signed.text)] }
    }
    return {
      app: project.app,
      content: contentOf({ ...normaliseManifest({ ...head(), files: [] }), files }),
      release: () => (made ??= make()),
      source: { ...source, close },
      project,
      signing,
    }
  } catch (error) {
    close()
    throw error
  }
}

async function preparedBundle(context: Context, path: string): Promise<Prepared> {
  const source = await bundleSource(path)
  if (!source.signed) throw new Failure('bundle_malformed', `read ${path}: no signed release.json in it`)
  const { signed, signatures } = source.signed
  const { app } = signed.manifest
  refuseOther(context, app)
  return {
    app,
    content: undefined,
    release: async () => ({ signed, signatures }),
    source,
    project: projectOf(context),
    // For the connection alone.
    signing: await openSigning(context),
  }
}

function now(): string {
  return new Date().toISOString().replace(/\.\d+Z$/, 'Z')
}

function kindOf(path: string): 'directory' | 'archive' | 'bundle' {
  try {
    if (statSync(path).isDirectory()) return 'directory'
  } catch (cause) {
    if (!isErrno(cause, 'ENOENT', 'ENOTDIR')) throw cause
    throw new Failure('usage', `push ${JSON.stringify(path)}: there is no such file or directory`, { cause })
  }
  if (path.endsWith('.tarmac')) return 'bundle'
  if (/\.(?:tar|tgz|tar\.gz|tar\.zst|tzst)$/.test(path)) return 'archive'
  throw new Failure('usage', `push ${JSON.stringify(path)}: is none of a directory, a .tar.gz and a .tarmac bundle`)
}

interface Opened {
  project: Project
  source: Source
  /** What is said of it besides. Never rejects. */
  about: ReturnType<typeof versionAndSource>
}

async function openDirectory(
  context: Context,
  path: string | undefined,
  { signal, begin }: { signal: AbortSignal; begin: (project: Project) => Promise<void> },
): Promise<Opened> {
  const { options, cwd, surroundings, print } = context
  const file = options.config ?? (path === undefined ? undefined : projectFileIn(path)) ?? findProjectFile(cwd)
  if (file === undefined) {
    throw new Failure('config_missing', `find ${PROJECT_FILE}: there is none in ${path ?? cwd} or above it`, {
      hint: 'make one: tarmac init',
    })
  }
  const project = readProject(file)
  refuseOther(context, project.app)
  const { command, include, exclude } = project.build
  if (command !== undefined) {
    print.note(`build  ${command}`)
    await runBuild(command, { env: surroundings.env, cwd: project.dir, quiet: print.quiet })
  }
  // git works while this process looks.
  const about = versionAndSource(context, project, signal)
  await begin(project)
  const progress = startProgress(print, 'looking at the files')
  try {
    const source = await treeSource(resolve(path ?? project.dir), {
      cacheDir: surroundings.cacheDir,
      shared: project.head.shared,
      ...(include === undefined ? {} : { include }),
      ...(exclude === undefined ? {} : { exclude }),
      onProgress: ({ files, totalFiles, bytes, totalBytes }) =>
        progress.say(`hashing ${files} of ${totalFiles} files, ${prettyBytes(bytes)} of ${prettyBytes(totalBytes)}`),
    })
    return { project, source, about }
  } finally {
    progress.end()
  }
}

/** Throws `usage` when the one that was asked for is another. */
function refuseOther({ options }: Context, app: AppName): void {
  if (options.app === undefined || options.app === app) return
  throw new Failure('usage', `--app ${options.app}: this release is of the app ${app}`)
}

function projectFileIn(dir: string): string | undefined {
  const found = findProjectFile(dir)
  return found !== undefined && dirname(found) === resolve(dir) ? found : undefined
}

async function openArchive(context: Context, path: string, signal: AbortSignal): Promise<Opened> {
  const progress = startProgress(context.print, `reading ${basename(path)}`)
  try {
    // Loaded only here: reading foreign archives is rare, and needs the whole of node-tar.
    const { archiveSource } = await import('./archive-source.ts')
    const source = await archiveSource(path, { tmpDir: context.surroundings.tmpDir })
    const named = context.options.config === undefined ? undefined : readProject(context.options.config)
    const inside =
      source.projectToml === undefined
        ? undefined
        : parseProject(source.projectToml, { name: `${path}: ${PROJECT_FILE}`, dir: context.cwd })
    const project = named ?? inside ?? projectOf(context)
    if (project) return { project, source, about: versionAndSource(context, project, signal) }
    source.close()
    throw new Failure('config_missing', `find ${PROJECT_FILE}: none in ${path}, here or above`, {
      hint: 'name one: --config FILE',
    })
  } finally {
    progress.end()
  }
}

async function versionAndSource(
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
