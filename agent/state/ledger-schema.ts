import { chmodSync, closeSync, openSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { Failure } from '../../shared/failure.ts'
import { chainEarlier } from './ledger-chain.ts'
import { inTransaction } from './ledger-row.ts'

const PRIVATE = 0o600

/**
 * What brings a ledger from one version to the next: the step at index n makes it `user_version` n + 1. Steps are
 * appended, never edited: agents out there have run them.
 */
export const MIGRATIONS: readonly (string | ((db: DatabaseSync) => void))[] = [
  `
CREATE TABLE releases (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  app TEXT NOT NULL, id TEXT NOT NULL,
  state TEXT NOT NULL, once_healthy INTEGER NOT NULL DEFAULT 0,
  received_at TEXT NOT NULL, signers TEXT NOT NULL, bytes INTEGER NOT NULL, files INTEGER NOT NULL,
  UNIQUE (app, id)
) STRICT;
CREATE TABLE deploys (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  app TEXT NOT NULL, kind TEXT NOT NULL, who TEXT NOT NULL, key TEXT NOT NULL,
  from_release TEXT, to_release TEXT, result TEXT NOT NULL, code TEXT,
  started_at TEXT NOT NULL, ended_at TEXT, seconds REAL, gap_ms INTEGER,
  steps TEXT NOT NULL DEFAULT '[]', receipt TEXT
) STRICT;
CREATE INDEX deploys_by_app ON deploys (app, id);
CREATE TABLE exits (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  app TEXT NOT NULL, service TEXT NOT NULL, release TEXT, at TEXT NOT NULL,
  code INTEGER, signal TEXT, oom INTEGER NOT NULL
) STRICT;
CREATE INDEX exits_by_service ON exits (app, service, at);
CREATE TABLE apps (app TEXT PRIMARY KEY, wanted TEXT, bytes_on_disk INTEGER NOT NULL DEFAULT 0) STRICT;
`,
  `
ALTER TABLE releases ADD COLUMN adopted INTEGER NOT NULL DEFAULT 0;
`,
  // A column that comes to deploys later must be null in older rows: what is there is hashed.
  `
ALTER TABLE deploys ADD COLUMN chain INTEGER;
ALTER TABLE deploys ADD COLUMN prev TEXT;
ALTER TABLE deploys ADD COLUMN hash TEXT;
CREATE UNIQUE INDEX deploys_by_chain ON deploys (chain);
`,
  chainEarlier,
  `
ALTER TABLE exits ADD COLUMN run TEXT;
CREATE UNIQUE INDEX exits_by_run ON exits (run);
CREATE TABLE exits_read (id INTEGER PRIMARY KEY CHECK (id = 1), place TEXT NOT NULL) STRICT;
`,
  'ALTER TABLE deploys ADD COLUMN probe TEXT',
  `
CREATE TABLE disk_samples (
  at TEXT PRIMARY KEY,
  total_bytes INTEGER NOT NULL, free_bytes INTEGER NOT NULL,
  total_inodes INTEGER NOT NULL, free_inodes INTEGER NOT NULL
) STRICT;
CREATE TABLE push_room (
  deploy INTEGER PRIMARY KEY,
  added_bytes INTEGER NOT NULL, added_inodes INTEGER NOT NULL,
  freed_bytes INTEGER NOT NULL, freed_inodes INTEGER NOT NULL
) STRICT;
`,
]

/** What is there is no ledger of ours any more. */
export class Damaged extends Error {
  constructor(why: string) {
    super(why)
    this.name = 'Damaged'
  }
}

/**
 * Made when there is none. `beginsChain`: it comes from before there was one, and so no head of it is known yet.
 * Throws `config_invalid` for one that a newer agent wrote, Damaged, or what SQLite and the file system say.
 */
export function openDatabase(file: string): { db: DatabaseSync; beginsChain: boolean } {
  // Output of every app and who may deploy stand in it; SQLite gives its -wal and -shm the mode of the file.
  closeSync(openSync(file, 'a', PRIVATE))
  chmodSync(file, PRIVATE)
  const db = new DatabaseSync(file)
  try {
    // FULL: a release that was reported as pushed must still be in the record after a power loss.
    db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000')
    quickCheck(db)
    const found = migrate(db, file)
    refuseIncomplete(db)
    // On a file system that is read-only a database opens, and refuses its first write.
    db.exec('BEGIN IMMEDIATE; ROLLBACK')
    return { db, beginsChain: found <= MIGRATIONS.indexOf(chainEarlier) }
  } catch (error) {
    db.close()
    throw error
  }
}

/** Reads every page, so that damage shows now and not at a rollback: 0.1 s for 50 MB. Throws Damaged. */
export function quickCheck(db: DatabaseSync, schema: 'main' | 'file' = 'main'): void {
  const [found] = db.prepare(`PRAGMA ${schema}.quick_check(1)`).all()
  if (found?.quick_check === 'ok') return
  throw new Damaged(String(found?.quick_check).replace(`*** in database ${schema} ***\n`, ''))
}

/** Gives the version that it was found in. */
export function migrate(db: DatabaseSync, file: string): number {
  const { user_version: found } = db.prepare('PRAGMA user_version').get() as { user_version: number }
  if (found > MIGRATIONS.length) {
    throw new Failure(
      'config_invalid',
      `open ${file}: a newer agent wrote it (schema ${found}, this agent knows ${MIGRATIONS.length})`,
      { hint: 'install that agent again' },
    )
  }
  for (const [index, step] of MIGRATIONS.entries()) {
    if (index < found) continue
    inTransaction(db, () => {
      if (typeof step === 'string') db.exec(step)
      else step(db)
      db.exec(`PRAGMA user_version = ${index + 1}`)
    })
  }
  return found
}

/** A database can be whole and not ours: another one was put here, or a table is gone. */
function refuseIncomplete(db: DatabaseSync): void {
  const made = new DatabaseSync(':memory:')
  migrate(made, '')
  const there = new Set(tablesOf(db))
  const missing = tablesOf(made).filter((name) => !there.has(name))
  made.close()
  if (missing.length > 0) throw new Damaged(`it has no table ${missing.join(', ')}`)
}

/** Ours, without SQLite's own. */
export function tablesOf(db: DatabaseSync): string[] {
  return db
    .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    .all()
    .map(({ name }) => String(name))
}
