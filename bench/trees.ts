import { cpSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { run } from './programs.ts'
import { bytesFromSeed } from './seeded.ts'

// What is pushed: trees of installed packages, made once from lock files, and a few that are made up. Cases work on copies.

export type TreeName = 'big' | 'small' | 'tiny' | 'binary'

const CACHE = join(import.meta.dirname, '.cache', 'trees')
export const BINARY_FILE = 'blob.bin'
const BINARY_BYTES = 120_000_000
const TINY_FILES = 60
const TINY_FILE_BYTES = 2_000

/** The tree's directory in the cache; never to be written to. */
export async function tree(name: TreeName): Promise<string> {
  const dir = join(CACHE, name)
  if (existsSync(dir)) return dir
  const making = `${dir}.making`
  rmSync(making, { recursive: true, force: true })
  mkdirSync(making, { recursive: true })
  await MAKERS[name](making)
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

const MAKERS: Record<TreeName, (dir: string) => Promise<void>> = {
  big: (dir) => install('big', dir),
  small: (dir) => install('small', dir),
  tiny: async (dir) => {
    for (let index = 0; index < TINY_FILES; index++) {
      writeFileSync(join(dir, `${index}.js`), bytesFromSeed(index, TINY_FILE_BYTES).toString('base64'))
    }
  },
  // As incompressible as a program that was packed, beside a small app.
  binary: async (dir) => {
    cpSync(await tree('small'), dir, { recursive: true })
    writeFileSync(join(dir, BINARY_FILE), bytesFromSeed(1, BINARY_BYTES))
  },
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
