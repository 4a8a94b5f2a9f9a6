import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type AppName, type Sha256, sha256 } from '../shared/names.ts'
import { writeCacheFile } from './cache-file.ts'

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
  const fileOf = (what: 'release' | 'chunks', pin: string, app: AppName) =>
    join(cacheDir, `${what}-${sha256(`${pin} ${app}`).slice(0, 32)}.json`)
  return {
    of(pin, app) {
      try {
        const text = readFileSync(fileOf('release', pin, app))
        return { text, digest: sha256(text) }
      } catch {
        return undefined
      }
    },
    chunksOf(pin, app) {
      try {
        return parseChunkTexts(JSON.parse(readFileSync(fileOf('chunks', pin, app), 'utf8')))
      } catch {
        return new Map()
      }
    },
    keep(pin, app, { text, chunks }) {
      writeCacheFile(cacheDir, fileOf('release', pin, app), [text])
      const file = fileOf('chunks', pin, app)
      // Most apps have no such files.
      if (chunks.size > 0 || existsSync(file)) {
        writeCacheFile(cacheDir, file, [JSON.stringify(Object.fromEntries(chunks))])
      }
    },
  }
}

function parseChunkTexts(value: unknown): Map<string, string> {
  const pairs = Object.entries(typeof value === 'object' && value !== null ? value : {})
  return new Map(pairs.filter((pair): pair is [string, string] => typeof pair[1] === 'string'))
}
