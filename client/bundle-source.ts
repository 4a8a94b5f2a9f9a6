import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { type BundleObject, malformed } from '../shared/bundle.ts'
import { type BundleEntry, readBundle } from '../shared/bundle-read.ts'
import { objectsOf } from '../shared/contents.ts'
import { Failure, isErrno } from '../shared/failure.ts'
import { parseManifest, type Signed } from '../shared/manifest.ts'
import type { Sha256 } from '../shared/names.ts'
import { checkAllFound, digestOfHash, PORTION_BYTES, type Source, unreadable } from './source.ts'

/**
 * A bundle that `tarmac pack` wrote, as a source. It is read through once now, every object against its digest, and
 * once more for each call of `objects`: a place inside a zstd frame cannot be gone to, and to unpack it would take its size
 * on the disk. Throws `source_invalid` when it cannot be read, and every refusal that a host would give it.
 */
export async function bundleSource(file: string): Promise<Source> {
  const { signed, signatures } = await checkedBundle(file)
  return {
    entries: signed.manifest.files,
    warnings: [],
    signed: { signed, signatures },
    objects: (wanted) => wantedObjects(file, wanted),
    close: () => {},
  }
}

async function checkedBundle(file: string): Promise<{ signed: Signed; signatures: string[] }> {
  let signed: Signed | undefined
  let sizes = new Map<Sha256, number>()
  const signatures: string[] = []
  for await (const entry of entriesOf(file)) {
    if (entry.kind === 'manifest') {
      signed = parseManifest(entry.text)
      sizes = objectsOf(signed.manifest)
    } else if (entry.kind === 'signature') signatures.push(entry.text)
    else if (entry.kind === 'recipe')
      throw malformed(`${JSON.stringify(file)}: a recipe, which no other host can follow`)
    else {
      const size = sizes.get(entry.sha256)
      if (size === undefined)
        throw new Failure(
          'object_unexpected',
          `read ${JSON.stringify(file)}: object ${entry.sha256} is not in release.json`,
        )
      if (size !== entry.size) throw mismatch(file, entry.sha256)
      for await (const _ of verified(file, entry));
    }
  }
  if (!signed) throw new Error(`${file}: a bundle without release.json was read to its end`)
  return { signed, signatures }
}

async function* wantedObjects(file: string, wanted: ReadonlySet<Sha256>): AsyncGenerator<BundleObject> {
  const left = new Set(wanted)
  if (left.size === 0) return
  for await (const entry of entriesOf(file)) {
    if (entry.kind !== 'object' || !left.delete(entry.sha256)) continue
    yield { sha256: entry.sha256, size: entry.size, open: () => verified(file, entry) }
    if (left.size === 0) return
  }
  checkAllFound(left)
}

async function* verified(file: string, object: BundleEntry & { kind: 'object' }): AsyncGenerator<Buffer> {
  const hash = createHash('sha256')
  for await (const chunk of object.content) {
    hash.update(chunk)
    yield chunk
  }
  if (digestOfHash(hash) !== object.sha256) throw mismatch(file, object.sha256)
}

function mismatch(file: string, digest: Sha256): Failure {
  return new Failure(
    'object_mismatch',
    `read ${JSON.stringify(file)}: object ${digest} has other content than its name says`,
    {
      hint: 'the file is damaged: copy or pack it again',
    },
  )
}

async function* entriesOf(file: string): AsyncGenerator<BundleEntry> {
  try {
    yield* readBundle(createReadStream(file, { highWaterMark: PORTION_BYTES }))
  } catch (cause) {
    throw isErrno(cause, 'ENOENT', 'EACCES', 'EISDIR', 'EIO') ? unreadable(file, cause) : cause
  }
}
