import { createHash, type Hash } from 'node:crypto'
import { Failure } from '../shared/failure.ts'
import { type Sha256, sha256 } from '../shared/names.ts'
import { digestOfHash, fileBytes } from './source.ts'

/** Yields after each portion of the file, so that others can run meanwhile; returns the digest. */
export function* digestOf(file: string, size: number, scratch: Buffer): Generator<void, Sha256> {
  let hash: Hash | undefined
  let digest: Sha256 | undefined
  let total = 0
  for (const portion of fileBytes(file, scratch)) {
    total += portion.length
    // The first is mostly the only one, and then less than could be: one call into the library instead of three.
    if (hash === undefined && portion.length < scratch.length) digest = sha256(portion)
    else {
      hash ??= createHash('sha256')
      hash.update(portion)
      yield
    }
  }
  if (total !== size) {
    throw new Failure(
      'source_invalid',
      `hash ${JSON.stringify(file)}: it had ${size} bytes and then ${total}: something writes to it`,
      {
        hint: 'run again when nothing writes to it, or name it in .tarmacignore',
      },
    )
  }
  return digest ?? digestOfHash(hash ?? createHash('sha256'))
}
