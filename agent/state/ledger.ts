import type { DatabaseSync } from 'node:sqlite'
import type { Layout } from './layout.ts'
import { type AppLedger, appLedger } from './ledger-apps.ts'
import { type ChainLedger, chainLedger, type HeadFile } from './ledger-chain.ts'
import { type DeployLedger, deployLedger } from './ledger-deploys.ts'
import { type DiskLedger, diskLedger } from './ledger-disk.ts'
import { type ExitLedger, exitLedger } from './ledger-exits.ts'
import { headAt } from './ledger-head.ts'
import { copyRows, openAnyway, whyNotWritten } from './ledger-open.ts'
import { type RebuildLedger, rebuildLedger } from './ledger-rebuild.ts'
import { type ReleaseLedger, releaseLedger } from './ledger-releases.ts'
import { type Lost, type MakeRoom, type Note, noting, unwritable } from './ledger-row.ts'
import { type TotalsLedger, totalsLedger } from './ledger-totals.ts'

// The record of what happened, in parts by topic. What lies on the disk and what init says stay the truth of what is:
// nothing is ever deleted or started because a row is missing here. And nothing is left undone because a row cannot be
// written: on a full disk a release that failed must still be gone back from, and old ones be removed. So a change that
// cannot be noted does not begin (`openDeploy`, `received` throw); what it does afterwards goes on, and `lost` is told.

type Parts = ReleaseLedger &
  DeployLedger &
  ExitLedger &
  AppLedger &
  DiskLedger &
  ChainLedger &
  RebuildLedger &
  TotalsLedger

export interface Ledger extends Parts {
  /**
   * Why nothing can be written; undefined when all is well. Until it can be, what the agent does by itself is known to
   * its memory alone, and no change begins.
   */
  readonly trouble: string | undefined
  /** Writes, to see whether it can be; gives why not. */
  tryWriting(): string | undefined
  close(): void
}

/** Throws only `config_invalid`, for a ledger that a newer agent wrote. */
export function openLedger(
  files: Pick<Layout, 'ledgerFile' | 'ledgerHeadFile'>,
  lost: Lost,
  makeRoom: MakeRoom = () => false,
): Ledger {
  const note = noting(lost)
  // Of a change that is under way all is noted while there is anything to give; an exit less is no harm.
  const noteChange = noting(lost, makeRoom)
  const head = headAt(files.ledgerHeadFile)
  const opened = openAnyway(files.ledgerFile)
  if (opened.trouble === undefined) return onFile(opened, { head, note, noteChange })
  const { trouble } = opened
  lost('all that happens until the ledger can be written', trouble)
  const ledger = onFile(opened, { head: { ...head, write: () => {} }, note, noteChange })
  // The same object, since everybody has it: with the file to write to as soon as there is something to write.
  const begin = () => {
    const now = openAnyway(files.ledgerFile)
    try {
      if (now.trouble !== undefined) throw new Error(now.trouble)
      // Where it begins anew, what was taken from the disk at the start is what it begins with.
      if (now.loss !== undefined) copyRows(opened.db, files.ledgerFile)
    } catch (cause) {
      now.db.close()
      throw unwritable(cause)
    }
    ledger.close()
    Object.assign(ledger, onFile({ ...now, loss: undefined }, { head, note, noteChange }))
  }
  return Object.assign(ledger, {
    trouble,
    tryWriting: () => trouble,
    openDeploy: (...of: Parameters<Ledger['openDeploy']>) => {
      begin()
      return ledger.openDeploy(...of)
    },
    received: (...of: Parameters<Ledger['received']>) => {
      begin()
      ledger.received(...of)
    },
  })
}

function onFile(
  { db, beginsChain, loss: why }: { db: DatabaseSync; beginsChain: boolean; loss: string | undefined },
  { head, note, noteChange }: { head: HeadFile; note: Note; noteChange: Note },
): Ledger {
  const { part, chain } = chainLedger(db, { head, beginsChain, why, note })
  return {
    ...part,
    ...releaseLedger(db, noteChange),
    ...deployLedger(db, { note: noteChange, chain }),
    ...exitLedger(db, note),
    ...appLedger(db, noteChange),
    ...diskLedger(db, note),
    ...rebuildLedger(db, chain),
    ...totalsLedger(db),
    trouble: undefined,
    tryWriting: () => whyNotWritten(db),
    close: () => db.close(),
  }
}
