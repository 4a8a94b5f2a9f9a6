import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'

// Contents that wait on the disk, one after the other in one file: 24,000 files of their own took ten seconds to make on
// ext4, this takes one. The file is unlinked as soon as it is open, so that nothing stays behind, however we end.

export interface Spool {
  /** Where the next byte will lie. */
  end(): number
  append(bytes: Uint8Array): void
  /** `size` bytes from `at`, or fewer at the end. Each portion overwrites `scratch`. */
  read(at: number, size: number, scratch: Buffer): Generator<Buffer>
  close(): void
}

export function openSpool(tmpDir: string): Spool {
  // Ours alone (0700) for the moment it has a name.
  const dir = mkdtempSync(join(tmpDir, 'tarmac-'))
  let fd: number
  try {
    fd = openSync(join(dir, 'contents'), 'wx+', 0o600)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
  let end = 0
  return {
    end: () => end,
    append(bytes) {
      for (let at = 0; at < bytes.length; ) {
        const written = writeSync(fd, bytes, at, bytes.length - at, end)
        at += written
        end += written
      }
    },
    *read(at, size, scratch) {
      for (let done = 0; done < size; ) {
        const bytes = readSync(fd, scratch, 0, Math.min(scratch.length, size - done), at + done)
        if (bytes === 0) return
        done += bytes
        yield scratch.subarray(0, bytes)
      }
    },
    close: () => closeSync(fd),
  }
}
