import type { LastSwitch } from '../shared/wire.ts'

/** What callers noticed of a switch, as short as a cell: `none`, `120 ms (3 of 184 probes)`, `-` when nobody could. */
export function gapText({ gapMs, probe }: Pick<LastSwitch, 'gapMs' | 'probe'>): string {
  if (gapMs === null) return '-'
  if (gapMs === 0) return 'none'
  const long = gapMs < 1000 ? `${gapMs} ms` : `${(gapMs / 1000).toFixed(1)} s`
  return probe === null ? long : `${long} (${probe.failed} of ${probe.sent} probes)`
}
