import { existsSync, readdirSync, rmSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { renameWholeSync } from './disk.ts'

// A ledger that cannot be used is no reason to delete it: somebody may still read in it what we cannot.

/** The oldest, which holds the longest history, and the newest two. More are copies of rebuilt ones. */
const MAX_KEPT = 3
/** What SQLite puts beside a database: newer rows may stand there alone. */
const BESIDE = ['', '-wal', '-shm']

/** Renames the ledger, and what lies beside it, to `<file>.damaged-<time>`. Gives that name. */
export function setAside(file: string, now = new Date()): string {
  const stamp = now.toISOString().replace(/[-:]|\.\d+/g, '')
  const free = (name: string) => BESIDE.every((suffix) => !existsSync(`${name}${suffix}`))
  let name = `${file}.damaged-${stamp}`
  for (let again = 2; !free(name); again++) name = `${file}.damaged-${stamp}-${again}`
  // The ledger first: without its -wal it might open, as an older one.
  for (const suffix of BESIDE)
    if (existsSync(`${file}${suffix}`)) renameWholeSync(`${file}${suffix}`, `${name}${suffix}`)
  for (const one of damagedLedgers(file).slice(1, 1 - MAX_KEPT)) {
    for (const suffix of BESIDE) rmSync(`${one}${suffix}`, { force: true })
  }
  return name
}

/** Oldest first. */
export function damagedLedgers(file: string): string[] {
  const prefix = `${basename(file)}.damaged-`
  const names = readdirSync(dirname(file)).filter((name) => name.startsWith(prefix))
  return [...new Set(names.map((name) => name.replace(/-(wal|shm)$/, '')))]
    .sort()
    .map((name) => `${file}${name.slice(basename(file).length)}`)
}
