import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import { changesSince } from '../../client/changes-since.ts'
import type { Entry } from '../../shared/manifest.ts'
import { type Sha256, sha256 } from '../../shared/names.ts'

/** Beyond U+FFFF the order of the bytes is another one than JavaScript's. */
const name = fc.constantFrom('a', 'b', 'ab', '\uFFFD', '😀', 'z')
const path = fc.array(name, { minLength: 1, maxLength: 3 }).map((names) => names.join('/'))
const content = fc.constantFrom('one', 'two', 'three', 'four').map(sha256)
const files = fc
  .uniqueArray(fc.tuple(path, fc.option(content)), { selector: ([path]) => path, maxLength: 10 })
  .map((pairs) => pairs.sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b))))
  .map((pairs) =>
    pairs.map(([path, sha256]): Entry => (sha256 ? { path, mode: '0644', size: 1, sha256 } : { path, link: 'x' })),
  )

function textOf(files: Entry[]): string {
  return JSON.stringify({ app: 'shop', shared: [], files })
}

function digestsOf(entries: readonly Entry[]): Set<Sha256> {
  return new Set(entries.flatMap((entry) => ('sha256' in entry ? [entry.sha256] : [])))
}

test('what is lacking is what the reference has nowhere, also of files that moved and of odd names', () => {
  fc.assert(
    fc.property(files, files, (older, newer) => {
      const text = Buffer.from(textOf(older))
      const since = changesSince({ digest: sha256(text), text }, textOf(newer))
      const had = digestsOf(older)
      assert.deepEqual(since?.lacking, new Set([...digestsOf(newer)].filter((digest) => !had.has(digest))))
      const shapeOf = (entries: Entry[]) => entries.map((entry) => ('link' in entry ? entry : entry.path))
      assert.equal(since?.areOnlyContents, isDeepStrictEqual(shapeOf(older), shapeOf(newer)))
    }),
    { numRuns: 500 },
  )
})

test('a reference that is JSON and no manifest is none', () => {
  const texts = [
    '',
    'null',
    '[]',
    '{"files":null}',
    ...['null', '5', '{}', '[null]', '[5]'].map((files) => `{"a":1,"files":${files}}`),
  ]
  for (const kept of texts) {
    const text = Buffer.from(kept)
    const newer = textOf([{ path: 'a', mode: '0644', size: 1, sha256: sha256('a') }])
    assert.equal(changesSince({ digest: sha256(text), text }, newer), undefined, kept)
  }
})
