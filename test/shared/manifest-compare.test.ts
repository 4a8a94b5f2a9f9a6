import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import {
  type Entry,
  isFile,
  type Manifest,
  parseManifest,
  type Signed,
  writeManifest,
  writeManifestWith,
} from '../../shared/manifest.ts'
import { changedFiles, differencesOf, parseManifestOn } from '../../shared/manifest-compare.ts'
import { sha256 } from '../../shared/names.ts'
import { randomFrom } from '../helpers/raw-release.ts'

const FILES: Entry[] = [
  { path: '.hidden', mode: '0644', size: 3, sha256: sha256('.hidden') },
  { path: 'a "quoted" name', mode: '0644', size: 3, sha256: sha256('quoted') },
  { path: 'a/b},{"path":"c', mode: '0644', size: 3, sha256: sha256('spiteful') },
  { path: 'bin/run', mode: '0755', size: 1, sha256: sha256('run') },
  { path: 'bin/to-run', link: 'run' },
  { path: 'cache', dir: true },
  { path: 'déjà', mode: '0644', size: 10, sha256: sha256('vu') },
  { path: 'same', mode: '0644', size: 1, sha256: sha256('run') },
  { path: 'tail', mode: '0644', size: 1_000, sha256: sha256('tail') },
  { path: '😀', mode: '0644', size: 4, sha256: sha256('😀') },
]

function manifestOf(files: unknown[] = FILES, over: Partial<Record<keyof Manifest, unknown>> = {}): string {
  const service = {
    command: { exec: ['/bin/sleep', ',"files":['] },
    health: { intervalMs: 50, timeoutMs: 10_000, settleMs: 0 },
    restart: { attempts: 3, withinMs: 20_000, delayMs: 100 },
    stopTimeoutMs: 2_000,
  }
  const head = { format: 1, app: 'shop', created: '2026-11-22T23:38:51Z', services: { web: service }, shared: ['data'] }
  return JSON.stringify({ ...head, keep: { releases: 10, failed: 2 }, files, ...over })
}

const OLDER = parseManifest(manifestOf())

function parsed(text: string): Signed | undefined {
  try {
    return parseManifest(text)
  } catch {
    return undefined
  }
}

/** What the shorter road gives, if anything, is what the whole one does, and nothing where that refuses. */
function assertSame(text: string): boolean {
  let short: ReturnType<typeof parseManifestOn>
  try {
    short = parseManifestOn(OLDER, text)
  } catch {
    assert.equal(parsed(text), undefined, text)
    return true
  }
  if (short === undefined) return false
  assert.deepEqual(short.signed, parsed(text), text)
  // deepEqual does not look at the order of keys.
  assert.equal(JSON.stringify(short.signed.manifest), text)
  const before = new Map(OLDER.manifest.files.map((entry) => [entry.path, entry]))
  const differ = short.signed.manifest.files.filter(
    (entry) => JSON.stringify(entry) !== JSON.stringify(before.get(entry.path)),
  )
  assert.deepEqual(
    short.changed,
    differ.map((after) => ({ before: before.get(after.path), after })),
    text,
  )
  return true
}

const changed = fc.record({
  path: fc.constantFrom(...FILES.filter(isFile).map(({ path }) => path)),
  mode: fc.constantFrom('0644', '0755'),
  size: fc.constantFrom(0, 1, 3, 12_345_678),
  content: fc.constantFrom('one', 'two', 'run', 'tail'),
})

test('contents and modes that changed, in any files: told, and all that a whole parse gives', () => {
  const head = fc.record({ created: fc.constantFrom('2026-11-22T23:38:51Z', '2027-01-01T00:00:00Z') })
  fc.assert(
    fc.property(fc.array(changed, { maxLength: 6 }), head, (changes, over) => {
      const files = FILES.map((entry) => {
        const change = changes.find(({ path }) => path === entry.path)
        if (change === undefined) return entry
        return { path: entry.path, mode: change.mode, size: change.size, sha256: sha256(change.content) }
      })
      assert.ok(assertSame(manifestOf(files, over)))
    }),
    { numRuns: 500 },
  )
})

test('whatever two lists have in common or not: each difference once, in their order', () => {
  const path = fc.array(fc.constantFrom('a', 'b', 'a-b', 'Z', '0', 'é'), { minLength: 1, maxLength: 2 })
  const kind = fc.constantFrom('one', 'two', 'link', 'dir')
  const list = fc
    .uniqueArray(
      fc.tuple(
        path.map((names) => names.join('/')),
        kind,
      ),
      { selector: ([path]) => path, maxLength: 12 },
    )
    .map((pairs) => pairs.sort(([a], [b]) => (a < b ? -1 : 1)).map(([path, kind]) => entryOf(path, kind)))
  fc.assert(
    fc.property(list, list, (older, newer) => {
      const byPath = (entries: Entry[]) => new Map(entries.map((entry) => [entry.path, entry]))
      const [before, after] = [byPath(older), byPath(newer)]
      const paths = [...new Set([...before.keys(), ...after.keys()])].sort()
      const differ = paths.map((path) => ({ before: before.get(path), after: after.get(path) }))
      assert.deepEqual(
        differencesOf(manifestOf(older), manifestOf(newer, { created: '2027-01-01T00:00:00Z' })),
        differ.filter(({ before, after }) => JSON.stringify(before) !== JSON.stringify(after)),
      )
    }),
    { numRuns: 2_000 },
  )
})

function entryOf(path: string, kind: string): Entry {
  if (kind === 'link') return { path, link: 'x' }
  return kind === 'dir' ? { path, dir: true } : { path, mode: '0644', size: 3, sha256: sha256(kind) }
}

test('a thousand of 5,000 files that changed are told, and what is written of it is what was checked; of more nothing', () => {
  const many = Array.from({ length: 5_000 }, (_, index): Entry => {
    const path = `node_modules/package-${String(index).padStart(6, '0')}/index.js`
    return { path, mode: '0644', size: index, sha256: sha256(`${index}`) }
  })
  const older = parseManifest(manifestOf(many))
  for (const count of [0, 1, 999, 1_000, 1_001, 5_000]) {
    const files = many.map((entry, index) => {
      const isChanged = (index * count) % 5_000 < count
      return isChanged && isFile(entry) ? { ...entry, size: 1, sha256: sha256(`new ${index}`) } : entry
    })
    const text = manifestOf(files)
    const short = parseManifestOn(older, text)
    assert.equal(short?.changed.length, count > 1_000 ? undefined : count)
    if (short) assert.deepEqual(short.signed, parseManifest(text))
    const { manifest } = parseManifest(text)
    assert.deepEqual(writeManifestWith(manifest, JSON.stringify(files)), writeManifest(manifest))
  }
})

describe('anything else is left to a whole parse', () => {
  const [first, , spiteful, run, link, dir, , , tail, last] = FILES
  const others: Record<string, string> = {
    'a file more at the end': manifestOf([...FILES, { path: '😁', mode: '0644', size: 1, sha256: sha256('') }]),
    'a file more at the begin': manifestOf([{ path: '!', mode: '0644', size: 1, sha256: sha256('') }, ...FILES]),
    'a file less': manifestOf(FILES.filter((entry) => entry !== spiteful)),
    'the first less': manifestOf(FILES.filter((entry) => entry !== first)),
    'the last less': manifestOf(FILES.filter((entry) => entry !== last)),
    'no files': manifestOf([]),
    'another name': manifestOf(FILES.map((entry) => (entry === tail ? { ...tail, path: 'tale' } : entry))),
    'another link': manifestOf(
      FILES.map((entry) => (entry === link ? { path: 'bin/to-run', link: '../same' } : entry)),
    ),
    'a link in the place of a file': manifestOf(
      FILES.map((entry) => (entry === run ? { path: 'bin/run', link: '../same' } : entry)),
    ),
    'a file in the place of a directory': manifestOf(
      FILES.map((entry) => (entry === dir ? { ...run, path: 'cache' } : entry)),
    ),
    'a link out': manifestOf(
      FILES.map((entry) => (entry === link ? { path: 'bin/to-run', link: '/etc/passwd' } : entry)),
    ),
    'another shared directory': manifestOf(FILES, { shared: ['data', 'tail'] }),
    'no shared directory': manifestOf(FILES, { shared: [] }),
    'a mode that is none': manifestOf().replace('"0755"', '"4755"'),
    'a size that is none': manifestOf().replace('"size":1000', '"size":1e3'),
    'a key more in a file': manifestOf().replace('"size":1000', '"size":1000,"uid":0'),
    'a key twice in a file': manifestOf().replace('"size":1000', '"size":1,"size":1000'),
    'a space': manifestOf().replace('"size":1000', '"size": 1000'),
    'something behind it': `${manifestOf()}\n`,
    'an end too early': manifestOf().slice(0, -1),
    'no JSON': 'release',
    nothing: '',
    'the word alone': ',"files":[',
  }
  for (const [what, text] of Object.entries(others)) {
    test(what, () => {
      assert.equal(changedFiles(OLDER.text, text), undefined)
      assertSame(text)
    })
  }
})

test('a text in which anything was cut out, put in or turned around is taken as a whole parse takes it, or left to it', {
  timeout: 120_000,
}, () => {
  const below = randomFrom(20261128)
  const good = OLDER.text
  const bits = ['{"path":', '},{"path":', ']}', ',"files":[', '"', '\\', '0', '},', '"sha256":"', 'é', '{}', '[]', ',']
  let short = 0
  for (let round = 0; round < 20_000; round++) {
    let text = good
    for (let times = 1 + below(3); times > 0; times--) {
      const at = below(text.length)
      const end = Math.min(text.length, at + below(round % 3 === 0 ? 200 : 3))
      const other = below(text.length)
      const put =
        [bits[below(bits.length)] ?? '', text.slice(other, other + below(200)), String(below(10)), ''][below(4)] ?? ''
      text = text.slice(0, at) + put + text.slice(end)
    }
    if (assertSame(text)) short++
  }
  assert.ok(short > 20, `only ${short} went the shorter road`)
})
