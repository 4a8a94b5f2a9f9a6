import { cpSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { run } from './programs.ts'
import { bytesFromSeed } from './seeded.ts'

// What is pushed: trees of installed packages, made once from lock files, and a few that are made up. Cases work on copies.

export type TreeName = 'big' | 'small' | 'tiny' | 'binary' | 'gigabyte' | `files-${number}`

const CACHE = join(import.meta.dirname, '.cache', 'trees')
export const BINARY_FILE = 'blob.bin'
const BINARY_BYTES = 120_000_000
const TINY_FILES = 60
/** About what half of the files of installed packages have at most. */
const MADE_UP_FILE_BYTES = 2_000
const FILES_A_DIR = 50
const GIGABYTE = { files: 8, fileBytes: 2 ** 27 }

/** The tree's directory in the cache; never to be written to. */
export async function tree(name: TreeName): Promise<string> {
  const dir = join(CACHE, name)
  if (existsSync(dir)) return dir
  const making = `${dir}.making`
  rmSync(making, { recursive: true, force: true })
  mkdirSync(making, { recursive: true })
  await make(name, making)
  renameSync(making, dir)
  return dir
}

/** The packages of `trees/bumps`, each in another version than the tree of that name has. */
export async function bumps(): Promise<string> {
  const dir = join(CACHE, 'bumps')
  if (existsSync(dir)) return dir
  const making = `${dir}.making`
  rmSync(making, { recursive: true, force: true })
  mkdirSync(making, { recursive: true })
  await install('bumps', making)
  renameSync(making, dir)
  return dir
}

async function make(name: TreeName, dir: string): Promise<void> {
  switch (name) {
    case 'big':
    case 'small':
      return install(name, dir)
    case 'tiny':
      return madeUp(dir, TINY_FILES)
    case 'binary':
      // As incompressible as a program that was packed, beside a small app.
      cpSync(await tree('small'), dir, { recursive: true })
      return writeFileSync(join(dir, BINARY_FILE), bytesFromSeed(1, BINARY_BYTES))
    case 'gigabyte':
      for (let file = 0; file < GIGABYTE.files; file++) {
        writeFileSync(join(dir, `${file}.bin`), bytesFromSeed(file, GIGABYTE.fileBytes))
      }
      return
    default:
      return madeUp(dir, Number(name.slice('files-'.length)))
  }
}

/** Text that compresses about as well as code does. */
function madeUp(dir: string, files: number): void {
  for (let file = 0; file < files; file++) {
    const below = join(dir, 'lib', String(Math.floor(file / FILES_A_DIR)))
    mkdirSync(below, { recursive: true })
    const half = bytesFromSeed(file, MADE_UP_FILE_BYTES / 4).toString('hex')
    writeFileSync(join(below, `${file}.js`), `${half}\n${half}\n`)
  }
}

async function install(name: 'big' | 'small' | 'bumps', dir: string): Promise<void> {
  for (const file of ['package.json', 'package-lock.json']) {
    cpSync(join(import.meta.dirname, 'trees', name, file), join(dir, file))
  }
  // No scripts: what is measured is files, and nothing foreign runs here.
  await run(['npm', 'ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'], { cwd: dir })
}

export interface TreeSize {
  files: number
  bytes: number
}

export function sizeOf(dir: string): TreeSize {
  const files = filesIn(dir)
  return { files: files.length, bytes: files.reduce((sum, file) => sum + statSync(join(dir, file)).size, 0) }
}

/** Paths of all regular files, sorted. */
export function filesIn(dir: string): string[] {
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(dir.length + 1))
    .sort()
}
