// The few marks our plots are made of, as SVG text. A background of its own and colours for light and dark: an image in
// a README knows only what the reader's system prefers.

interface Palette {
  text: string
  small: string
  ground: string
  grid: string
  marks: string[]
}

/** Marks told apart by people who see no red or no green too (after Okabe and Ito), a shade lighter on dark. */
const LIGHT: Palette = {
  text: '#1f2328',
  small: '#59636e',
  ground: '#ffffff',
  grid: '#d1d9e0',
  marks: ['#0072b2', '#d55e00', '#009e73', '#aa4a80', '#b07800', '#3a87b8', '#555555'],
}
const DARK: Palette = {
  text: '#f0f6fc',
  small: '#9198a1',
  ground: '#0d1117',
  grid: '#3d444d',
  marks: ['#56b4e9', '#ff8c42', '#2ecc9b', '#e59ac0', '#f0c000', '#a0c8e8', '#b0b0b0'],
}

function colours({ text, small, ground, grid, marks }: Palette): string {
  const own = marks.map((mark, index) => `.dot.c${index} { fill: ${mark} } .line.c${index} { stroke: ${mark} }`)
  return `text { fill: ${text} } .small { fill: ${small} } .ground { fill: ${ground} } .grid { stroke: ${grid} } .axis { stroke: ${small} }
${own.join('\n')}`
}

const STYLE = `
text { font: 15px system-ui, sans-serif }
.title { font-weight: 600; font-size: 18px }
.line { fill: none; stroke-width: 2.5 }
${colours(LIGHT)}
@media (prefers-color-scheme: dark) {
${colours(DARK)}
}
`

export function svg(
  { width, height, title }: { width: number; height: number; title: string },
  marks: string[],
): string {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">`,
    `<title>${escaped(title)}</title>`,
    `<style>${STYLE}</style>`,
    `<rect class="ground" width="${width}" height="${height}"/>`,
    ...marks,
    '</svg>\n',
  ].join('\n')
}

type Anchor = 'start' | 'middle' | 'end'

export function text(
  x: number,
  y: number,
  words: string,
  { anchor = 'start', style = '' }: { anchor?: Anchor; style?: string } = {},
): string {
  return `<text x="${round(x)}" y="${round(y)}" text-anchor="${anchor}" class="${style}">${escaped(words)}</text>`
}

export function line(from: [number, number], to: [number, number], style: string): string {
  return `<line x1="${round(from[0])}" y1="${round(from[1])}" x2="${round(to[0])}" y2="${round(to[1])}" class="${style}"/>`
}

export function path(points: [number, number][], style: string): string {
  return `<polyline points="${points.map(([x, y]) => `${round(x)},${round(y)}`).join(' ')}" class="${style}"/>`
}

/** A dot; `hint` shows under the mouse. */
export function dot(x: number, y: number, style: string, hint: string): string {
  return `<circle cx="${round(x)}" cy="${round(y)}" r="6" class="dot ${style}"><title>${escaped(hint)}</title></circle>`
}

/** Where a value lies between two ends of a pixel range, each factor the same distance. */
export function logScale([low, high]: [number, number], [from, to]: [number, number]): (value: number) => number {
  return (value) => from + ((to - from) * Math.log(value / low)) / Math.log(high / low)
}

/** The powers of ten between, and both ends. */
export function decades(low: number, high: number): number[] {
  const first = Math.ceil(Math.log10(low) - 1e-9)
  const last = Math.floor(Math.log10(high) + 1e-9)
  return Array.from({ length: last - first + 1 }, (_, index) => 10 ** (first + index))
}

const round = (value: number) => Math.round(value * 10) / 10

function escaped(words: string): string {
  return words.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}
