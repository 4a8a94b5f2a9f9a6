// `npm run build`: each program becomes one executable file that runs alone, wherever it is copied.
//
// Plain and readable on purpose: minifying takes 8 ms off a start of 70. What counts is that import() stays lazy (57 ms
// against 127 with every package loaded up front), and that V8 need not compile again what it compiled before: for that
// the client's program is started by client/start.ts. The agent's is not: it is started once a boot, runs as root, and
// shall not execute anything that lies in a cache.
import { access, chmod, mkdir, rename, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { type BuildOptions, build as bundle } from 'esbuild'
import { preloadText } from './agent/preload/preload.ts'
import manifest from './package.json' with { type: 'json' }

/** 24.6 is the oldest with everything we use: node:sqlite, zstd with a dictionary, exportKeyingMaterial, import.meta.main. */
const OLDEST_NODE = { major: 24, minor: 6 }
/**
 * The oldest Node that can still parse the file and so say that it is too old; 18 is what Ubuntu 24.04 installs.
 * Only syntax is lowered (`using`, a few regular expressions); what is called stays Node 24's.
 */
const OLDEST_PARSER = 'node18'
/** Know where they lie only from source; in the bundle a text is put in, and the branch that asks is never taken. */
const ASK_WHERE_THEY_LIE = ['agent/preload/preload.ts', 'client/hash-work.ts']
const PROGRAM_MODE = 0o755
const BUNDLED = {
  bundle: true,
  write: false,
  platform: 'node',
  target: OLDEST_PARSER,
  // The one format in which the version check can run before anything is loaded: ES imports are fetched first.
  format: 'cjs',
} as const

export interface Program {
  /** Relative to `root`: `client/main.ts`. */
  entry: string
  /** Relative to `root`: `dist/tarmac`; its last part is the program's name. */
  outfile: string
  /** Runs instead of the program, which follows it as a comment. */
  starter?: string
}

export const PROGRAMS: readonly Program[] = [
  { entry: 'client/main.ts', outfile: 'dist/tarmac', starter: 'client/start.ts' },
  { entry: 'agent/main.ts', outfile: 'dist/tarmac-agent' },
]

/**
 * Bundles each program into its file, mode 0755. Rejects, having written nothing at all, when an entry is missing or
 * esbuild has an error or a warning: its warnings name code that would break only when it runs (`import.meta.url` is
 * empty in the output format, for one).
 */
export async function build(root: string, programs: readonly Program[]): Promise<void> {
  const built = await Promise.all(
    programs.map(async (program) => ({ file: join(root, program.outfile), text: await bundledText(root, program) })),
  )
  for (const { file, text } of built) await install(file, text)
}

async function install(outfile: string, text: string): Promise<void> {
  await mkdir(dirname(outfile), { recursive: true })
  // An extension-less file is read as the nearest package.json says, and ours says "module". Copied alone it has none
  // near and is CommonJS by default.
  await writeFile(join(dirname(outfile), 'package.json'), '{ "type": "commonjs" }\n')
  // Renamed into place: a program that runs right now keeps the file it was started from.
  await writeFile(`${outfile}.new`, text)
  await chmod(`${outfile}.new`, PROGRAM_MODE)
  await rename(`${outfile}.new`, outfile)
}

async function bundledText(root: string, program: Program): Promise<string> {
  const { entry, outfile, starter } = program
  const name = basename(outfile)
  await access(join(root, entry)).catch((cause: unknown) => {
    throw new Error(`build ${outfile}: its entry ${entry} is missing`, { cause })
  })
  const text = await textOf(outfile, {
    absWorkingDir: root,
    entryPoints: [entry],
    define: {
      __TARMAC_VERSION__: JSON.stringify(manifest.version),
      __TARMAC_PRELOAD__: JSON.stringify(preloadText),
      // A thread has a program of its own; which runs alone too.
      __TARMAC_HASH_WORKER__: JSON.stringify(await partOf(outfile, 'client/hash-worker.ts')),
    },
  })
  return starter === undefined ? `${prelude(name)}\n${text}` : await startedText(name, outfile, starter, text)
}

const PROGRAM_BEGINS = '\n/* The program:\n'
/** Stands for the end of a comment in the program: a program has no such character. */
const COMMENT_END = '*\u0001/'

async function startedText(name: string, outfile: string, starter: string, program: string): Promise<string> {
  if (program.includes(COMMENT_END)) throw new Error(`build ${outfile}: it has ${JSON.stringify(COMMENT_END)}`)
  const comment = program.replaceAll('*/', COMMENT_END)
  const head = await partOf(outfile, starter, {
    __TARMAC_PROGRAM_BEGINS__: JSON.stringify(PROGRAM_BEGINS),
    __TARMAC_PROGRAM_LENGTH__: JSON.stringify(comment.length),
    __TARMAC_COMMENT_END__: JSON.stringify(COMMENT_END),
  })
  return `${prelude(name)}\n${filePrelude(name)}\n${head}${PROGRAM_BEGINS}${comment}*/\n`
}

/** Of ours, wherever the program's own files lie. */
function partOf(outfile: string, entry: string, define: Record<string, string> = {}): Promise<string> {
  return textOf(outfile, { absWorkingDir: import.meta.dirname, entryPoints: [entry], define })
}

async function textOf(outfile: string, options: BuildOptions): Promise<string> {
  const { warnings, outputFiles } = await bundle({
    ...BUNDLED,
    ...options,
    outfile,
    logLevel: 'silent', // what it has to say is in what it throws, and below
  })
  const complaints = warnings
    .filter(
      ({ id, location }) =>
        id !== 'empty-import-meta' || !ASK_WHERE_THEY_LIE.some((file) => location?.file.endsWith(file)),
    )
    .map(({ location, text }) => `${location?.file}:${location?.line}: ${text}`)
  const [output] = outputFiles ?? []
  if (complaints.length > 0 || output === undefined) throw new Error(`build ${outfile}: ${complaints.join('\n')}`)
  return output.text
}

/** Kept to words every Node since 0.10 knows. Exit code 2: the machine is not set up, as for any wrong usage. */
function prelude(name: string): string {
  const { major, minor } = OLDEST_NODE
  return `#!/usr/bin/env node
var parts = process.versions.node.split('.');
if (parts[0] < ${major} || (parts[0] == ${major} && parts[1] < ${minor})) {
  console.error('${name} needs Node ${major}.${minor} or newer, this is ' + process.version);
  process.exit(2);
}`
}

/** What begins with this reads its own file. */
function filePrelude(name: string): string {
  return `if (!require('path').isAbsolute(__filename)) {
  console.error('${name} must be started from its file, not from a pipe');
  process.exit(2);
}`
}

if (import.meta.main) {
  await build(import.meta.dirname, PROGRAMS).catch((error: unknown) => {
    console.error(error instanceof Error ? error.message : error)
    process.exitCode = 1
  })
}
