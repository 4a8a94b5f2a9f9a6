import { Failure, reasonOf } from '../../shared/failure.ts'
import type { AppName, ReleaseId } from '../../shared/names.ts'
import type { ChangeKind, Line, Receipt, StepLine, StepName, SwitchProbe } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import { reach } from '../fault.ts'
import type { Ledger } from '../state/ledger.ts'
import type { DeployEnd, OpenDeploy } from '../state/ledger-deploys.ts'
import type { Amount, PushRoom } from '../state/ledger-disk.ts'
import { currentRelease, releasesOn } from '../state/release-store.ts'
import { asFailure } from '../state/trouble.ts'
import type { Operation } from './operations.ts'

/** Takes each line as it happens. Must not throw: a client that hung up is no reason to stop a deploy. */
export type Report = (line: Line) => void

export interface Asked {
  app: AppName
  kind: ChangeKind
  who: string
  /** Fingerprint of the key that asked. */
  key: string
  /** A gap longer than this, or one failed probe when it is 0, fails the change. */
  maxGapMs?: number | undefined
}

/** One change from its first step to its end: told to whoever watches, and to the ledger. */
export interface Change extends Asked {
  readonly id: number
  /** What was current when it began. */
  readonly from: ReleaseId | null
  readonly to: ReleaseId | null
  readonly phase: string
  step(step: StepName, facts?: Omit<StepLine, 'step' | 'at' | 'ms' | 'deploy'>): void
  /** From the stop of what served to the moment something serves again: the gap, measured. */
  gapBegins(): void
  gapEnds(): void
  /** What callers noticed, as the agent's own questions to the public port say. */
  probed(probe: SwitchProbe | undefined): void
  /** The longest gap, by either measure; null when there was nobody to notice one. */
  readonly gap: { ms: number; failed: number } | null
  /** What it adds to the disk, or, below zero, takes from it. */
  takes(amount: Amount): void
  /** Why there was this change at all, for the record of one that is done. */
  because(receipt: Receipt | null): void
  done(end: { release: ReleaseId | null; previous: ReleaseId | null }): void
  failed(failure: Failure, receipt: Receipt): void
  /** The agent was stopped in the middle of it, and what it had begun was undone. */
  interrupted(failure: Failure, receipt: Receipt): void
}

/** Told of each change that has ended, `failed` when badly. Must not throw, and nobody waits for it. */
export type ChangeEnded = (change: Change, failed?: FailedChange) => void

export interface FailedChange {
  failure: Failure
  receipt: Receipt
}

/** A change that ended badly, with everything there is to say about it. */
export class ChangeFailed extends Error {
  readonly failure: Failure
  readonly receipt: Receipt

  constructor(failure: Failure, receipt: Receipt) {
    super(failure.message, { cause: failure })
    this.name = 'ChangeFailed'
    this.failure = failure
    this.receipt = receipt
  }
}

interface Watched {
  operation: Operation
  report: Report
  maxGapMs?: number | undefined
}

export function openChange(
  ask: Asked & Watched,
  { ledger, layout, reserve }: Pick<Agent, 'ledger' | 'layout' | 'reserve'>,
  to: ReleaseId | null,
): Change {
  const { app, kind, who, key } = ask
  // On a full disk a change may be the way out of it.
  reserve.giveBack()
  const from = currentRelease(layout, app)
  const startedAt = new Date().toISOString()
  const id = ledger.openDeploy({ app, kind, who, key, from, to, at: startedAt })
  return changeOf({ id, app, kind, who, key, from, to, startedAt }, ask, ledger)
}

/** A change that is in the ledger as open: a new one, or one that an agent before this one did not end. */
export function changeOf(open: OpenDeploy, { operation, report, maxGapMs }: Watched, ledger: Ledger): Change {
  const { id, startedAt, ...asked } = open
  const { app, kind, from, to } = asked
  const began = Date.parse(startedAt)
  const steps: StepLine[] = []
  let gapMs: number | null = null
  let gapBegan: number | undefined
  let probe: SwitchProbe | null = null
  let cause: Receipt | null = null
  const room: PushRoom = { added: { bytes: 0, inodes: 0 }, freed: { bytes: 0, inodes: 0 } }
  const stamp = () => ({ at: new Date().toISOString(), ms: Date.now() - began, deploy: id })
  const close = (result: DeployEnd['result'], end: { code: Failure['code'] | null; receipt: Receipt | null }) =>
    ledger.closeDeploy(id, {
      result,
      ...end,
      to,
      steps,
      gapMs,
      probe,
      seconds: (Date.now() - began) / 1000,
      at: new Date().toISOString(),
    })
  operation.release = to
  // Of a rollback: where it goes is decided here.
  const message = `${from ?? 'nothing running'} → ${to}`
  // Its number, before there is anything to say: whoever loses the agent now can ask how it ended.
  report({ step: 'waiting', ...stamp(), ...(kind === 'rollback' && to !== null ? { release: to, message } : {}) })
  return {
    ...asked,
    maxGapMs,
    id,
    get phase() {
      return operation.phase
    },
    step(step, facts = {}) {
      operation.phase = step
      const line = { step, ...stamp(), ...facts }
      steps.push(line)
      report(line)
      reach(`step.${step}`)
    },
    gapBegins() {
      gapBegan ??= Date.now()
    },
    gapEnds() {
      if (gapBegan !== undefined) gapMs = Math.max(gapMs ?? 0, Date.now() - gapBegan)
      gapBegan = undefined
    },
    probed(seen) {
      if (seen === undefined || probe !== null) return
      probe = seen
      gapMs = Math.max(gapMs ?? 0, seen.longestGapMs)
      const { sent, failed, longestGapMs } = seen
      this.step('probed', { message: `${failed} of ${sent} probes failed, longest gap ${longestGapMs} ms` })
    },
    get gap() {
      return gapMs === null ? null : { ms: gapMs, failed: probe?.failed ?? 0 }
    },
    takes({ bytes, inodes }) {
      const sum = bytes + inodes < 0 ? room.freed : room.added
      sum.bytes += Math.abs(bytes)
      sum.inodes += Math.abs(inodes)
    },
    because(receipt) {
      cause = receipt
    },
    done(end) {
      // Nothing, when another agent began it.
      if (asked.kind === 'push' && room.added.inodes > 0) ledger.recordPushRoom(id, room)
      close('done', { code: null, receipt: cause })
      report({ step: 'done', ...stamp(), app, ...end })
    },
    failed(failure, receipt) {
      close('failed', { code: failure.code, receipt })
      report({ step: 'failed', ...stamp(), ...failure.toRefusal(), receipt })
    },
    interrupted(failure, receipt) {
      close('interrupted', { code: failure.code, receipt })
    },
  }
}

/** Runs a change to its end, whatever happens: it never throws, and the ledger keeps no change open. */
export async function runChange(agent: Agent, change: Change, work: () => Promise<void>): Promise<void> {
  const { log } = agent
  const about = {
    app: change.app,
    change: change.id,
    kind: change.kind,
    who: change.who,
    from: change.from,
    to: change.to,
  }
  log.info(about, 'change begins')
  try {
    await work()
    change.done({ release: change.to, previous: change.from })
    log.info(about, 'change done')
    agent.changeEnded(change)
  } catch (error) {
    const { failure, receipt } = error instanceof ChangeFailed ? error : await early(agent, change, error)
    log.error({ ...about, code: failure.code, err: failure.code === 'internal' ? error : undefined }, failure.message)
    change.failed(failure, receipt)
    agent.changeEnded(change, { failure, receipt })
  }
}

/** It failed outside of a switch, with its way back: what runs now is asked of init. */
async function early(agent: Agent, change: Change, error: unknown): Promise<ChangeFailed> {
  const running = await runningNow(agent, change.app)
  const known = asFailure(`${change.kind} ${change.app}`, error, agent.layout.root)
  const reason = known?.message ?? `a bug in the agent: ${reasonOf(error)}`
  if (change.kind === 'push' && change.to !== null) noteUnproved(agent, change.app, change.to)
  const failure = new Failure(codeOf(known, running), reason, {
    hint: known?.hint ?? 'the agent log says more: journalctl -u tarmac-agent',
    cause: error,
  })
  return new ChangeFailed(failure, {
    app: change.app,
    release: change.to,
    service: null,
    phase: change.phase,
    reason,
    exit: null,
    respawns: null,
    output: [],
    running,
    undone: [],
    next: ['tarmac status', 'tarmac deploys'],
  })
}

/** A push ended unproved: what was good before stays so, as nothing was seen that says otherwise; what never came is none. */
export function noteUnproved({ layout, ledger }: Pick<Agent, 'layout' | 'ledger'>, app: AppName, id: ReleaseId): void {
  const release = ledger.releases(app).find((one) => one.id === id)
  const state = !releasesOn(layout, app).includes(id) ? 'pruned' : release?.onceHealthy ? 'healthy' : 'failed'
  if (release !== undefined) ledger.setState(app, id, state)
}

/** What could not be removed says nothing of what serves. */
function codeOf(error: unknown, running: ReleaseId | null): Failure['code'] {
  if (!(error instanceof Failure)) return 'internal'
  if (error.code === 'prune_failed') return error.code
  return running === null ? 'deploy_down' : 'deploy_failed'
}

/** The release that runs, as the disk and init say it; null when none does. */
export async function runningNow({ layout, init }: Agent, app: AppName): Promise<ReleaseId | null> {
  const current = currentRelease(layout, app)
  try {
    for (const unit of await init.installed(app)) {
      if (unit.release === current && (await init.facts(unit)).state === 'running') return current
    }
  } catch {
    // Init does not answer either: nothing can be said to run.
  }
  return null
}
