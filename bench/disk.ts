import { mkdirSync } from 'node:fs'
import Table from 'cli-table3'
import prettyBytes from 'pretty-bytes'
import { editFive } from './cases.ts'
import { type Choice, PEERS } from './compare.ts'
import { become } from './measure.ts'
import { makeReady } from './needs.ts'
import type { PeerName } from './peers.ts'
import { run } from './programs.ts'
import { writeResult } from './results.ts'
import { makeSite } from './site.ts'
import type { TreeName } from './trees.ts'

// What ten releases take, of which each has five files changed. The peers that bring copies take ten times one.

const RELEASES = 10
const THOSE: PeerName[] = ['tarmac', 'rsync', 'casync']

export async function disk({ tree = ['big', 'small'], out, programs }: Choice): Promise<void> {
  makeReady({ isAlone: false })
  const output = new Table({
    head: ['tree', 'peer', '1 release', `${RELEASES} releases`, 'ratio'],
    style: { head: [], border: [] },
  })
  const results: object[] = []
  const site = await makeSite('loopback')
  try {
    for (const name of tree as TreeName[]) {
      for (const peerName of THOSE) {
        const peer = PEERS[peerName](site, { programs })
        await become(site, name)
        await peer.reset()
        try {
          await peer.push()
          const one = await blocksOf(peer.onDisk())
          for (let release = 1; release < RELEASES; release++) {
            editFive(site.source, release)
            await peer.push()
          }
          const ten = await blocksOf(peer.onDisk())
          output.push([name, peerName, prettyBytes(one), prettyBytes(ten), (ten / one).toFixed(3)])
          results.push({ tree: name, peer: peerName, one, ten, ratio: ten / one })
          console.error(`${name} ${peerName}: ${prettyBytes(one)}, ${prettyBytes(ten)}`)
        } finally {
          await peer.end()
          await run(['rm', '-rf', site.host])
          mkdirSync(site.host)
        }
      }
    }
  } finally {
    await site.end()
  }
  console.log(output.toString())
  console.log(`all of it: ${await writeResult('disk', { releases: RELEASES, results }, out)}`)
}

/** What du counts: whole blocks, and what is linked once only. */
async function blocksOf(dir: string): Promise<number> {
  const { stdout } = await run(['du', '-s', '--block-size=1', dir])
  return Number(stdout.split('\t')[0])
}
