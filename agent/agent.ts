import type { Config } from './config.ts'
import type { Asked } from './deploy/asked.ts'
import type { ChangeEnded } from './deploy/change.ts'
import type { Operations } from './deploy/operations.ts'
import type { InitSystem } from './init/init-system.ts'
import type { Log } from './log.ts'
import type { Layout } from './state/layout.ts'
import type { Ledger } from './state/ledger.ts'
import type { Reserve } from './state/reserve.ts'
import type { News } from './watch/news.ts'

/** Built once in main.ts and frozen. Only http/, deploy.ts and recover.ts may take the whole of it. */
export interface Agent {
  readonly config: Config
  readonly layout: Layout
  readonly ledger: Ledger
  readonly reserve: Reserve
  readonly init: InitSystem
  readonly operations: Operations
  readonly asked: Asked
  readonly log: Log
  readonly changeEnded: ChangeEnded
  /** What is worth waking somebody for goes to the webhook. Returns at once and never throws. */
  readonly tell: (news: News) => void
  /** `sha256//…` of our own TLS key: part of what a client signs. */
  readonly pin: string
  readonly startedAt: string
}
