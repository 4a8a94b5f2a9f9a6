import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Case, type CaseName, ROUND_FILE } from './cases.ts'
import type { LinkName } from './link.ts'
import type { Peer, PeerName } from './peers.ts'
import { run } from './programs.ts'
import { makeSite, type Site } from './site.ts'
import type { Step, Tarmac } from './tarmac.ts'
import { type TreeName, tree } from './trees.ts'

export interface Sample {
  tree: TreeName
  link: LinkName
  case: CaseName
  peer: PeerName
  round: number
  ms: number
  bytes: number | undefined
  /** Of Tarmac: what the agent told, step by step. */
  steps?: Step[]
}

/** Longer than the client's hash cache distrusts files that were just written (2 s): a checkout is older than its push. */
export const SETTLED_MS = 2_500

/** Half a minute and more a push, and far behind: a second look would take the time of all others and change nothing. */
const ONCE_ON_BIG: PeerName[] = ['casync', 'tar-gz']

export interface Plan {
  tree: TreeName
  link: LinkName
  cases: Case[]
  rounds: number
  peers(site: Site): Peer[]
  tell(text: string): void
}

/** All samples of one tree on one link. The peers take turns within a round, and another one begins in each. */
export async function measure(plan: Plan): Promise<Sample[]> {
  const { tell } = plan
  const site = await makeSite(plan.link)
  const peers = plan.peers(site)
  const samples: Sample[] = []
  try {
    await become(site, plan.tree)
    for (const peer of peers) await peer.reset()
    await sleep(SETTLED_MS)
    let isPushed = false
    for (const one of plan.cases) {
      if (!isPushed && one.fromNothing === undefined) await pushAll(peers, site)
      isPushed = true
      if (one.name === 'rollback') await secondRelease(peers, site)
      for (let round = 0; round < plan.rounds; round++) {
        await one.edit?.(site.source, round)
        for (const peer of rotated(peers, round)) {
          if (one.peers !== undefined && !one.peers.includes(peer.name)) continue
          if (round > 0 && plan.tree === 'big' && ONCE_ON_BIG.includes(peer.name)) continue
          const sample = { ...(await sampled(site, { one, peer, round })), tree: plan.tree, link: plan.link }
          samples.push(sample)
          tell(
            `${plan.tree} ${plan.link} ${one.name} ${round + 1}/${plan.rounds} ${peer.name}: ${Math.round(sample.ms)} ms`,
          )
        }
      }
    }
  } finally {
    for (const peer of peers) await peer.end()
    await site.end()
  }
  return samples
}

/** The source is a copy of that tree from now on. */
export async function become({ source }: Pick<Site, 'source'>, name: TreeName): Promise<void> {
  rmSync(source, { recursive: true })
  // `cp -a`: times stay, as they do in a checkout.
  cpSync(await tree(name), source, { recursive: true, preserveTimestamps: true, verbatimSymlinks: true })
  writeFileSync(join(source, ROUND_FILE), 'the first\n')
}

async function sampled(
  { link, ...site }: Site,
  { one, peer, round }: { one: Case; peer: Peer; round: number },
): Promise<Omit<Sample, 'tree' | 'link'>> {
  if (one.fromNothing) await peer.reset()
  // What others left to be written is not this one's to wait for.
  await run(['sync'])
  await one.before?.({ link, ...site })
  const before = await link.bytesOnWire()
  const { ms } = await one.measured(peer)
  const after = await link.bytesOnWire()
  if (one.name !== 'rollback' && one.name !== 'status') assertCurrent(site.source, peer)
  const bytes = before === undefined || after === undefined ? undefined : after - before
  const steps = isTarmac(peer) && one.name !== 'status' ? { steps: peer.steps() } : {}
  return { case: one.name, peer: peer.name, round, ms, bytes, ...steps }
}

/** A peer that was fast because it brought something else would win. */
function assertCurrent(source: string, peer: Peer): void {
  const wanted = readFileSync(join(source, ROUND_FILE), 'utf8')
  const got = readFileSync(join(peer.current(), ROUND_FILE), 'utf8')
  if (got !== wanted) throw new Error(`${peer.name}: current has ${JSON.stringify(got)}, not ${JSON.stringify(wanted)}`)
}

async function pushAll(peers: Peer[], { source }: Pick<Site, 'source'>): Promise<void> {
  for (const peer of peers) {
    await peer.push()
    assertCurrent(source, peer)
  }
}

/** So that there is one to go back to. */
async function secondRelease(peers: Peer[], site: Site): Promise<void> {
  writeFileSync(join(site.source, ROUND_FILE), `another ${Date.now()}\n`)
  await pushAll(peers, site)
}

export function rotated<T>(all: T[], by: number): T[] {
  const from = by % all.length
  return [...all.slice(from), ...all.slice(0, from)]
}

function isTarmac(peer: Peer): peer is Tarmac {
  return peer.name === 'tarmac'
}
