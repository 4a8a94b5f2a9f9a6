import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type AppName, type Sha256, sha256 } from '../shared/names.ts'

// The release.json that was last pushed to an agent, so that the next one can be sent as the difference from it: see
// shared/difference.ts. To lose it costs a megabyte on the wire and nothing else, so no trouble here is a failure.

export interface Reference {
  text: Buffer
  digest: Sha256
}

export interface References {
  of(pin: string, app: AppName): Reference | undefined
  /** Remembers, in place of the one before, what the agent with this pin has as a release by now. */
  keep(pin: string, app: AppName, text: string): void
}

export function openReferences(cacheDir: string): References {
  const fileOf = (pin: string, app: AppName) => join(cacheDir, `release-${sha256(`${pin} ${app}`).slice(0, 32)}.json`)
  return {
    of(pin, app) {
      try {
        const text = readFileSync(fileOf(pin, app))
        return { text, digest: sha256(text) }
      } catch {
        return undefined
      }
    },
    keep(pin, app, text) {
      const file = fileOf(pin, app)
      const temporary = `${file}.${process.pid}.tmp`
      try {
        mkdirSync(cacheDir, { recursive: true, mode: 0o700 })
        writeFileSync(temporary, text, { mode: 0o600 })
        renameSync(temporary, file)
      } catch {
        rmSync(temporary, { force: true })
      }
    },
  }
}
