import { appendFileSync, cpSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { LinkName } from './link.ts'
import type { Peer, PeerName } from './peers.ts'
import { type Ran, run } from './programs.ts'
import { bytesFromSeed } from './seeded.ts'
import type { Site } from './site.ts'
import type { Tarmac } from './tarmac.ts'
import { BINARY_FILE, bumps, filesIn, type TreeName, tree } from './trees.ts'

// What is measured. A case edits the source once a round, and every peer brings the same edit.

export type CaseName = 'first' | 'first-cold' | 'nothing' | 'push-5' | 'bump' | 'binary' | 'rollback' | 'status'

export interface Case {
  name: CaseName
  title: string
  /** For a plot, where the title is too long. */
  short?: string
  trees: TreeName[]
  /** Undefined: all. */
  links?: LinkName[]
  /** Undefined: all. */
  peers?: PeerName[]
  /** Each sample begins with an empty host. */
  fromNothing?: true
  /** Edits the source for all peers. */
  edit?(source: string, round: number): Promise<void> | void
  /** Just before a peer's sample, not in its time. */
  before?(site: Site): Promise<unknown>
  measured(peer: Peer): Promise<Ran>
}

const ALL: TreeName[] = ['big', 'small', 'tiny']
/** Written anew each round: what a peer brought is known by it. */
export const ROUND_FILE = 'round.txt'
const CHANGED_FILES = 5

export const CASES: Case[] = [
  {
    name: 'first',
    title: 'first push',
    trees: ALL,
    fromNothing: true,
    measured: (peer) => peer.push(),
  },
  {
    name: 'first-cold',
    title: 'first push, source not in the page cache',
    short: 'first push, cold',
    trees: ['big'],
    links: ['loopback'],
    fromNothing: true,
    before: ({ source }) => run(['vmtouch', '-q', '-e', source]),
    measured: (peer) => peer.push(),
  },
  { name: 'nothing', title: 'nothing changed', trees: ALL, measured: (peer) => peer.push() },
  {
    name: 'push-5',
    title: `${CHANGED_FILES} files changed`,
    trees: ALL,
    edit: editFive,
    measured: (peer) => peer.push(),
  },
  {
    name: 'bump',
    title: 'one dependency bumped',
    trees: ['big', 'small'],
    edit: bump,
    measured: (peer) => peer.push(),
  },
  {
    name: 'binary',
    title: '120 MB binary, 5 small edits and an insertion',
    short: 'edited 120 MB',
    trees: ['binary'],
    edit: editBinary,
    measured: (peer) => peer.push(),
  },
  { name: 'rollback', title: 'rollback', trees: ALL, measured: (peer) => peer.rollback() },
  {
    name: 'status',
    title: 'status',
    trees: ALL,
    peers: ['tarmac'],
    measured: (peer) => (peer as Tarmac).client('status'),
  },
]

export function editFive(source: string, round: number): void {
  const files = filesIn(source).filter((file) => /\.[cm]?js$/.test(file))
  for (let index = 1; index < CHANGED_FILES; index++) {
    const file = files[Math.floor((files.length * index) / CHANGED_FILES)] ?? ''
    appendFileSync(join(source, file), `\n// round ${round} ${Date.now()}\n`)
  }
  writeFileSync(join(source, ROUND_FILE), `push-5 ${round} ${Date.now()}\n`)
}

/**
 * The package in its other version, round by round. What differs between the two gets a space more as well, so that
 * no peer finds it where it lay two releases ago.
 */
async function bump(source: string, round: number): Promise<void> {
  const name = existsSync(join(source, 'node_modules/aws-sdk')) ? '@aws-sdk/client-s3' : 'express'
  const at = join('node_modules', name)
  const kept = join(await tree(name === 'express' ? 'small' : 'big'), at)
  const bumped = join(await bumps(), at)
  const [from, other] = round % 2 === 0 ? [bumped, kept] : [kept, bumped]
  rmSync(join(source, at), { recursive: true })
  cpSync(from, join(source, at), { recursive: true, preserveTimestamps: true })
  for (const file of filesIn(from)) {
    if (isSame(join(from, file), join(other, file))) continue
    appendFileSync(join(source, at, file), ' '.repeat(round + 1))
  }
  writeFileSync(join(source, ROUND_FILE), `bump ${round} ${Date.now()}\n`)
}

function isSame(a: string, b: string): boolean {
  return existsSync(b) && readFileSync(a).equals(readFileSync(b))
}

function editBinary(source: string, round: number): void {
  const file = join(source, BINARY_FILE)
  const bytes = readFileSync(file)
  for (let place = 1; place <= CHANGED_FILES; place++) {
    bytesFromSeed(`${round} ${place}`, 64).copy(bytes, Math.floor((bytes.length * place) / (CHANGED_FILES + 1)))
  }
  const middle = Math.floor(bytes.length / 3)
  const inserted = bytesFromSeed(`${round} inserted`, 100)
  writeFileSync(file, Buffer.concat([bytes.subarray(0, middle), inserted, bytes.subarray(middle)]))
  writeFileSync(join(source, ROUND_FILE), `binary ${round} ${Date.now()}\n`)
}
