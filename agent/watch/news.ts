import type { AppName, ReleaseId, ServiceName } from '../../shared/names.ts'
import type { DiskState } from '../../shared/wire.ts'
import type { Change, FailedChange } from '../deploy/change.ts'
import type { Disk } from '../deploy/room.ts'
import type { Looping, Loops } from './crash-loop.ts'

// What is worth waking somebody for, in words. Pure. An app's own output stays out of it: it may hold anything.

/** `text` is one sentence or two for a person; the rest is the same for programs. */
export interface News {
  event: string
  text: string
  app?: AppName
  release?: ReleaseId | null
  [fact: string]: unknown
}

/** A change that is no news, done as somebody who watched it asked for, gives undefined. */
export function newsOfChange(change: Change, failed?: FailedChange): News | undefined {
  const { app, kind, who, id, from, to } = change
  const facts = { app, release: to, deploy: id, who }
  if (failed !== undefined) {
    const { failure, receipt } = failed
    const serves = receipt.running === null ? 'Nothing serves now.' : `${receipt.running} serves.`
    const text = `${app}: ${kind} of ${to ?? 'nothing'} by ${who} failed: ${receipt.reason}. ${serves}`
    const { code } = failure
    return { event: `${kind}-failed`, text, ...facts, code, reason: receipt.reason, running: receipt.running }
  }
  if (kind !== 'auto-rollback') return undefined
  const text = `${app}: went back from ${from} to ${to}, which serves. The next push or rollback is a person's.`
  return { event: 'auto-rollback', text, ...facts, from, running: to }
}

export function newsOfLoop({ app, release }: { app: AppName; release: ReleaseId }, verdict: Looping): News {
  const what = verdict.loops.map(({ service, why }) => `${service} ${why}`).join('; ')
  const next =
    verdict.act === 'go-back' ? `Going back to ${verdict.to}.` : `It is not rolled back and stays down: ${verdict.why}.`
  return {
    event: 'crash-loop',
    text: `${app}: ${release}: ${what}. ${next}`,
    app,
    release,
    services: servicesOfLoops(verdict.loops),
    goingBackTo: verdict.act === 'go-back' ? verdict.to : null,
  }
}

function servicesOfLoops(loops: Loops): ServiceName[] {
  return loops.map(({ service }) => service)
}

/** Only the way down is news. */
export function newsOfDisk(before: DiskState, now: DiskState, disk: Disk): News | undefined {
  const order: DiskState[] = ['ok', 'low', 'critical']
  if (order.indexOf(now) <= order.indexOf(before)) return undefined
  const { path, freeBytes, freeInodes } = disk
  const text = `disk ${now}: ${freeBytes} bytes and ${freeInodes} inodes are free at ${path}.`
  return { event: `disk-${now}`, text, path, freeBytes, freeInodes }
}
