import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'

/**
 * Puts a file into the user's cache, whole or not at all. To lose one costs time and nothing else, so a full disk or a
 * read-only home is no failure.
 */
export function writeCacheFile(cacheDir: string, file: string, parts: readonly (string | Buffer)[]): void {
  const temporary = `${file}.${process.pid}.tmp`
  try {
    mkdirSync(cacheDir, { recursive: true, mode: 0o700 })
    writeFileSync(temporary, '', { mode: 0o600 })
    for (const part of parts) writeFileSync(temporary, part, { flag: 'a' })
    renameSync(temporary, file)
  } catch {
    removeIfThere(temporary)
  }
}

function removeIfThere(file: string): void {
  try {
    rmSync(file)
  } catch {
    // It was never made, or cannot be removed: nobody reads it.
  }
}
