import type { DatabaseSync } from 'node:sqlite'
import type { Note, Row } from './ledger-row.ts'

// How full the disk was, and what pushes took of it: all that a forecast is made of.

/** As long as a forecast looks back: a month of growth, and no year of rows. */
const KEPT_MS = 30 * 24 * 3_600_000

export interface DiskSample {
  /** ISO 8601 UTC. */
  at: string
  totalBytes: number
  freeBytes: number
  totalInodes: number
  freeInodes: number
}

/** The least that was free on one day, of bytes and of inodes. */
export interface DailyLow {
  /** 2026-11-22, in UTC. */
  day: string
  freeBytes: number
  freeInodes: number
}

export interface Amount {
  bytes: number
  inodes: number
}

/** What one push took of the disk, and what was removed after it. */
export interface PushRoom {
  added: Amount
  freed: Amount
}

export interface DiskLedger {
  /** Forgets those that are too old. */
  recordSample(sample: DiskSample): void
  /** Oldest first, of a file system of this size: one that was made larger has another story. */
  dailyLows(totalBytes: number): DailyLow[]
  recordPushRoom(deploy: number, room: PushRoom): void
  /** Of the newest pushes that were done, of all apps. */
  pushRooms(limit: number): PushRoom[]
}

export function diskLedger(db: DatabaseSync, note: Note): DiskLedger {
  const sql = {
    sample: db.prepare(
      'INSERT OR REPLACE INTO disk_samples (at, total_bytes, free_bytes, total_inodes, free_inodes) VALUES (?, ?, ?, ?, ?)',
    ),
    forget: db.prepare('DELETE FROM disk_samples WHERE at < ?'),
    lows: db.prepare(
      'SELECT substr(at, 1, 10) AS day, min(free_bytes) AS bytes, min(free_inodes) AS inodes FROM disk_samples WHERE total_bytes = ? GROUP BY day ORDER BY day',
    ),
    pushRoom: db.prepare(
      'INSERT OR REPLACE INTO push_room (deploy, added_bytes, added_inodes, freed_bytes, freed_inodes) VALUES (?, ?, ?, ?, ?)',
    ),
    pushRooms: db.prepare('SELECT * FROM push_room ORDER BY deploy DESC LIMIT ?'),
  }
  return {
    recordSample: ({ at, totalBytes, freeBytes, totalInodes, freeInodes }) =>
      note(`the disk at ${at}`, () => {
        sql.sample.run(at, totalBytes, freeBytes, totalInodes, freeInodes)
        sql.forget.run(new Date(Date.parse(at) - KEPT_MS).toISOString())
      }),
    dailyLows: (totalBytes) =>
      sql.lows.all(totalBytes).map(({ day, bytes, inodes }) => ({
        day: String(day),
        freeBytes: Number(bytes),
        freeInodes: Number(inodes),
      })),
    recordPushRoom: (deploy, { added, freed }) =>
      note(`what change ${deploy} took of the disk`, () =>
        sql.pushRoom.run(deploy, added.bytes, added.inodes, freed.bytes, freed.inodes),
      ),
    pushRooms: (limit) => sql.pushRooms.all(limit).map(parsePushRoom),
  }
}

function parsePushRoom(row: Row): PushRoom {
  return {
    added: { bytes: Number(row.added_bytes), inodes: Number(row.added_inodes) },
    freed: { bytes: Number(row.freed_bytes), inodes: Number(row.freed_inodes) },
  }
}
