import { existsSync, statSync } from 'node:fs'
import { basename } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { pathToFileURL } from 'node:url'
import { Failure, reasonOf } from '../../shared/failure.ts'
import { setAside } from './ledger-aside.ts'
import { inTransaction } from './ledger-row.ts'
import { Damaged, migrate, openDatabase, quickCheck, tablesOf } from './ledger-schema.ts'

// An agent that cannot use its ledger still has apps to look after. So this always gives one: the file; a new one in the
// place of a damaged one, which is kept; or, where nothing can be written, a copy in memory.

/** https://www.sqlite.org/rescode.html: a statement of ours does not fit it; malformed; no database; shorter than it says. */
const DAMAGE: ReadonlySet<unknown> = new Set([1, 11, 26, 522])

/** One page of the smallest size there is: no database is shorter. */
const MIN_BYTES = 512

export interface OpenedLedger {
  db: DatabaseSync
  beginsChain: boolean
  /** Why the ledger begins anew, if it does. */
  loss: string | undefined
  /** Why nothing can be written; what is told to this ledger is then forgotten with the process. */
  trouble: string | undefined
}

/** Throws only `config_invalid`, for a ledger that a newer agent wrote. */
export function openAnyway(file: string): OpenedLedger {
  const name = basename(file)
  try {
    const size = sizeOf(file)
    if (size === 0 && existsSync(`${file}-wal`)) setAside(file)
    // SQLite takes the first bytes of one for an empty one, and writes over them.
    if (size > 0 && size < MIN_BYTES) throw new Damaged(`it has ${size} bytes`)
    const opened = openDatabase(file)
    const loss = size > 0 ? undefined : `${name} was missing or empty`
    return { ...opened, loss, trouble: undefined }
  } catch (error) {
    if (error instanceof Failure) throw error
    if (!isDamage(error)) return openCopy(file, reasonOf(error))
    return openNew(file, reasonOf(error))
  }
}

/** All rows of one ledger into another, which is a new one. */
export function copyRows(from: DatabaseSync, file: string): void {
  from.prepare('ATTACH DATABASE ? AS file').run(file)
  try {
    inTransaction(from, () => {
      for (const table of tablesOf(from)) from.exec(`INSERT INTO file.${table} SELECT * FROM main.${table}`)
    })
  } finally {
    from.exec('DETACH DATABASE file')
  }
}

/** A read-only disk shows at a commit, and not before: this is one that changes nothing. */
export function whyNotWritten(db: DatabaseSync): string | undefined {
  try {
    const { user_version } = db.prepare('PRAGMA user_version').get() as { user_version: number }
    db.exec(`PRAGMA user_version = ${user_version}`)
    return undefined
  } catch (error) {
    return reasonOf(error)
  }
}

function openNew(file: string, why: string): OpenedLedger {
  const loss = `${basename(file)} was damaged (${why})`
  try {
    const kept = setAside(file)
    return { ...openDatabase(file), loss: `${loss} and is kept as ${basename(kept)}`, trouble: undefined }
  } catch (error) {
    const db = new DatabaseSync(':memory:')
    migrate(db, 'the one in memory')
    return { db, beginsChain: false, loss, trouble: reasonOf(error) }
  }
}

function openCopy(file: string, trouble: string): OpenedLedger {
  const copy = copyOf(file)
  const loss = copy === undefined ? `${basename(file)} cannot be read` : undefined
  const db = copy ?? new DatabaseSync(':memory:')
  migrate(db, 'the copy in memory')
  return { db, beginsChain: false, loss, trouble }
}

/** In memory. On a file system where SQLite can make none of the files it wants beside a database, only `immutable` reads one. */
function copyOf(file: string): DatabaseSync | undefined {
  for (const option of ['mode=ro', 'immutable=1']) {
    const db = new DatabaseSync(':memory:')
    try {
      db.prepare('ATTACH DATABASE ? AS file').run(`${pathToFileURL(file)}?${option}`)
      quickCheck(db, 'file')
      copyAll(db)
      db.exec('DETACH DATABASE file')
      return db
    } catch {
      // The next one, or none: what is on the disk is the truth anyway.
      db.close()
    }
  }
  return undefined
}

/** Of `file`, in whatever version it is, into `main`, which is empty. (To serialize a database Node 24.6 cannot.) */
function copyAll(db: DatabaseSync): void {
  const made = "FROM file.sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid"
  for (const { sql } of db.prepare(`SELECT sql ${made}`).all()) db.exec(String(sql))
  for (const table of tablesOf(db)) db.exec(`INSERT INTO main.${table} SELECT * FROM file.${table}`)
  // Numbers that were given to rows which are gone are not given again. A database without AUTOINCREMENT has no such table.
  if (db.prepare("SELECT 1 FROM file.sqlite_schema WHERE name = 'sqlite_sequence'").get() !== undefined) {
    db.exec('DELETE FROM main.sqlite_sequence; INSERT INTO main.sqlite_sequence SELECT * FROM file.sqlite_sequence')
  }
  const { user_version } = db.prepare('PRAGMA file.user_version').get() as { user_version: number }
  db.exec(`PRAGMA main.user_version = ${user_version}`)
}

function isDamage(error: unknown): boolean {
  return error instanceof Damaged || (error instanceof Error && 'errcode' in error && DAMAGE.has(error.errcode))
}

function sizeOf(file: string): number {
  return statSync(file, { throwIfNoEntry: false })?.size ?? 0
}
