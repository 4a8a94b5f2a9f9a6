import Table from 'cli-table3'
import prettyBytes from 'pretty-bytes'
import { CASES, type CaseName } from './cases.ts'
import type { LinkName } from './link.ts'
import type { Sample } from './measure.ts'
import type { PeerName } from './peers.ts'
import type { TreeName } from './trees.ts'

// What was measured, for people and for programs.

export interface Median {
  ms: number
  bytes: number | undefined
  rounds: number
  /** Of Tarmac: from the release assembled to the new process serving. */
  switchMs?: number
}

/** Medians of one case for all peers. */
export interface Row {
  tree: TreeName
  link: LinkName
  case: CaseName
  peers: Partial<Record<PeerName, Median>>
}

export function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length / 2
  return sorted.length % 2 === 1
    ? (sorted[Math.floor(middle)] ?? 0)
    : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2
}

export function rowsOf(samples: Sample[]): Row[] {
  const rows = new Map<string, Row>()
  for (const { tree, link, case: name } of samples) {
    rows.set(`${tree} ${link} ${name}`, { tree, link, case: name, peers: {} })
  }
  for (const row of rows.values()) {
    const mine = samples.filter(
      ({ tree, link, case: name }) => tree === row.tree && link === row.link && name === row.case,
    )
    for (const peer of new Set(mine.map(({ peer }) => peer))) {
      const of = mine.filter((sample) => sample.peer === peer)
      const bytes = of.flatMap(({ bytes }) => (bytes === undefined ? [] : [bytes]))
      row.peers[peer] = {
        ms: median(of.map(({ ms }) => ms)),
        bytes: bytes.length === 0 ? undefined : median(bytes),
        rounds: of.length,
        ...switchOf(of),
      }
    }
  }
  return [...rows.values()]
}

function switchOf(samples: Sample[]): { switchMs?: number } {
  const switches = samples.flatMap(({ steps = [] }) => {
    const at = (name: string) => steps.find(({ step }) => step === name)?.ms
    const switched = at('switched')
    return switched === undefined ? [] : [switched - (at('assembled') ?? 0)]
  })
  return switches.length === 0 ? {} : { switchMs: median(switches) }
}

/** A line a case: each peer's median, how often Tarmac's time goes into it, and what went over the wire. */
export function table(rows: Row[]): string {
  const names = [...new Set(rows.flatMap(({ peers }) => Object.keys(peers) as PeerName[]))]
  const output = new Table({ head: ['tree', 'link', 'case', ...names], style: { head: [], border: [] } })
  for (const row of rows) {
    const ours = row.peers.tarmac?.ms
    const cells = names.map((name) => {
      const peer = row.peers[name]
      if (peer === undefined) return '–'
      const ratio = name === 'tarmac' || ours === undefined ? '' : `  ×${(ours / peer.ms).toFixed(2)}`
      const bytes = peer.bytes === undefined ? '' : `\n${prettyBytes(peer.bytes)}`
      const switched = peer.switchMs === undefined ? '' : `\nswitch ${shownMs(peer.switchMs)}`
      return `${shownMs(peer.ms)}${ratio}${bytes}${switched}`
    })
    const title = CASES.find(({ name }) => name === row.case)?.title ?? row.case
    output.push([row.tree, row.link, title, ...cells])
  }
  return output.toString()
}

export function shownMs(ms: number): string {
  return ms < 1_000 ? `${Math.round(ms)} ms` : `${(ms / 1_000).toFixed(2)} s`
}
