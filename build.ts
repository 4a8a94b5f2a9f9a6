// `npm run build`: each program becomes one executable file that runs alone, wherever it is copied.
//
// Plain and readable on purpose, after measuring: minifying changes nothing in start-up time (57 ms either way for
// `--version`), and Node's compile cache cannot help a single file, which is compiled before its first line can turn the
// cache on; what counts is that import() stays lazy (57 ms against 127 ms with every package loaded up front). The
// cache's default place in /tmp would also let any local user hand bytecode to an agent that runs as root.
import { access, chmod, mkdir, rename, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { build as bundle, type Message } from 'esbuild'
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
}

export const PROGRAMS: readonly Program[] = [
  { entry: 'client/main.ts', outfile: 'dist/tarmac' },
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

async function bundledText(root: string, { entry, outfile }: Program): Promise<string> {
  await access(join(root, entry)).catch((cause: unknown) => {
    throw new Error(`build ${outfile}: its entry ${entry} is missing`, { cause })
  })
  const { warnings, outputFiles } = await bundle({
    absWorkingDir: root,
    entryPoints: [entry],
    outfile,
    ...BUNDLED,
    banner: { js: prelude(basename(outfile)) },
    define: {
      __TARMAC_VERSION__: JSON.stringify(manifest.version),
      __TARMAC_PRELOAD__: JSON.stringify(preloadText),
      __TARMAC_HASH_WORKER__: JSON.stringify(await hashWorkerText()),
    },
    logLevel: 'silent', // what it has to say is in what it throws, and below
  })
  const [output] = outputFiles
  const complaints = complaintsOf(warnings)
  if (complaints.length > 0 || output === undefined) throw new Error(`build ${outfile}: ${complaints.join('\n')}`)
  return output.text
}

function complaintsOf(warnings: Message[]): string[] {
  return warnings
    .filter(
      ({ id, location }) =>
        id !== 'empty-import-meta' || !ASK_WHERE_THEY_LIE.some((file) => location?.file.endsWith(file)),
    )
    .map(({ location, text }) => `${location?.file}:${location?.line}: ${text}`)
}

/** A thread has a program of its own; which runs alone too. */
async function hashWorkerText(): Promise<string> {
  const entry = 'client/hash-worker.ts'
  const { warnings, outputFiles } = await bundle({
    ...BUNDLED,
    absWorkingDir: import.meta.dirname,
    entryPoints: [entry],
    logLevel: 'silent',
  })
  const [output] = outputFiles
  const complaints = complaintsOf(warnings)
  if (complaints.length > 0 || output === undefined) throw new Error(`build ${entry}: ${complaints.join('\n')}`)
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

if (import.meta.main) {
  await build(import.meta.dirname, PROGRAMS).catch((error: unknown) => {
    console.error(error instanceof Error ? error.message : error)
    process.exitCode = 1
  })
}
