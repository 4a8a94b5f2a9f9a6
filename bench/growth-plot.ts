import { decades, dot, line, logScale, path, svg, text } from './chart.ts'
import type { Growth } from './growth.ts'
import { shownMs } from './table.ts'

/** One colour in all panels. */
const ORDER = ['first push', '5 files changed', 'nothing changed', 'rollback', 'status', 'releases']
const PANEL = { width: 400, left: 70, top: 84, plot: 300 }
const HEIGHT = 640

/** A panel for files, apps and releases, with both axes in factors: what grows as its size does rises by a decade in a decade. */
export function growthPlot(all: Growth[]): string {
  const title = 'How Tarmac’s cost grows'
  const marks = [text(16, 30, title, { style: 'title' })]
  all.forEach((growth, index) => {
    marks.push(...panel(growth, index * PANEL.width))
  })
  return svg({ width: all.length * PANEL.width, height: HEIGHT, title }, marks)
}

function panel({ of, series }: Growth, left: number): string[] {
  const times = series.filter(({ unit }) => unit === 'ms')
  const points = times.flatMap(({ points }) => points)
  const sizes = [...new Set(points.map(({ size }) => size))].sort((a, b) => a - b)
  const values = points.map(({ value }) => value)
  const low = 10 ** Math.floor(Math.log10(Math.min(...values)))
  const high = 10 ** Math.ceil(Math.log10(Math.max(...values)))
  const bottom = PANEL.top + PANEL.plot
  const right = left + PANEL.width - 34
  const x = logScale([sizes[0] ?? 1, sizes.at(-1) ?? 1], [left + PANEL.left, right])
  const y = logScale([low, high], [bottom, PANEL.top])
  const marks = [text(left + PANEL.left, PANEL.top - 16, `by number of ${of}`)]
  for (const tick of decades(low, high)) {
    marks.push(line([left + PANEL.left, y(tick)], [right, y(tick)], 'grid'))
    marks.push(
      text(left + PANEL.left - 8, y(tick) + 5, tick < 1_000 ? `${tick} ms` : `${tick / 1_000} s`, {
        anchor: 'end',
        style: 'small',
      }),
    )
  }
  for (const size of sizes) {
    marks.push(line([x(size), PANEL.top], [x(size), bottom], 'grid'))
    marks.push(text(x(size), bottom + 22, size.toLocaleString('en'), { anchor: 'middle', style: 'small' }))
  }
  times.forEach(({ what, points }, index) => {
    const style = `c${ORDER.indexOf(what)}`
    marks.push(
      path(
        points.map(({ size, value }): [number, number] => [x(size), y(value)]),
        `line ${style}`,
      ),
    )
    for (const { size, value } of points)
      marks.push(dot(x(size), y(value), style, `${what}, ${size}: ${shownMs(value)}`))
    const legend = bottom + 56 + index * 24
    const last = points.at(-1)
    marks.push(dot(left + PANEL.left, legend - 5, style, what))
    marks.push(
      text(left + PANEL.left + 14, legend, `${what}: ${shownMs(points[0]?.value ?? 0)} → ${shownMs(last?.value ?? 0)}`),
    )
  })
  const memory = series.find(({ unit }) => unit === 'bytes')?.points.map(({ value }) => `${Math.round(value / 1e6)}`)
  if (memory !== undefined) {
    const at = bottom + 56 + times.length * 24
    marks.push(text(left + PANEL.left, at, `agent, resident: ${memory.join(' → ')} MB`, { style: 'small' }))
  }
  return marks
}
