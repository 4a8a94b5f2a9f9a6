// `npm run bench`: Tarmac beside what people use instead, in one run, on one disk and one link. README.md here says more.
//
//   npm run bench                                                    all of it, an hour or so
//   npm run bench -- --tree small --case push-5 --link loopback --rounds 3 --peer tarmac --peer rsync
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { CASES } from './cases.ts'
import type { LinkName } from './link.ts'
import { measure, type Sample } from './measure.ts'
import { makeReady } from './needs.ts'
import { casync, type Peer, type PeerName, rsync, tarGz, tarZstd } from './peers.ts'
import { loadAverage, machine, rowsOf, table } from './report.ts'
import type { Site } from './site.ts'
import { DIST, tarmac } from './tarmac.ts'
import { sizeOf, type TreeName, tree } from './trees.ts'

const PEERS: Record<PeerName, (site: Site, options: { programs: string }) => Peer> = {
  tarmac,
  rsync,
  'tar-zstd': tarZstd,
  casync,
  'tar-gz': tarGz,
}
const TREES: TreeName[] = ['big', 'small', 'binary']
const LINKS: LinkName[] = ['loopback', 'shaped']
const ROUNDS = 5
const RESULTS = join(import.meta.dirname, 'results')

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      tree: { type: 'string', multiple: true },
      link: { type: 'string', multiple: true },
      case: { type: 'string', multiple: true },
      peer: { type: 'string', multiple: true },
      rounds: { type: 'string' },
      out: { type: 'string' },
      programs: { type: 'string', default: DIST },
    },
  })
  const trees = chosen(values.tree, { from: ['big', 'small', 'tiny', 'binary'], usually: TREES })
  const links = chosen(values.link, { from: ['local', 'loopback', 'shaped'], usually: LINKS })
  const names = CASES.map(({ name }) => name)
  const cases = chosen(values.case, { from: names, usually: names })
  const peers = chosen(values.peer, {
    from: Object.keys(PEERS) as PeerName[],
    usually: Object.keys(PEERS) as PeerName[],
  })
  const rounds = values.rounds === undefined ? ROUNDS : Number(values.rounds)
  if (!Number.isSafeInteger(rounds) || rounds < 1) throw new Error(`--rounds ${values.rounds}: is no number of rounds`)
  makeReady({ isAlone: links.every((link) => link === 'local') })

  const date = new Date().toISOString()
  const samples: Sample[] = []
  const made: Partial<Record<LinkName, string>> = {}
  for (const link of links) {
    for (const name of trees) {
      const those = CASES.filter((one) => cases.includes(one.name) && one.trees.includes(name))
      if (those.length === 0) continue
      const plan = {
        tree: name,
        link,
        rounds,
        cases: those,
        peers: (site: Site) => peers.map((peer) => PEERS[peer](site, { programs: values.programs })),
        tell: (text: string) => console.error(text),
        linked: (text: string) => {
          made[link] = text
        },
      }
      samples.push(...(await measure(plan)))
    }
  }
  const rows = rowsOf(samples)
  console.log(table(rows))
  console.log(
    `×: Tarmac's time divided by the peer's. Medians of ${rounds}, peers in turn; load average ${loadAverage()}.`,
  )
  for (const [name, text] of Object.entries(made)) console.log(`${name}: ${text}`)
  const sizes: Record<string, unknown> = {}
  for (const name of trees) sizes[name] = sizeOf(await tree(name))
  const out = values.out ?? join(RESULTS, `${date.slice(0, 10)}.json`)
  mkdirSync(join(out, '..'), { recursive: true })
  const result = { date, machine: await machine('/var/tmp'), links: made, trees: sizes, rounds, rows, samples }
  writeFileSync(out, `${JSON.stringify(result, null, 1)}\n`)
  console.log(`all samples: ${out}`)
}

function chosen<T extends string>(wanted: string[] | undefined, { from, usually }: { from: T[]; usually: T[] }): T[] {
  if (wanted === undefined) return usually
  return wanted.map((text) => {
    const found = from.find((one) => one === text)
    if (found === undefined) throw new Error(`${text}: is none of ${from.join(', ')}`)
    return found
  })
}

await main()
