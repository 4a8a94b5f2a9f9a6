import { tmpdir } from 'node:os'
import { Failure } from '../shared/failure.ts'
import type { Entry, FileEntry } from '../shared/manifest.ts'
import { parentsOf } from '../shared/tree.ts'
import { type ArchiveEntry, readArchive } from './archive-read.ts'
import { PROJECT_FILE } from './ignore.ts'
import { lookAlikes, type Source, sortedByPath, wantedObjects } from './source.ts'
import { openSpool } from './spool.ts'

/**
 * A tarball that another program made (plain, gzip or zstd, told by its first bytes), as a source. All of it is packed
 * but tarmac.toml at its top. One directory that holds everything, as `npm pack` and GitHub make it, is taken off.
 * Contents wait in a nameless file under `tmpDir`, as big as all of them, until `close`. Throws `source_invalid` naming the entry.
 */
export async function archiveSource(file: string, options: { tmpDir?: string } = {}): Promise<Source> {
  const spool = openSpool(options.tmpDir ?? tmpdir())
  try {
    const archive = await readArchive(file, spool)
    const placeOf = ({ sha256 }: FileEntry): number => {
      const place = archive.places.get(sha256)
      if (place === undefined) throw new Error(`${sha256} is in the archive and not in the spool`)
      return place
    }
    const found = withoutTop(archive.entries)
    const project = found.find((entry) => entry.kind === 'file' && entry.path === PROJECT_FILE)
    const entries = entriesOf(found.filter((entry) => entry !== project))
    if (entries.length === 0)
      throw new Failure('source_invalid', `read archive ${JSON.stringify(file)}: nothing is in it`)
    return {
      entries,
      warnings: warningsAbout(entries),
      ...(project?.kind === 'file'
        ? { projectToml: textOf(spool.read(placeOf(project), project.size, Buffer.alloc(project.size))) }
        : {}),
      objects: (wanted) =>
        wantedObjects(entries, wanted, (entry, scratch, from) =>
          spool.read(placeOf(entry) + from, entry.size - from, scratch),
        ),
      close: spool.close,
    }
  } catch (error) {
    spool.close()
    throw error
  }
}

function textOf(portions: Iterable<Buffer>): string {
  return Buffer.concat([...portions]).toString()
}

function withoutTop(found: ArchiveEntry[]): ArchiveEntry[] {
  const top = `${found[0]?.path.split('/')[0]}/`
  const below = found.filter(({ path }) => path.startsWith(top))
  const others = found.filter(({ path, kind }) => !path.startsWith(top) && !(kind === 'dir' && `${path}/` === top))
  if (others.length > 0 || below.length === 0) return found
  return below.map((entry) => ({ ...entry, path: entry.path.slice(top.length) }))
}

/** Directories need no entry but when they are empty. */
function entriesOf(found: ArchiveEntry[]): Entry[] {
  const parents = new Set<string>()
  for (const { path } of found) for (const parent of parentsOf(path)) parents.add(parent)
  const entries = found.flatMap((entry): Entry[] => {
    if (entry.kind === 'link') return [{ path: entry.path, link: entry.link }]
    if (entry.kind === 'dir') return parents.has(entry.path) ? [] : [{ path: entry.path, dir: true }]
    return [{ path: entry.path, mode: entry.mode, size: entry.size, sha256: entry.sha256 }]
  })
  return sortedByPath(entries)
}

/** Nothing is left out of an archive that someone made on purpose; what a directory would have kept back is said. */
function warningsAbout(entries: Entry[]): string[] {
  const paths = entries.map(({ path }) => path)
  const secrets = paths.filter((path) => /(^|\/)\.env[^/]*$/.test(path))
  return [
    ...secrets.map((path) => `${JSON.stringify(path)} is in the archive, and goes to the hosts`),
    ...lookAlikes(paths),
  ]
}
