import { readFileSync } from 'node:fs'
import { parseAllowedSigners, type Signer } from '../../shared/allowed-signers.ts'
import { Failure, isErrno, reasonOf } from '../../shared/failure.ts'
import { refuseWritableByOthers } from '../config.ts'
import type { Layout } from './layout.ts'

/**
 * Who may ask, read anew each time: taking a person's line out of the file ends their access at once.
 * No signers, or a file that cannot be understood, means that everything is refused.
 */
export function readSigners(layout: Layout): Signer[] {
  const signers = parseAllowedSigners(readSignersText(layout))
  if (signers.length > 0) return signers
  throw new Failure('signers_none', `read ${layout.signersFile}: no signers are known, so nobody could be let in`, {
    hint: "name one: tarmac-agent signers add NAME 'ssh-ed25519 AAAA…' (the client shows its line: tarmac keys)",
  })
}

/** The file's text, '' when there is none. Throws `policy_unreadable`, also when others may write it. */
export function readSignersText(layout: Layout): string {
  try {
    refuseWritableByOthers(layout.signersFile)
    return readFileSync(layout.signersFile, 'utf8')
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return ''
    const told = error instanceof Failure ? { message: error.message, hint: error.hint } : undefined
    throw new Failure('policy_unreadable', told?.message ?? `read ${layout.signersFile}: ${reasonOf(error)}`, {
      ...(told?.hint === undefined ? {} : { hint: told.hint }),
      cause: error,
    })
  }
}
