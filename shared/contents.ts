import { Failure } from './failure.ts'
import { type FileEntry, isFile, type Manifest } from './manifest.ts'
import type { Sha256 } from './names.ts'

/** Digest → the first file of each different content. Throws `manifest_invalid` when one digest has two sizes. */
export function contentsOf({ files }: Manifest): Map<Sha256, FileEntry> {
  const contents = new Map<Sha256, FileEntry>()
  for (const entry of files) {
    if (!isFile(entry)) continue
    const first = contents.get(entry.sha256)
    if (first === undefined) contents.set(entry.sha256, entry)
    else if (first.size !== entry.size) {
      throw new Failure(
        'manifest_invalid',
        `release.json: ${JSON.stringify(entry.path)}: sha256 ${entry.sha256} has two sizes`,
      )
    }
  }
  return contents
}

/** Digest → size of each different content. Throws as `contentsOf` does. */
export function objectsOf(manifest: Manifest): Map<Sha256, number> {
  return new Map([...contentsOf(manifest)].map(([digest, { size }]) => [digest, size]))
}
