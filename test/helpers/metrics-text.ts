import assert from 'node:assert/strict'

// Prometheus's text format, read as strictly as a server that scrapes it:
// https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details

export interface Series {
  name: string
  labels: Record<string, string>
  value: number
}

export interface MetricsText {
  types: Map<string, string>
  series: Series[]
  /** The one with these labels and no others. */
  value(name: string, labels?: Record<string, string>): number | undefined
}

const NAME = '[a-zA-Z_:][a-zA-Z0-9_:]*'
const ABOUT = new RegExp(`^# (HELP|TYPE) (${NAME}) (.+)$`)
const SAMPLE = new RegExp(`^(${NAME})(?:\\{(.*)\\})? (\\S+)$`)
const LABEL = /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\["\\n])*)"(?:,|$)/
const TYPES = ['counter', 'gauge', 'histogram', 'summary']
/** What the samples of a family may be called beside its name. */
const SUFFIXES: Record<string, string[]> = { histogram: ['_bucket', '_sum', '_count'], summary: ['_sum', '_count'] }

/** Fails for text that a Prometheus would refuse, and for names against its conventions. */
export function parseMetrics(text: string): MetricsText {
  assert.ok(text.endsWith('\n'), 'the last line ends')
  const types = new Map<string, string>()
  const series: Series[] = []
  const seen = new Set<string>()
  let family = ''
  for (const line of text.split('\n')) {
    if (line === '') continue
    if (line.startsWith('#')) {
      const [, what, name = '', rest = ''] = ABOUT.exec(line) ?? assert.fail(`no line of ours: ${line}`)
      if (what === 'HELP') assert.ok(!types.has(name), `${name} comes twice`)
      else {
        assert.ok(TYPES.includes(rest), line)
        types.set(name, rest)
        family = name
        if (rest === 'counter') assert.match(name, /_total$/)
      }
      continue
    }
    const [, name = '', inside = '', number = ''] = SAMPLE.exec(line) ?? assert.fail(`no sample: ${line}`)
    const suffixes = ['', ...(SUFFIXES[types.get(family) ?? ''] ?? [])]
    assert.ok(
      suffixes.some((suffix) => name === family + suffix),
      `${name} stands among those of ${family}`,
    )
    const labels = labelsOf(inside)
    const key = JSON.stringify([name, Object.entries(labels).sort()])
    assert.ok(!seen.has(key), `twice: ${line}`)
    seen.add(key)
    series.push({ name, labels, value: numberOf(number) })
  }
  return {
    types,
    series,
    value: (name, labels = {}) => {
      const wanted = JSON.stringify(Object.entries(labels).sort())
      return series.find((one) => one.name === name && JSON.stringify(Object.entries(one.labels).sort()) === wanted)
        ?.value
    },
  }
}

function labelsOf(text: string): Record<string, string> {
  const labels: Record<string, string> = {}
  for (let rest = text; rest !== ''; ) {
    const [all, name = '', value = ''] = LABEL.exec(rest) ?? assert.fail(`no label: ${rest}`)
    assert.ok(!Object.hasOwn(labels, name), `label ${name} comes twice`)
    labels[name] = value.replace(/\\(.)/g, (_, char) => (char === 'n' ? '\n' : char))
    rest = rest.slice(all.length)
  }
  return labels
}

/** As Go's ParseFloat takes them, which Prometheus uses. */
function numberOf(text: string): number {
  if (/^[+-]?inf$/i.test(text)) return text.startsWith('-') ? -Infinity : Infinity
  if (/^nan$/i.test(text)) return Number.NaN
  assert.match(text, /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i)
  return Number(text)
}
