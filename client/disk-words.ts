import prettyBytes from 'pretty-bytes'
import type { DiskStatus } from '../shared/wire.ts'
import { cell, type Print } from './print.ts'

// How full a disk is, in words. Pure.

/** What is further away is nothing to act on, and one figure more in each row. */
const DAYS_SHOWN = 60
const PUSHES_SHOWN = 100

/** `270 MB free, ok, 40 pushes left`; inodes when there is least of those. */
export function diskCell(print: Print, disk: DiskStatus): string {
  const free = disk.scarce === 'inodes' ? `${cell(disk.freeInodes)} inodes` : prettyBytes(disk.freeBytes)
  const state = print.tone(disk.state === 'ok' ? 'good' : 'bad', cell(disk.state))
  return [`${free} free`, state, ...forecastOf(disk)].join(', ')
}

/** `disk low: inodes, 11 pushes left: 270 MB and 412 inodes free at /var/lib/tarmac`; undefined when all is well. */
export function diskProblem(disk: DiskStatus): string | undefined {
  if (disk.state === 'ok') return undefined
  const reason = [...(disk.scarce ? [disk.scarce] : []), ...forecastOf(disk)].join(', ')
  return `disk ${disk.state}: ${reason}: ${prettyBytes(disk.freeBytes)} and ${disk.freeInodes} inodes free at ${disk.path}`
}

function forecastOf({ daysUntilFull: days, pushesUntilFull: pushes }: DiskStatus): string[] {
  return [
    ...(pushes !== null && pushes <= PUSHES_SHOWN ? [left(pushes, 'push', 'pushes')] : []),
    ...(days !== null && days <= DAYS_SHOWN ? [left(days, 'day', 'days')] : []),
  ]
}

function left(count: number, one: string, many: string): string {
  return `${count} ${count === 1 ? one : many} left`
}
