import { readFileSync } from 'node:fs'
import { availableParallelism, cpus, release, totalmem } from 'node:os'
import Table from 'cli-table3'
import prettyBytes from 'pretty-bytes'
import { CASES, type CaseName } from './cases.ts'
import type { LinkName } from './link.ts'
import type { Sample } from './measure.ts'
import type { PeerName } from './peers.ts'
import { run } from './programs.ts'
import type { TreeName } from './trees.ts'

// What was measured, for people and for programs.

/** Medians of one case for all peers. */
export interface Row {
  tree: TreeName
  link: LinkName
  case: CaseName
  peers: Partial<Record<PeerName, { ms: number; bytes: number | undefined; rounds: number }>>
}

export interface Machine {
  cores: number
  cpu: string
  memoryBytes: number
  kernel: string
  fileSystem: string
  node: string
}

export async function machine(dir: string): Promise<Machine> {
  const { stdout } = await run(['stat', '-f', '-c', '%T', dir])
  return {
    cores: availableParallelism(),
    cpu: cpus()[0]?.model ?? '?',
    memoryBytes: totalmem(),
    kernel: release(),
    fileSystem: stdout.trim(),
    node: process.version,
  }
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
      }
    }
  }
  return [...rows.values()]
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
      return `${shownMs(peer.ms)}${ratio}${bytes}`
    })
    const title = CASES.find(({ name }) => name === row.case)?.title ?? row.case
    output.push([row.tree, row.link, title, ...cells])
  }
  return output.toString()
}

export function shownMs(ms: number): string {
  return ms < 1_000 ? `${Math.round(ms)} ms` : `${(ms / 1_000).toFixed(2)} s`
}

/** The load of others, who make every figure worse: told, so that nobody wonders. */
export function loadAverage(): string {
  return readFileSync('/proc/loadavg', 'utf8').split(' ').slice(0, 3).join(' ')
}
