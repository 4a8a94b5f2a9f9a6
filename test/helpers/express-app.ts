import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { constants, cp, mkdir, mkdtemp, readFile, rename, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { promisify } from 'node:util'

const FIXTURE = join(import.meta.dirname, '../fixtures/express-app')
/** A cold npm cache over a slow line. */
const INSTALL_TIMEOUT_MS = 5 * 60_000

/**
 * A project of its own to push: a copy of the fixture with its packages installed (about 3,950 files), removed after
 * the test. `GET /` answers `Shop <text of VERSION> <TARMAC_RELEASE>`, `GET /health` 200.
 */
export function expressApp(t: TestContext): Promise<string> {
  return withPackages(t, FIXTURE)
}

/** A copy of any directory that has a package-lock.json, with the packages of that lock; removed after the test. */
export async function withPackages(t: TestContext, fixture: string): Promise<string> {
  const installed = await installedOnce(fixture)
  const dir = await mkdtemp(join(tmpdir(), 'tarmac-shop-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  await cp(installed, dir, { recursive: true, verbatimSymlinks: true, mode: constants.COPYFILE_FICLONE })
  await cp(fixture, dir, { recursive: true }) // the cache knows the lock only; the rest may have changed since
  return dir
}

/** The packages of the fixture's lock in a directory that is kept, and is there whole or not at all. */
async function installedOnce(fixture: string): Promise<string> {
  const lock = await readFile(join(fixture, 'package-lock.json'))
  const key = createHash('sha256').update(lock).digest('hex').slice(0, 16)
  const cache = join(tmpdir(), `tarmac-express-app-${process.getuid?.()}`)
  const dir = join(cache, key)
  if (existsSync(dir)) return dir
  await mkdir(cache, { recursive: true, mode: 0o700 })
  const fresh = await mkdtemp(join(cache, 'new-'))
  try {
    for (const file of ['package.json', 'package-lock.json']) await cp(join(fixture, file), join(fresh, file))
    await promisify(execFile)('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'], {
      cwd: fresh,
      timeout: INSTALL_TIMEOUT_MS,
    })
    await rename(fresh, dir).catch((error: unknown) => {
      if (!existsSync(dir)) throw error // else another test file was first, with the same
    })
  } finally {
    await rm(fresh, { recursive: true, force: true })
  }
  return dir
}
