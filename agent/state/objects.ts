import { createHash, hash } from 'node:crypto'
import {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  unlinkSync,
  writeSync,
} from 'node:fs'
import { rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { Failure, isErrno } from '../../shared/failure.ts'
import type { Mode } from '../../shared/manifest.ts'
import type { AppName, Sha256 } from '../../shared/names.ts'
import { placeFile } from './disk.ts'
import type { Layout } from './layout.ts'
import { seal } from './object-check.ts'
import { removeIfEmpty } from './remove.ts'
import { nameOfTrouble } from './trouble.ts'

// The contents of files, each stored once per app under its digest, root-owned and read-only, and hard-linked into
// releases. Executables are objects of their own, since a mode belongs to the inode.
// Synchronous calls on purpose: each takes microseconds, and awaiting 24,000 of them one by one takes seconds.

/** Up to here a content is held whole and written by one call. */
export const WHOLE_BYTES = 1024 * 1024

const MODE_BITS: Record<Mode, number> = { '0644': 0o444, '0755': 0o555 }

/** What every app has. Made one by one: a recursive mkdir would give the last one's mode to all above it. */
export function makeAppDirs(layout: Layout, app: AppName): void {
  mkdirSync(layout.appDir(app), { recursive: true, mode: 0o755 })
  mkdirSync(layout.stagingDir(app), { recursive: true, mode: 0o700 })
  mkdirSync(layout.envDir(app), { recursive: true, mode: 0o700 })
  mkdirSync(layout.releasesDir(app), { recursive: true, mode: 0o755 })
}

export interface IncomingObject {
  sha256: Sha256
  size: number
  /** Of `size` bytes. A portion is good until the next is asked for; `atOnce` gives all of it where it is at hand. */
  content: AsyncIterable<Uint8Array> & { atOnce?(): Uint8Array | undefined }
  /** It was looked for, and is not here. */
  isAbsent?: boolean
}

/**
 * Writes one object, hashed, whole or not at all; not yet durable (see `assemble`).
 * Gives its path, or undefined when it was here before: then the one that releases link to stays. Throws `object_mismatch` when the bytes are not those of the digest.
 */
export async function storeObject(
  layout: Layout,
  app: AppName,
  object: IncomingObject,
  mode: Mode,
): Promise<string | undefined> {
  const path = layout.object(app, object.sha256, mode)
  const temp = layout.incoming(app, `${object.sha256}.part`)
  try {
    if (object.size <= WHOLE_BYTES) {
      const bytes = object.content.atOnce?.() ?? (await whole(object.content, object.size))
      refuseOther(app, object, hash('sha256', bytes, 'hex'))
      if (isHere(path, object)) return undefined
      writeSealed(temp, bytes, { digest: object.sha256, mode })
    } else {
      refuseOther(app, object, await writeLarge(temp, object.content, mode))
      if (isHere(path, object)) {
        await rm(temp, { force: true })
        return undefined
      }
      seal(temp, object.sha256)
    }
    placeFile(temp, path)
  } catch (error) {
    await rm(temp, { force: true })
    throw error
  }
  return path
}

function refuseOther(app: AppName, { sha256 }: IncomingObject, seen: string): void {
  if (seen === sha256) return
  throw new Failure('object_mismatch', `store ${app}: object ${sha256} has the content of ${seen}`, {
    hint: 'it was changed or cut on the way; nothing of it was kept: push again',
  })
}

function isHere(path: string, { isAbsent = false }: IncomingObject): boolean {
  return !isAbsent && existsSync(path)
}

function writeSealed(path: string, bytes: Uint8Array, { digest, mode }: { digest: Sha256; mode: Mode }): void {
  const file = openSync(path, 'w', MODE_BITS[mode])
  try {
    for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at)
    seal(file, digest)
  } finally {
    closeSync(file)
  }
}

/** What comes in one portion is not copied, and so nothing more is asked for. */
async function whole(content: AsyncIterable<Uint8Array>, size: number): Promise<Uint8Array> {
  let bytes: Uint8Array = new Uint8Array(0)
  let used = 0
  for await (const portion of content) {
    if (portion.length === size) return portion
    if (used === 0) bytes = Buffer.allocUnsafe(size)
    bytes.set(portion, used)
    used += portion.length
  }
  return bytes
}

async function writeLarge(temp: string, content: AsyncIterable<Uint8Array>, mode: Mode): Promise<string> {
  const hasher = createHash('sha256')
  const file = openSync(temp, 'w', MODE_BITS[mode])
  try {
    for await (const chunk of content) {
      hasher.update(chunk)
      for (let at = 0; at < chunk.length; ) at += writeSync(file, chunk, at)
    }
  } finally {
    closeSync(file)
  }
  return hasher.digest('hex')
}

/** Links the object to `path` in the mode it is needed in, copying it when only the other mode is here. */
export function linkObject(
  layout: Layout,
  app: AppName,
  file: { sha256: Sha256; mode: Mode; size: number },
  path: string,
): void {
  const object = layout.object(app, file.sha256, file.mode)
  try {
    linkSync(object, path)
    return
  } catch (error) {
    // ext4 stops at 65,000 links to one inode: from there on a release has a copy of its own.
    if (isErrno(error, 'EMLINK')) {
      copyFileSync(object, path)
      seal(path, file.sha256)
      return
    }
    if (!isErrno(error, 'ENOENT')) throw error
  }
  const other = layout.object(app, file.sha256, file.mode === '0755' ? '0644' : '0755')
  if (!existsSync(other)) {
    throw new Failure('object_missing', `assemble ${app}: object ${file.sha256} is not here`, {
      hint: 'push again: what is missing is sent',
    })
  }
  const temp = layout.incoming(app, `${file.sha256}.part`)
  copyFileSync(other, temp)
  chmodSync(temp, MODE_BITS[file.mode])
  seal(temp, file.sha256)
  placeFile(temp, object)
  linkSync(object, path)
}

/**
 * Takes back what a refused upload brought, but for what a release links to by now. What a failing disk does not let go
 * is collected later: it must not hide the refusal.
 */
export function removeObjects(paths: string[]): void {
  for (const path of paths) {
    try {
      if (lstatSync(path, { throwIfNoEntry: false })?.nlink !== 1) continue
      unlinkSync(path)
      removeIfEmpty(dirname(path))
    } catch (error) {
      if (nameOfTrouble(error) === undefined) throw error
    }
  }
}
