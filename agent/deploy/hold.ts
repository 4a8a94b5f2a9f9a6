import { readFileSync } from 'node:fs'
import { isErrno } from '../../shared/failure.ts'
import type { AppName, ReleaseId } from '../../shared/names.ts'
import { writeWhole } from '../state/disk.ts'
import type { Layout } from '../state/layout.ts'
import { readHead } from '../state/release-store.ts'
import { removeTree } from '../state/remove.ts'

// A release that somebody wants kept, whatever comes after it: the last before a migration, the one an auditor asked
// for. A file beside its manifest says so: it goes nowhere without the release, and no lost ledger forgets it.

/** Held releases, and who holds each. */
export function heldOn(layout: Layout, app: AppName, ids: readonly ReleaseId[]): Map<ReleaseId, string> {
  const held = new Map<ReleaseId, string>()
  for (const id of ids) {
    const who = holderOf(layout, app, id)
    if (who !== undefined) held.set(id, who)
  }
  return held
}

/** Throws `release_unknown`. Holding what is held says who did it last. */
export async function hold(layout: Layout, app: AppName, { id, who }: { id: ReleaseId; who: string }): Promise<void> {
  readHead(layout, app, id)
  await writeWhole(layout.heldFile(app, id), `${who}\n`, { mode: 0o444 })
}

/** Throws `release_unknown`. From now on it is kept like any other. */
export async function letGo(layout: Layout, app: AppName, id: ReleaseId): Promise<void> {
  readHead(layout, app, id)
  await removeTree(layout.heldFile(app, id))
}

function holderOf(layout: Layout, app: AppName, id: ReleaseId): string | undefined {
  try {
    return readFileSync(layout.heldFile(app, id), 'utf8').trim()
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return undefined
    throw error
  }
}
