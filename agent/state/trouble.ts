import { statfsSync } from 'node:fs'
import { dirname } from 'node:path'
import prettyBytes from 'pretty-bytes'
import { type Code, Failure, reasonOf } from '../../shared/failure.ts'

// When the machine says no: no room, a disk that takes nothing, no descriptors left. Expected, and no bug of ours; but
// it comes from everywhere, as an errno, as a code of SQLite, or as the last words of a program.

interface Trouble {
  code: Code
  words: string
  hint: string
}

const FULL = {
  code: 'disk_full',
  hint: 'make room on the host and try again; what could go: tarmac prune --explain',
} as const
const FILES = {
  code: 'files_exhausted',
  words: 'too many files are open',
  hint: 'what keeps them open: ls /proc/*/fd on the host; the limit of the agent: LimitNOFILE= in its unit',
} as const

const TROUBLES: Record<string, Trouble> = {
  ENOSPC: { ...FULL, words: 'the disk is full' },
  EDQUOT: { ...FULL, words: 'the disk quota is used up' },
  EROFS: {
    code: 'disk_read_only',
    words: 'the disk takes no writes',
    hint: 'a file system that met an error is made read-only: dmesg on the host says more',
  },
  EIO: { code: 'disk_failing', words: 'the disk failed', hint: 'dmesg on the host says more' },
  EMFILE: FILES,
  ENFILE: FILES,
}

/** https://www.sqlite.org/rescode.html: what the lowest byte of a result code says. */
const SQLITE: Record<number, string> = { 8: 'EROFS', 10: 'EIO', 13: 'ENOSPC' }

/** strerror(3) in the C locale, in which run.ts starts programs. */
const SPOKEN: Record<string, string> = {
  'No space left on device': 'ENOSPC',
  'Disk quota exceeded': 'EDQUOT',
  'Read-only file system': 'EROFS',
  'Input/output error': 'EIO',
  'Too many open files': 'EMFILE',
}

/** A failure as it is, and trouble of the machine as the failure that it is. Undefined for anything else: a bug. */
export function asFailure(what: string, error: unknown, root: string): Failure | undefined {
  const trouble = troubleOf(error)
  if (trouble === undefined) return error instanceof Failure ? error : undefined
  return new Failure(trouble.code, `${what}: ${troubleWords(error, root)}`, { hint: trouble.hint, cause: error })
}

/** The words of anything that was thrown; of a full disk too how much is free where it happened, or else at `root`. */
export function troubleWords(error: unknown, root: string): string {
  const trouble = troubleOf(error)
  if (trouble === undefined) return reasonOf(error)
  const free = trouble.code === 'disk_full' ? `, ${freeAt(placeOf(error) ?? root)}` : ''
  return `${trouble.words}${free}: ${reasonOf(error)}`
}

function troubleOf(error: unknown): Trouble | undefined {
  const name = nameOfTrouble(error)
  return name === undefined ? undefined : TROUBLES[name]
}

/** `ENOSPC` and its like, whoever says it; undefined for what is no trouble of the machine. Pure. */
export function nameOfTrouble(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined
  if (error instanceof Failure) return error.code === 'program_failed' ? spokenIn(error.message) : undefined
  if ('errcode' in error) return SQLITE[Number(error.errcode) & 0xff]
  return 'code' in error && String(error.code) in TROUBLES ? String(error.code) : undefined
}

/** A program's own words, or the errno of the start of one. */
function spokenIn(message: string): string | undefined {
  const spoken = Object.keys(SPOKEN).find((words) => message.includes(words))
  return spoken === undefined ? Object.keys(TROUBLES).find((name) => message.includes(name)) : SPOKEN[spoken]
}

function placeOf(error: unknown): string | undefined {
  return error instanceof Error && 'path' in error && typeof error.path === 'string' ? error.path : undefined
}

/** Of the nearest directory that is there: what could not be made is not. */
function freeAt(path: string): string {
  try {
    const { bsize, bavail, ffree } = statfsSync(path)
    return `${prettyBytes(bsize * bavail)} and ${ffree} inodes are free at ${path}`
  } catch {
    return dirname(path) === path ? `nothing is known of ${path}` : freeAt(dirname(path))
  }
}
