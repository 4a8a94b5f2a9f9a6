import type { DatabaseSync } from 'node:sqlite'
import { Failure, reasonOf } from '../../shared/failure.ts'
import type { AppName } from '../../shared/names.ts'
import { nameOfTrouble } from './trouble.ts'

// What the parts of the ledger share: how a row is read, and what becomes of one that cannot be written.

/** https://www.sqlite.org/rescode.html#full */
const SQLITE_FULL = 13
/** There: read-only, an I/O error, malformed, cannot be opened, no database. An extended code has them in its last byte. */
const UNWRITABLE: ReadonlySet<number> = new Set([8, 10, 11, 14, 26])

/** What SQLite gave; a `parse…` makes something of it. */
export type Row = Record<string, unknown>

/** A column of JSON. One that was edited, or damaged, must not take the rest of the record with it: `verify` tells. */
export function parsedJson(text: unknown, otherwise: unknown): unknown {
  try {
    return JSON.parse(String(text))
  } catch {
    return otherwise
  }
}

/** Takes what could not be written, and why. Must not throw. */
export type Lost = (what: string, error: unknown) => void

/** Writes what a change that goes on anyway has done. */
export type Note = (what: string, write: () => unknown) => void

/** Makes room on a full disk; false when there is none to be made. Must not throw. */
export type MakeRoom = () => boolean

/** A `Note` that tells `lost` instead of throwing. For want of room it is tried again, once some was made. */
export function noting(lost: Lost, makeRoom: MakeRoom = () => false): Note {
  return function note(what, write) {
    try {
      write()
    } catch (error) {
      if (nameOfTrouble(error) === 'ENOSPC' && makeRoom()) note(what, write)
      else lost(what, error)
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
  const primary = cause instanceof Error && 'errcode' in cause ? Number(cause.errcode) % 256 : undefined
  if (primary === SQLITE_FULL) {
    return new Failure('disk_full', `change ${app}: it cannot be written down: ${reasonOf(cause)}`, {
      hint: 'what runs goes on; make room on the host',
      cause,
    })
  }
  return primary !== undefined && UNWRITABLE.has(primary) ? unwritable(cause) : cause
}

/** Whatever the reason: no change begins that cannot be written down. */
export function unwritable(cause: unknown): Failure {
  return new Failure('ledger_unwritable', `write the ledger: ${reasonOf(cause)}`, {
    hint: 'what runs goes on; see on the host whether its disk is read-only or full: tarmac doctor',
    cause,
  })
}
