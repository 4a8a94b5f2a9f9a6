import { CASES } from './cases.ts'
import { peersPlot } from './compare-plot.ts'
import type { LinkName } from './link.ts'
import { measure, type Sample } from './measure.ts'
import { makeReady } from './needs.ts'
import { casync, type Peer, type PeerName, rsync, tarGz, tarZstd } from './peers.ts'
import { loadAverage, readResult, writePlot, writeResult } from './results.ts'
import type { Site } from './site.ts'
import { type Row, rowsOf, table } from './table.ts'
import { tarmac } from './tarmac.ts'
import { sizeOf, type TreeName, tree } from './trees.ts'

// Tarmac beside what people use instead, in one run, on one disk and one link.

export const PEERS: Record<PeerName, (site: Site, options: { programs: string }) => Peer> = {
  tarmac,
  rsync,
  'tar-zstd': tarZstd,
  casync,
  'tar-gz': tarGz,
}
const PEER_NAMES: PeerName[] = ['tarmac', 'rsync', 'tar-zstd', 'casync', 'tar-gz']
const TREES: TreeName[] = ['big', 'small', 'binary']
const LINKS: LinkName[] = ['loopback', 'shaped']
const ROUNDS = 3

/** As typed; undefined: all. */
export interface Choice {
  tree?: string[]
  link?: string[]
  case?: string[]
  peer?: string[]
  rounds?: string
  /** Where the result goes, in place of results/peers.json. */
  out?: string
  /** Keeps what is there of other trees, links and cases. */
  add?: boolean
  programs: string
}

export async function compare(choice: Choice): Promise<void> {
  const trees = chosen(choice.tree, { from: [...TREES, 'tiny'], usually: TREES })
  const links = chosen(choice.link, { from: [...LINKS, 'local'], usually: LINKS })
  const names = CASES.map(({ name }) => name)
  const cases = chosen(choice.case, { from: names, usually: names })
  const peers = chosen(choice.peer, { from: PEER_NAMES, usually: PEER_NAMES })
  const rounds = Number(choice.rounds ?? ROUNDS)
  if (!Number.isSafeInteger(rounds) || rounds < 1) throw new Error(`--rounds ${choice.rounds}: is no number of rounds`)
  makeReady({ isAlone: links.every((link) => link === 'local') })

  const samples: Sample[] = []
  const made: Partial<Record<LinkName, string>> = {}
  const does: Partial<Record<PeerName, string>> = {}
  for (const link of links) {
    for (const name of trees) {
      const those = CASES.filter(
        (one) => cases.includes(one.name) && one.trees.includes(name) && (one.links?.includes(link) ?? true),
      )
      if (those.length === 0) continue
      const measured = await measure({
        tree: name,
        link,
        rounds,
        cases: those,
        peers: (site) => {
          made[link] = site.link.made
          const all = peers.map((peer) => PEERS[peer](site, choice))
          for (const peer of all) does[peer.name] = peer.does
          return all
        },
        tell: (text) => console.error(text),
      })
      samples.push(...measured)
    }
  }
  console.log(table(rowsOf(samples)))
  console.log(
    `×: Tarmac's time divided by the peer's. Medians of ${rounds} (casync and tar-gz on big: once), peers in turn; load average ${loadAverage()}.`,
  )
  console.log(
    'switch: of Tarmac’s time, from the release assembled to the new process serving; the peers start nothing.',
  )
  for (const [name, text] of Object.entries({ ...made, ...does })) console.log(`${name}: ${text}`)
  const sizes: Record<string, unknown> = {}
  for (const name of trees) sizes[name] = sizeOf(await tree(name))
  const before = choice.add ? readResult<Result>('peers', choice.out) : undefined
  const kept = before?.samples.filter((sample) => !samples.some((other) => isOfOneRow(sample, other))) ?? []
  const all = [...kept, ...samples]
  const rows = rowsOf(all)
  const result: Result = {
    links: { ...before?.links, ...made },
    peers: { ...before?.peers, ...does },
    trees: { ...before?.trees, ...sizes },
    rows,
    samples: all,
  }
  console.log(`all samples: ${await writeResult('peers', result, choice.out)}`)
  if (choice.out === undefined) console.log(`plot: ${writePlot('peers', peersPlot(rows))}`)
}

interface Result {
  links: Partial<Record<LinkName, string>>
  peers: Partial<Record<PeerName, string>>
  trees: Record<string, unknown>
  rows: Row[]
  samples: Sample[]
}

function isOfOneRow(a: Sample, b: Sample): boolean {
  return a.tree === b.tree && a.link === b.link && a.case === b.case
}

function chosen<T extends string>(wanted: string[] | undefined, { from, usually }: { from: T[]; usually: T[] }): T[] {
  if (wanted === undefined) return usually
  return wanted.map((text) => {
    const found = from.find((one) => one === text)
    if (found === undefined) throw new Error(`${text}: is none of ${from.join(', ')}`)
    return found
  })
}
