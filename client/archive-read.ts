import { createHash } from 'node:crypto'
import { closeSync, createReadStream, openSync, readSync } from 'node:fs'
import { pipeline, type Transform } from 'node:stream'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { Parser } from 'tar/parse'
import type { ReadEntry } from 'tar/read-entry'
import { Failure } from '../shared/failure.ts'
import { type FileEntry, MAX_FILE_BYTES, MAX_FILES } from '../shared/manifest.ts'
import type { Sha256 } from '../shared/names.ts'
import { digestOfHash, PORTION_BYTES, unreadable } from './source.ts'
import type { Spool } from './spool.ts'

// Reads tarballs that other programs made. The parser of the package `tar` tells what is in one; where a byte goes is
// decided here, and only two places exist: a list in memory, and the spool. What cannot be
// carried over faithfully is refused by name: node-tar's own extraction skips such entries and calls it a success.

export type ArchiveEntry =
  | ({ kind: 'file' } & FileEntry)
  | { kind: 'link'; path: string; link: string }
  | { kind: 'dir'; path: string }

const GZIP = Buffer.from([0x1f, 0x8b])
const ZSTD = Buffer.from([0x28, 0xb5, 0x2f, 0xfd])
const BLOCK_BYTES = 512

/**
 * What the archive holds, in its order, paths made plain (`./a//b/` is `a/b`). The content of a file lies in
 * the spool at `places` of its digest. Throws `source_invalid` naming the entry.
 */
export async function readArchive(
  file: string,
  spool: Spool,
): Promise<{ entries: ArchiveEntry[]; places: Map<Sha256, number> }> {
  const found = new Map<string, ArchiveEntry>()
  const places = new Map<Sha256, number>()
  let failure: unknown
  let ended = false
  // A throw inside the parser's events would tear through its own state: kept, and thrown where the bytes are fed.
  const guarded = (act: () => void): void => {
    try {
      if (failure === undefined) act()
    } catch (error) {
      failure = error
    }
  }
  const parser = new Parser({
    strict: true,
    onReadEntry: (entry) => guarded(() => take(entry, { found, places, spool, guarded })),
  })
  parser.on('ignoredEntry', (entry: ReadEntry) => guarded(() => refuse(entry.path, `an entry of type ${entry.type}`)))
  parser.on('meta', (text: string) => guarded(() => checkMeta(text)))
  parser.on('error', (error: Error) =>
    guarded(() => {
      throw unreadable(file, error)
    }),
  )
  parser.on('nullBlock', () => {
    ended = true
  })
  try {
    for await (const chunk of wholeBlocks(unpacked(file))) {
      parser.write(chunk)
      if (failure !== undefined) throw failure
    }
    parser.end()
    if (failure !== undefined) throw failure
    // A tar that was cut between two entries looks like a shorter one, but for the zeros at its end.
    if (!ended) refuse(file, 'without an end-of-archive mark: it was cut short')
  } catch (error) {
    throw error instanceof Failure ? error : unreadable(file, error)
  }
  return { entries: [...found.values()], places }
}

type Taking = {
  found: Map<string, ArchiveEntry>
  places: Map<Sha256, number>
  spool: Spool
  guarded: (act: () => void) => void
}

function take(entry: ReadEntry, taking: Taking): void {
  const { found } = taking
  const path = plainPath(entry.path, entry.path)
  const known = found.get(path)
  if (found.size >= MAX_FILES) refuse(path, `one of more than ${MAX_FILES} entries`)
  if (entry.type === 'Directory') {
    if (known !== undefined && known.kind !== 'dir') refuse(path, 'there twice')
    // The top itself (`./`) has no name and needs none.
    if (path !== '') found.set(path, { kind: 'dir', path })
    entry.resume()
    return
  }
  if (known !== undefined) refuse(path, 'there twice')
  if (path === '') refuse(entry.path, 'no name for a file')
  switch (entry.type) {
    case 'File':
    case 'OldFile':
    case 'ContiguousFile': {
      if (entry.size > MAX_FILE_BYTES) refuse(path, `of ${entry.size} bytes; the limit is ${MAX_FILE_BYTES}`)
      const mode = ((entry.mode ?? 0) & 0o111) === 0 ? '0644' : '0755'
      keep(entry, taking, (content) => found.set(path, { kind: 'file', path, mode, ...content }))
      return
    }
    case 'SymbolicLink':
      found.set(path, { kind: 'link', path, link: utf8(path, entry.linkpath ?? '') })
      break
    case 'Link': {
      const target = found.get(plainPath(path, entry.linkpath ?? ''))
      if (target === undefined || target.kind === 'dir')
        refuse(path, `a hard link to ${JSON.stringify(entry.linkpath)}, which no entry before it is`)
      found.set(path, { ...target, path })
      break
    }
    default:
      refuse(path, `an entry of type ${entry.type}`)
  }
  if (entry.size > 0) refuse(path, `an entry of type ${entry.type} with content`)
  entry.resume()
}

type Content = Pick<FileEntry, 'size' | 'sha256'>

/** Small contents wait until their digest is known, so that equal ones are kept once; big ones go out as they come. */
function keep(entry: ReadEntry, { spool, places, guarded }: Taking, done: (content: Content) => void): void {
  const hash = createHash('sha256')
  const place = spool.end()
  let waiting: Buffer[] = []
  let bytes = 0
  const flush = (): void => {
    for (const chunk of waiting) spool.append(chunk)
    waiting = []
  }
  entry.on('data', (chunk: Buffer) =>
    guarded(() => {
      hash.update(chunk)
      waiting.push(chunk)
      bytes += chunk.length
      if (bytes >= PORTION_BYTES) flush()
    }),
  )
  entry.on('end', () =>
    guarded(() => {
      if (bytes !== entry.size) refuse(entry.path, `of ${entry.size} bytes, but has ${bytes}: it was cut short`)
      const digest = digestOfHash(hash)
      if (!places.has(digest)) {
        flush()
        places.set(digest, place)
      }
      done({ size: bytes, sha256: digest })
    }),
  )
}

function plainPath(name: string, path: string): string {
  if (path.startsWith('/'))
    refuse(name, path === name ? 'absolute' : `a link to ${JSON.stringify(path)}, which is absolute`)
  const segments = utf8(name, path).split('/')
  if (segments.includes('..'))
    refuse(name, path === name ? 'outside of the archive' : `a link to ${JSON.stringify(path)}, outside of the archive`)
  return segments.filter((segment) => segment !== '' && segment !== '.').join('/')
}

/** The parser puts U+FFFD for bytes that are no UTF-8. A name that truly has that character is refused too; nobody misses it. */
function utf8(name: string, text: string): string {
  if (text.includes('\uFFFD')) refuse(name, 'not UTF-8')
  return text
}

/** The parser knows nothing of sparse files in pax headers, and would give the map of the holes as their content. */
function checkMeta(text: string): void {
  if (/^\d+ GNU\.sparse\./m.test(text)) refuse(/ GNU\.sparse\.name=(.*)/.exec(text)?.[1] ?? 'unknown', 'a sparse file')
}

function refuse(path: string, what: string): never {
  throw new Failure('source_invalid', `read archive ${JSON.stringify(path)}: it is ${what}`, {
    hint: 'make the archive anew from plain files, directories and links, or push the directory itself',
  })
}

/** Throws what the decompressor throws. */
async function* unpacked(file: string): AsyncGenerator<Buffer> {
  const head = headOf(file)
  const bytes = createReadStream(file, { highWaterMark: PORTION_BYTES })
  let unpack: Transform | undefined
  if (startsWith(head, GZIP)) unpack = createGunzip({ chunkSize: PORTION_BYTES })
  if (startsWith(head, ZSTD)) unpack = createZstdDecompress({ chunkSize: PORTION_BYTES })
  if (unpack) pipeline(bytes, unpack, () => {})
  let first = true
  for await (const chunk of unpack ?? bytes) {
    // The parser would unpack again, on its own terms.
    if (first && unpack && (startsWith(chunk, GZIP) || startsWith(chunk, ZSTD))) refuse(file, 'compressed twice')
    first = false
    yield chunk
  }
}

function startsWith(bytes: Buffer, magic: Buffer): boolean {
  return bytes.subarray(0, magic.length).equals(magic)
}

function headOf(file: string): Buffer {
  const fd = openSync(file, 'r')
  try {
    const head = Buffer.alloc(ZSTD.length)
    return head.subarray(0, readSync(fd, head))
  } finally {
    closeSync(fd)
  }
}

/** In whole blocks: the parser decodes a pax header piece by piece, and would break a character that lies on the seam. */
async function* wholeBlocks(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let rest: Buffer = Buffer.alloc(0)
  for await (const chunk of chunks) {
    const bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    const end = bytes.length - (bytes.length % BLOCK_BYTES)
    rest = bytes.subarray(end)
    if (end > 0) yield bytes.subarray(0, end)
  }
  if (rest.length > 0) yield rest
}
