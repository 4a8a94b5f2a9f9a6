import type { DatabaseSync } from 'node:sqlite'
import type { AppName, ReleaseId } from '../../shared/names.ts'
import type { Note, Row } from './ledger-row.ts'

export interface AppLedger {
  setWanted(app: AppName, id: ReleaseId | null): void
  setBytesOnDisk(app: AppName, bytes: number): void
  app(app: AppName): { wanted: ReleaseId | null; bytesOnDisk: number }
}

export function appLedger(db: DatabaseSync, note: Note): AppLedger {
  const sql = {
    setWanted: db.prepare(
      'INSERT INTO apps (app, wanted) VALUES (?, ?) ON CONFLICT (app) DO UPDATE SET wanted = excluded.wanted',
    ),
    setBytes: db.prepare(
      'INSERT INTO apps (app, bytes_on_disk) VALUES (?, ?) ON CONFLICT (app) DO UPDATE SET bytes_on_disk = excluded.bytes_on_disk',
    ),
    app: db.prepare('SELECT wanted, bytes_on_disk FROM apps WHERE app = ?'),
  }
  return {
    setWanted: (app, id) => note(`${app} wants ${id}`, () => sql.setWanted.run(app, id)),
    setBytesOnDisk: (app, bytes) => note(`${app} has ${bytes} bytes`, () => sql.setBytes.run(app, bytes)),
    app(app) {
      const row = sql.app.get(app) as Row | undefined
      return { wanted: (row?.wanted ?? null) as ReleaseId | null, bytesOnDisk: Number(row?.bytes_on_disk ?? 0) }
    },
  }
}
