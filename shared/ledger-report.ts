import type { AppName } from './names.ts'

/** What is wrong with the record of changes: with one of them, or with its end when `deploy` is null. */
export interface LedgerProblem {
  /** `rewound`: the newest are missing. `head`: the file beside the ledger that would tell. */
  problem: 'edited' | 'removed' | 'added' | 'rewound' | 'head'
  deploy: number | null
  app: AppName | null
  /** The rest of a sentence that begins with the change; a whole one without. */
  text: string
}

/** Answer of GET /v1/ledger: whether the record of changes on this host is what the agent wrote. */
export interface LedgerReport {
  ok: boolean
  /** Links of the chain: changes that have ended. */
  changes: number
  /** The newest link. Kept elsewhere, it tells whether the whole of it was put back. */
  head: { number: number; hash: string } | null
  problems: LedgerProblem[]
  /** What the record does not know, and why. */
  notes: string[]
}
