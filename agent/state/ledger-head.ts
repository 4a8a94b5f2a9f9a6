import { lstatSync, readFileSync } from 'node:fs'
import { isErrno } from '../../shared/failure.ts'
import { type Head, type Link, NO_LINK } from './chain.ts'
import { writeWholeSync } from './disk.ts'
import type { HeadFile } from './ledger-chain.ts'

// The newest link, kept beside the ledger and not in it: a ledger that was put back from an older copy does not know it.

const PRIVATE = 0o600
/** A head is one short line. */
const MAX_BYTES = 1024

export function headAt(file: string): HeadFile {
  return {
    read: () => readHead(file),
    /** Throws when it cannot be written: the one there was stays, and is older than the ledger, which is no harm. */
    write: ({ number, deploy, hash }) =>
      writeWholeSync(file, `${JSON.stringify({ format: 1, number, deploy, hash })}\n`, { mode: PRIVATE }),
  }
}

function readHead(file: string): Head {
  let text: string
  try {
    if (lstatSync(file).size > MAX_BYTES) return 'unreadable'
    text = readFileSync(file, 'utf8')
  } catch (error) {
    return isErrno(error, 'ENOENT') ? 'absent' : 'unreadable'
  }
  return parseHead(text) ?? 'unreadable'
}

export function parseHead(text: string): Link | undefined {
  try {
    const { format, number, deploy, hash } = JSON.parse(text) as Record<string, unknown>
    if (format !== 1 || !isCount(number) || !isCount(deploy)) return undefined
    if (typeof hash !== 'string' || hash.length !== NO_LINK.hash.length || !/^[0-9a-f]+$/.test(hash)) return undefined
    return { number, deploy, hash }
  } catch {
    // No JSON, or JSON that is no object.
    return undefined
  }
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}
