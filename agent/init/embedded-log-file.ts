import { type FileHandle, open } from 'node:fs/promises'
import { isErrno } from '../../shared/failure.ts'

// One log and its older half. The writer renames `x.log` to `x.log.1` at any time, so a place in a log is a file's own
// identity and an offset, never a name.

/** First look at a file's end: some 600 lines. It grows until there are as many lines as asked for. */
const FIRST_TAIL_BYTES = 64 * 1024
/** More than the longest line with its stamp, so that each block ends a line. */
const BLOCK_BYTES = 256 * 1024
const NEWLINE = 0x0a

export interface Cursor {
  file: string
  offset: number
}

/** Before the first line: a log that nobody has written yet. */
const NOWHERE: Cursor = { file: '', offset: 0 }

interface Part {
  handle: FileHandle
  file: string
  size: number
}

/** The newest lines, oldest first, and where to read on. */
export async function readTail(path: string, count: number): Promise<{ lines: string[]; cursor: Cursor }> {
  const parts = await openParts(path)
  try {
    let lines: string[] = []
    let cursor = NOWHERE
    for (const part of parts.toReversed()) {
      if (cursor !== NOWHERE && lines.length >= count) break
      const tail = await lastLines(part, count - lines.length)
      if (cursor === NOWHERE) cursor = { file: part.file, offset: tail.end }
      lines = [...tail.lines, ...lines]
    }
    return { lines, cursor }
  } finally {
    for (const { handle } of parts) await handle.close()
  }
}

/** Whole lines after the cursor, one block of them. No lines: there are no more for now. */
export async function readOn(path: string, from = NOWHERE): Promise<{ lines: string[]; cursor: Cursor }> {
  const parts = await openParts(path)
  try {
    const known = parts.findIndex(({ file }) => file === from.file)
    let cursor = from
    // A file we never saw, or one that was dropped before we came to its end: begin with the oldest there is.
    for (const part of parts.slice(Math.max(known, 0))) {
      const start = part.file === from.file && from.offset <= part.size ? from.offset : 0
      const { lines, bytes } = linesOf(await readAt(part, start, start + BLOCK_BYTES))
      cursor = { file: part.file, offset: start + bytes }
      if (lines.length > 0) return { lines, cursor }
    }
    return { lines: [], cursor }
  } finally {
    for (const { handle } of parts) await handle.close()
  }
}

/** The older half first. */
async function openParts(path: string): Promise<Part[]> {
  const newer = await openPart(path)
  const older = await openPart(`${path}.1`)
  // Renamed between the two: both are the same file, and the newer one does not exist yet or is empty.
  if (newer && newer.file === older?.file) {
    await newer.handle.close()
    return [older]
  }
  return [older, newer].filter((part) => part !== undefined)
}

async function openPart(path: string): Promise<Part | undefined> {
  try {
    const handle = await open(path, 'r')
    const { ino, birthtimeMs, size } = await handle.stat()
    // An inode's number is given to a new file as soon as the old one is gone.
    return { handle, file: `${ino}:${birthtimeMs}`, size }
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined
    throw error
  }
}

async function lastLines(part: Part, count: number): Promise<{ lines: string[]; end: number }> {
  for (let bytes = FIRST_TAIL_BYTES; ; bytes *= 4) {
    const start = Math.max(0, part.size - bytes)
    const data = await readAt(part, start, part.size)
    const whole = linesOf(data)
    // The first one may have been cut by where we began.
    const lines = start === 0 ? whole.lines : whole.lines.slice(1)
    if (start === 0 || lines.length >= count) {
      return { lines: count > 0 ? lines.slice(-count) : [], end: start + whole.bytes }
    }
  }
}

async function readAt({ handle, size }: Part, start: number, end: number): Promise<Buffer> {
  const data = Buffer.alloc(Math.min(end, size) - start)
  const { bytesRead } = await handle.read(data, 0, data.length, start)
  return data.subarray(0, bytesRead)
}

/** Whole lines and how many bytes they are; a line that is being written is left for later. */
function linesOf(data: Buffer): { lines: string[]; bytes: number } {
  const bytes = data.lastIndexOf(NEWLINE) + 1
  return { lines: bytes === 0 ? [] : data.toString('utf8', 0, bytes - 1).split('\n'), bytes }
}
