import { statSync } from 'node:fs'
import { basename, dirname, resolve } from 'node:path'
import prettyBytes from 'pretty-bytes'
import { Failure, isErrno } from '../shared/failure.ts'
import {
  contentOfText,
  type Manifest,
  normaliseManifest,
  type Signed,
  writeManifest,
  writeManifestWith,
} from '../shared/manifest.ts'
import { textWith } from '../shared/manifest-text.ts'
import type { AppName, Sha256 } from '../shared/names.ts'
import { versionAndSource } from './about.ts'
import { bundleSource } from './bundle-source.ts'
import { type Context, openSigning, projectOf, type Signing } from './context.ts'
import { PROJECT_FILE } from './ignore.ts'
import { startProgress } from './progress.ts'
import { findProjectFile, type Project, parseProject, readProject } from './project.ts'
import { runBuild } from './run.ts'
import type { Source } from './source.ts'
import { treeSource } from './tree-source.ts'

export interface Release {
  signed: Signed
  signatures: string[]
}

/** What would be signed at this moment, less what git and package.json say. */
export interface Draft {
  text: string
  content: Sha256
}

interface Making {
  /** A host has taken a release of the same paths, so they need no check. */
  areFilesChecked: boolean
}

/** What is to be pushed, and where its contents are. */
export interface Prepared {
  app: AppName
  /** Written when it is first asked for. A bundle has none: its signatures are for the host to judge, also when it runs. */
  draft: (() => Draft) | undefined
  /** Made and signed when it is first asked for: a host that runs it already needs no signature of anybody. For all hosts the same. */
  release(how?: Making): Promise<Release>
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
  const choose = once(() => openSigning(context))
  const begin = async (project: Project) => meanwhile?.({ project, app: project.app, signing: await choose() })
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
    const signing = await choose()
    const files = source.entries
    const head = (): Manifest => ({ format: 1, ...project.head, created: now(), files })
    const headNow = normaliseManifest({ ...head(), files: [] })
    const filesText = once(() => JSON.stringify(files))
    const draft = once((): Draft => {
      const text = textWith(headNow, filesText())
      return { text, content: contentOfText(text) }
    })
    const make = once(async ({ areFilesChecked }: Making): Promise<Release> => {
      const value = { ...head(), ...(await about) }
      const signed = areFilesChecked ? writeManifestWith(value, filesText()) : writeManifest(value)
      return { signed, signatures: [await signing.signRelease(signed.text)] }
    })
    return {
      app: project.app,
      draft,
      release: (how = { areFilesChecked: false }) => make(how),
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
    draft: undefined,
    release: async () => ({ signed, signatures }),
    source,
    project: projectOf(context),
    // For the connection alone.
    signing: await openSigning(context),
  }
}

/** What it gives the first time it gives always. */
function once<A extends unknown[], T>(work: (...args: A) => T): (...args: A) => T {
  let done: { value: T } | undefined
  return (...args) => {
    done ??= { value: work(...args) }
    return done.value
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
