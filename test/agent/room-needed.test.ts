import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { roomOfRelease } from '../../agent/deploy/room-needed.ts'
import type { Entry, Manifest } from '../../shared/manifest.ts'
import { sha256 } from '../../shared/names.ts'

const BLOCK = 64
const part = fc.constantFrom('a', 'bb', 'ccc', 'ä')
const path = fc.array(part, { minLength: 1, maxLength: 4 }).map((parts) => parts.join('/'))
const made = fc.constantFrom<'file' | 'dir' | 'link' | 'long link'>('file', 'dir', 'link', 'long link')
const wanted = fc.array(fc.tuple(path, made), { maxLength: 15 }).map((pairs) =>
  pairs.filter(([path], at) => {
    const others = pairs.slice(0, at).map(([other]) => other)
    return !others.some((other) => other === path || other.startsWith(`${path}/`) || path.startsWith(`${other}/`))
  }),
)

function entryOf([path, kind]: [string, 'file' | 'dir' | 'link' | 'long link']): Entry {
  if (kind === 'file') return { path, mode: '0644', size: 5, sha256: sha256(path) }
  return kind === 'dir' ? { path, dir: true } : { path, link: kind === 'link' ? 'x' : 'x'.repeat(60) }
}

/** As it is said in room-needed.ts: a directory has an entry of 11 bytes and the name for all in it, a third more, in whole blocks. */
function roomBySum(wanted: [string, string][]): { bytes: number; inodes: number } {
  const dirs = new Map<string, Set<string>>([['', new Set()]])
  const put = (path: string): void => {
    const dir = path.slice(0, Math.max(0, path.lastIndexOf('/')))
    if (!dirs.has(dir)) put(dir)
    dirs.set(dir, (dirs.get(dir) ?? new Set()).add(path.slice(dir === '' ? 0 : dir.length + 1)))
  }
  for (const [path, kind] of wanted) {
    put(path)
    if (kind === 'dir') dirs.set(path, new Set())
  }
  const sizes = [...dirs.values()].map((names) =>
    [...names].reduce((sum, name) => sum + 11 + Buffer.byteLength(name), 0),
  )
  const blocks = sizes.reduce((sum, bytes) => sum + Math.ceil(Math.max(1, (bytes * 4) / 3) / BLOCK), 0)
  const long = wanted.filter(([, kind]) => kind === 'long link').length
  return {
    bytes: (blocks + long) * BLOCK,
    inodes: dirs.size + wanted.filter(([, kind]) => kind.endsWith('link')).length,
  }
}

test('the room of a tree is that of its directories and links, each counted once', () => {
  const none = roomOfRelease(
    { manifest: { files: [], shared: [] } as unknown as Manifest, textBytes: 0, signatures: 0 },
    BLOCK,
  )
  fc.assert(
    fc.property(wanted, (wanted) => {
      const manifest = { files: wanted.map(entryOf), shared: [] } as unknown as Manifest
      const { bytes, inodes } = roomOfRelease({ manifest, textBytes: 0, signatures: 0 }, BLOCK)
      const { bytes: more, inodes: moreInodes } = roomBySum(wanted)
      assert.deepEqual([bytes - none.bytes, inodes - none.inodes], [more - BLOCK, moreInodes - 1])
    }),
    { numRuns: 500 },
  )
})
