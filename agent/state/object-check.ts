import { createHash, hash } from 'node:crypto'
import {
  createReadStream,
  futimesSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
} from 'node:fs'
import { isErrno } from '../../shared/failure.ts'
import type { Mode } from '../../shared/manifest.ts'
import type { AppName, Sha256 } from '../../shared/names.ts'
import { placeFile } from './disk.ts'
import type { Layout } from './layout.ts'
import { spoilSpares } from './spares.ts'

// Whether a content is still the one that was stored. To read 500 MB for each push takes a second; to look at the time
// of the last write is not enough, since nobody knows when the right one was. So that time carries a mark: its
// microseconds follow from the digest. Whatever writes to the file later leaves a time of its own, which bears the mark
// once in a million, and then the content is read. A mark of the whole time (an hour in 1970 for all, as others do it)
// would make web servers answer "not modified" for a file that changed: they go by this time.

const MICROS = 1_000_000
/** Read at once up to here; more is streamed, so that somebody else gets a turn. */
const WHOLE_BYTES = 1024 * 1024
/** Enough to see what happened to them; more say nothing new. */
const MAX_DAMAGED = 100

export interface Content {
  sha256: Sha256
  size: number
}

/** `unsealed`: it was written to, or touched, or its file system keeps no such times. Only reading it tells. */
export type Look = 'absent' | 'sealed' | 'unsealed' | 'wrong'

/** One look, a few microseconds: links are not followed. */
export function lookAt(path: string, { sha256, size }: Content): Look {
  const stats = lstatSync(path, { throwIfNoEntry: false })
  if (stats === undefined) return 'absent'
  if (!stats.isFile() || stats.size !== size) return 'wrong'
  return Math.round(stats.mtimeMs * 1000) % MICROS === markOf(sha256) ? 'sealed' : 'unsealed'
}

/** Says that this file (a path, or an open one) was just seen to have this content. The seconds stay: they order what web servers send. */
export function seal(file: string | number, digest: Sha256, at = Date.now()): void {
  const written = Math.floor(at / 1000) + markOf(digest) / MICROS
  if (typeof file === 'number') futimesSync(file, at / 1000, written)
  else lutimesSync(file, at / 1000, written)
}

function breakSeal(path: string, digest: Sha256): void {
  const now = Math.floor(Date.now() / 1000)
  lutimesSync(path, now, now + ((markOf(digest) + 1) % MICROS) / MICROS)
}

function markOf(digest: Sha256): number {
  return Number.parseInt(digest.slice(0, 12), 16) % MICROS
}

/** A look, and reading it where that does not tell: right, it is sealed again. */
export async function isIntact(path: string, content: Content): Promise<boolean> {
  const look = lookAt(path, content)
  return look === 'sealed' || (look === 'unsealed' && (await isRight(path, content)))
}

/**
 * Reads all of it, sealed or not, `paced` by whoever has time after each mebibyte. What a disk cannot read is not
 * right; what is not there throws.
 */
export async function isRight(path: string, { sha256, size }: Content, paced = async () => {}): Promise<boolean> {
  if ((await digestOf(path, size, paced)) !== sha256) return false
  if (lookAt(path, { sha256, size }) === 'unsealed') seal(path, sha256, lstatSync(path).mtimeMs)
  return true
}

/** The size of what has this content and is not as large as it should be: then it is the size that is wrong. */
export async function otherSizeOf(path: string, { sha256, size }: Content): Promise<number | undefined> {
  const stats = lstatSync(path, { throwIfNoEntry: false })
  if (!stats?.isFile() || stats.size === size) return undefined
  return (await digestOf(path, stats.size)) === sha256 ? stats.size : undefined
}

async function digestOf(path: string, size: number, paced = async () => {}): Promise<string | undefined> {
  try {
    if (size <= WHOLE_BYTES) return hash('sha256', readFileSync(path), 'hex')
    const hasher = createHash('sha256')
    for await (const chunk of createReadStream(path, { highWaterMark: WHOLE_BYTES })) {
      hasher.update(chunk as Buffer)
      await paced()
    }
    return hasher.digest('hex')
  } catch (error) {
    if (isErrno(error, 'EIO')) return undefined
    throw error
  }
}

/**
 * Takes a damaged object out of the store: no release is made of it any more, and the next push is asked for it again.
 * It is kept aside for whoever wants to know what happened; the releases that have it show it at a look.
 */
export function quarantine(layout: Layout, app: AppName, object: { sha256: Sha256; mode: Mode }): void {
  const path = layout.object(app, object.sha256, object.mode)
  breakSeal(path, object.sha256)
  spoilSpares(layout, app)
  mkdirSync(layout.damagedDir(app), { recursive: true, mode: 0o700 })
  if (damagedOn(layout, app).length < MAX_DAMAGED) placeFile(path, layout.damaged(app, object.sha256, object.mode))
  else rmSync(path)
}

/** Removes what was put aside and is in no release any more. */
export function removeDamaged(layout: Layout, app: AppName): void {
  for (const name of damagedOn(layout, app)) {
    const path = layout.damagedNamed(app, name)
    if (lstatSync(path).nlink === 1) rmSync(path)
  }
}

/** Those of these contents that are aside. */
export function amongDamaged(layout: Layout, app: AppName, digests: readonly Sha256[]): Sha256[] {
  const aside = new Set(damagedOn(layout, app).map((name) => name.slice(0, 64)))
  return digests.filter((digest) => aside.has(digest))
}

function damagedOn(layout: Layout, app: AppName): string[] {
  try {
    return readdirSync(layout.damagedDir(app))
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return []
    throw error
  }
}
