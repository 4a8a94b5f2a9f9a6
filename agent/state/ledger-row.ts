import type { DatabaseSync } from 'node:sqlite'
import { Failure, reasonOf } from '../../shared/failure.ts'
import type { AppName } from '../../shared/names.ts'

// What the parts of the ledger share: how a row is read, and what becomes of one that cannot be written.

/** https://www.sqlite.org/rescode.html#full */
const SQLITE_FULL = 13

/** What SQLite gave; a `parse…` makes something of it. */
export type Row = Record<string, unknown>

/** Takes what could not be written, and why. Must not throw. */
export type Lost = (what: string, error: unknown) => void

/** Writes what a change that goes on anyway has done. */
export type Note = (what: string, write: () => unknown) => void

/** A `Note` that tells `lost` instead of throwing. */
export function noting(lost: Lost): Note {
  return (what, write) => {
    try {
      write()
    } catch (error) {
      lost(what, error)
    }
  }
}

/** All of it or nothing. Not to be nested. */
export function inTransaction(db: DatabaseSync, work: () => void): void {
  db.exec('BEGIN IMMEDIATE')
  try {
    work()
    db.exec('COMMIT')
  } catch (error) {
    // SQLite ends the transaction by itself after some errors (SQLITE_FULL): a second end would hide the first.
    if (db.isTransaction) db.exec('ROLLBACK')
    throw error
  }
}

/** What to throw when a change cannot begin, because it cannot be noted. */
export function notBegun(app: AppName, cause: unknown): unknown {
  if (!(cause instanceof Error && 'errcode' in cause && cause.errcode === SQLITE_FULL)) return cause
  return new Failure('disk_full', `change ${app}: it cannot be written down: ${reasonOf(cause)}`, {
    hint: 'what runs goes on; make room on the host',
    cause,
  })
}
