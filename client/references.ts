import { type AppName, type Sha256, sha256 } from '../shared/names.ts'
import { readCacheFile, writeCacheFile } from './cache-file.ts'

// The release.json that was last pushed to an agent, so that the next one can be sent as the difference from it: see
// shared/difference.ts. And the chunks of big files in it, so that the next recipe needs no question. To lose either
// costs time and bytes on the wire and nothing else, so no trouble here is a failure.

export interface Reference {
  text: Buffer
  digest: Sha256
}

export interface References {
  of(pin: string, app: AppName): Reference | undefined
  /** As text, of those big files in the reference that were cut. */
  chunksOf(pin: string, app: AppName): Map<string, string>
  /** Remembers, in place of the one before, what the agent with this pin has as a release by now. */
  keep(pin: string, app: AppName, kept: { text: string; chunks: ReadonlyMap<string, string> }): void
}

export function openReferences(cacheDir: string): References {
  const nameOf = (what: 'release' | 'chunks', pin: string, app: AppName) =>
    `${what}-${sha256(`${pin} ${app}`).slice(0, 32)}.json`
  return {
    of(pin, app) {
      const text = readCacheFile(cacheDir, nameOf('release', pin, app))
      return text && { text, digest: sha256(text) }
    },
    chunksOf(pin, app) {
      try {
        return parseChunkTexts(JSON.parse(String(readCacheFile(cacheDir, nameOf('chunks', pin, app)))))
      } catch {
        return new Map()
      }
    },
    keep(pin, app, { text, chunks }) {
      writeCacheFile(cacheDir, nameOf('release', pin, app), () => [text])
      const name = nameOf('chunks', pin, app)
      // Most apps have no such files.
      if (chunks.size > 0 || readCacheFile(cacheDir, name) !== undefined) {
        writeCacheFile(cacheDir, name, () => [JSON.stringify(Object.fromEntries(chunks))])
      }
    },
  }
}

function parseChunkTexts(value: unknown): Map<string, string> {
  const pairs = Object.entries(typeof value === 'object' && value !== null ? value : {})
  return new Map(pairs.filter((pair): pair is [string, string] => typeof pair[1] === 'string'))
}
