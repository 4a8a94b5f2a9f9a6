import { CASES } from './cases.ts'
import { dot, line, logScale, svg, text } from './chart.ts'
import type { PeerName } from './peers.ts'
import { type Row, shownMs } from './table.ts'

const WIDTH = 900
const LEFT = 330
const RIGHT = 40
const ROW = 30
const TOP = 96
const BOTTOM = 30
const STYLES: Partial<Record<PeerName, string>> = { rsync: 'c0', 'tar-zstd': 'c1', casync: 'c2', 'tar-gz': 'c3' }
const TICKS = [0.03125, 0.0625, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64]

/** A line a case, a dot a peer: how many times as long as Tarmac it takes. Right of 1 Tarmac is faster. */
export function peersPlot(rows: Row[]): string {
  const shown = rows.filter(({ peers }) => peers.tarmac !== undefined && Object.keys(peers).length > 1)
  const ratios = shown.flatMap(({ peers }) => Object.values(peers).map(({ ms }) => ms / (peers.tarmac?.ms ?? ms)))
  const low = TICKS.findLast((tick) => tick <= Math.min(...ratios)) ?? Math.min(...ratios)
  const high = TICKS.find((tick) => tick >= Math.max(...ratios)) ?? Math.max(...ratios)
  const height = TOP + shown.length * ROW + BOTTOM
  const x = logScale([low, high], [LEFT, WIDTH - RIGHT])
  const title = 'Time of each peer as a multiple of Tarmac’s, right of 1: Tarmac is faster'
  const marks = [text(16, 28, title, { style: 'title' })]
  Object.entries(STYLES).forEach(([name, style], index) => {
    const at = LEFT + index * 110
    marks.push(dot(at, 50, style, name), text(at + 12, 55, name))
  })
  for (const tick of TICKS.filter((tick) => tick >= low && tick <= high)) {
    marks.push(line([x(tick), TOP - 12], [x(tick), height - BOTTOM], tick === 1 ? 'axis' : 'grid'))
    marks.push(text(x(tick), TOP - 18, tick < 1 ? `1/${1 / tick}` : `${tick}×`, { anchor: 'middle', style: 'small' }))
  }
  shown.forEach((row, index) => {
    const y = TOP + index * ROW + ROW / 2
    const { tarmac, ...peers } = row.peers
    const found = CASES.find(({ name }) => name === row.case)
    marks.push(text(16, y + 5, `${row.tree}, ${row.link}: ${found?.short ?? found?.title ?? row.case}`))
    for (const [peer, { ms }] of Object.entries(peers)) {
      const hint = `${peer} ${shownMs(ms)}, Tarmac ${shownMs(tarmac?.ms ?? 0)}`
      marks.push(dot(x(ms / (tarmac?.ms ?? ms)), y, STYLES[peer as PeerName] ?? 'c6', hint))
    }
  })
  return svg({ width: WIDTH, height, title }, marks)
}
