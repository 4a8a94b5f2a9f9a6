import type { Layout } from './layout.ts'
import { type AppLedger, appLedger } from './ledger-apps.ts'
import { type ChainLedger, chainLedger } from './ledger-chain.ts'
import { type DeployLedger, deployLedger } from './ledger-deploys.ts'
import { type ExitLedger, exitLedger } from './ledger-exits.ts'
import { type ReleaseLedger, releaseLedger } from './ledger-releases.ts'
import { type Lost, noting } from './ledger-row.ts'
import { openDatabase } from './ledger-schema.ts'
import { type TotalsLedger, totalsLedger } from './ledger-totals.ts'

// The record of what happened, in parts by topic. What lies on the disk and what init says stay the truth of what is:
// nothing is ever deleted or started because a row is missing here. And nothing is left undone because a row cannot be
// written: on a full disk a release that failed must still be gone back from, and old ones be removed. So a change that
// cannot be noted does not begin (`openDeploy`, `received` throw); what it does afterwards goes on, and `lost` is told.

export interface Ledger extends ChainLedger, ReleaseLedger, DeployLedger, ExitLedger, AppLedger, TotalsLedger {
  close(): void
}

export function openLedger(files: Pick<Layout, 'ledgerFile' | 'ledgerHeadFile'>, lost: Lost): Ledger {
  const { db, beginsChain } = openDatabase(files.ledgerFile)
  const note = noting(lost)
  const { part, chain } = chainLedger(db, { headFile: files.ledgerHeadFile, beginsChain, note })
  return {
    ...releaseLedger(db, note),
    ...part,
    ...deployLedger(db, { note, chain }),
    ...exitLedger(db, note),
    ...appLedger(db, note),
    ...totalsLedger(db),
    close: () => db.close(),
  }
}
