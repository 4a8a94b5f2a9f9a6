import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { objectsOf } from '../../shared/contents.ts'
import { type Code, Failure } from '../../shared/failure.ts'
import {
  contentOfText,
  type Entry,
  type Manifest,
  manifestText,
  normaliseManifest,
  parseManifest,
} from '../../shared/manifest.ts'
import { sha256 } from '../../shared/names.ts'

const DIGEST = sha256('x')
const web = {
  command: { exec: ['node', 'server.js'] },
  port: 3000,
  health: { path: '/up', intervalMs: 500, timeoutMs: 30_000, settleMs: 2000 },
  restart: { attempts: 5, withinMs: 30_000, delayMs: 1000 },
  stopTimeoutMs: 36_000,
}
const base = {
  format: 1,
  app: 'shop',
  created: '2026-11-22T23:38:51Z',
  services: { web },
  shared: [] as string[],
  keep: { releases: 10, failed: 2 },
  files: [] as unknown[],
}

const file = (path: string) => ({ path, mode: '0644', size: 1, sha256: DIGEST })
const link = (path: string, to: string) => ({ path, link: to })
const dir = (path: string) => ({ path, dir: true })
const numbered = (index: number) => String(index).padStart(6, '0')

function takes(what: Record<string, unknown>): void {
  const text = manifestText(normaliseManifest({ ...base, ...what }))
  assert.equal(parseManifest(text).text, text)
}

function refuses(what: Record<string, unknown>, code: Code, message = /./): void {
  assert.throws(
    () => normaliseManifest({ ...base, ...what }),
    (error) => {
      assert.ok(error instanceof Failure, String(error))
      assert.equal(error.code, code, error.message)
      assert.match(error.message, message)
      assert.ok(error.message.length < 4000, `a message of ${error.message.length} characters`)
      return true
    },
  )
}

test('normalising any order of keys gives one text, and parsing that text gives it back', () => {
  const shuffled = (value: unknown): fc.Arbitrary<unknown> => {
    if (Array.isArray(value)) return value.length === 0 ? fc.constant(value) : fc.tuple(...value.map(shuffled))
    if (typeof value !== 'object' || value === null) return fc.constant(value)
    const keys = Object.keys(value)
    const of = value as Record<string, unknown>
    return fc
      .tuple(
        fc.shuffledSubarray(keys, { minLength: keys.length }),
        fc.record(Object.fromEntries(keys.map((key) => [key, shuffled(of[key])]))),
      )
      .map(([order, record]) => Object.fromEntries(order.map((key) => [key, record[key]])))
  }
  const full = {
    ...base,
    version: '1.2.3',
    source: { commit: 'abc', branch: 'main', dirty: true },
    services: { worker: { ...web, command: { shell: 'a | b' }, limits: { memoryBytes: 2 ** 30, tasks: 64 } }, web },
    shared: ['uploads', 'data'],
    files: [dir('empty'), link('l', 'x'), file('x')],
  }
  const text = manifestText(normaliseManifest(full))
  fc.assert(
    fc.property(shuffled(full), (value) => {
      assert.equal(manifestText(normaliseManifest(value)), text)
    }),
  )
  assert.equal(parseManifest(text).text, text)
})

describe('refused: text that says what another text says too', () => {
  const text = manifestText(normaliseManifest({ ...base, files: [file('a')] }))
  const others: Record<string, string> = {
    'a blank': text.replace(':', ': '),
    'a newline at the end': `${text}\n`,
    'a byte-order mark': `\uFEFF${text}`,
    'keys in another order': text.replace('"format":1,"app":"shop"', '"app":"shop","format":1'),
    'a key twice': text.replace('"app":"shop"', '"app":"evil","app":"shop"'),
    'an escaped letter': text.replace('"shop"', '"\\u0073hop"'),
    'a number in another spelling': text.replace('"size":1', '"size":1.0'),
    'minus zero': text.replace('"size":1', '"size":-0'),
    'a number too precise to hold': text.replace('"size":1', '"size":1.00000000000000000001'),
    'an unknown key of a file': text.replace('"size":1', '"size":1,"uid":0'),
    'a file that is a link too': text.replace('"path":"a"', '"path":"a","link":"b"'),
    '__proto__ as a service': text.replace('"web":', '"__proto__":{},"web":'),
    '__proto__ in a file': text.replace('"path":"a"', '"__proto__":{"x":1},"path":"a"'),
    '__proto__ at the top': text.replace('{"format"', '{"__proto__":{},"format"'),
    'null for what is absent': text.replace('"app"', '"version":null,"app"'),
  }
  for (const [what, other] of Object.entries(others)) {
    test(what, () => {
      assert.notEqual(other, text)
      assert.throws(() => parseManifest(other), { code: 'manifest_invalid' })
    })
  }
  for (const other of [
    '',
    'null',
    '[]',
    '0',
    '"x"',
    '{}',
    '{',
    '['.repeat(1_000_000),
    `{"files":${'['.repeat(1e6)}${']'.repeat(1e6)}}`,
  ]) {
    test(other.slice(0, 20) || 'nothing', () => assert.throws(() => parseManifest(other), { code: 'manifest_invalid' }))
  }
})

test('an instant is one that exists, in one spelling', () => {
  takes({ created: '2028-02-29T23:59:59Z' })
  for (const created of [
    '2026-02-30T00:00:00Z',
    '2026-02-20T24:00:00Z',
    '2026-02-20T23:59:60Z',
    '2026-13-01T00:00:00Z',
    '2026-11-22T23:38:51.000Z',
    '2026-11-22T23:38:51+00:00',
    '2026-11-22',
  ]) {
    refuses({ created }, 'manifest_invalid', /created/)
  }
})

test('names of apps and services are short, plain and lower case', () => {
  for (const name of [
    '',
    'Shop',
    'shop_1',
    '1shop',
    '-shop',
    'shop;id',
    'sh op',
    'shop\n',
    'é',
    'a'.repeat(32),
    '../x',
    'a'.repeat(1e6),
  ]) {
    refuses({ app: name }, 'manifest_invalid')
    refuses({ services: { [name]: web } }, 'manifest_invalid')
  }
  refuses({ services: {} }, 'manifest_invalid', /services/)
})

test('a command names a program and holds no control characters', () => {
  for (const command of [
    { exec: [] },
    { exec: [''] },
    { exec: ['a', 'b\n[Service]\nUser=root'] },
    { shell: '' },
    { shell: 'a\0b' },
    { shell: '\u{10ffff}\ud800' },
    { exec: ['a'], shell: 'b' },
    { exec: 'a' },
    {},
    'a',
  ]) {
    refuses({ services: { web: { ...web, command } } }, 'manifest_invalid')
  }
  takes({ services: { web: { ...web, command: { exec: ['a', '', '%n $HOME "q" \\'] } } } })
})

test('modes are 0644 and 0755, nothing else', () => {
  takes({ files: [file('a'), { ...file('b'), mode: '0755' }] })
  for (const mode of ['4755', '0666', '755', 493, undefined, null, ['0644'], 'm'.repeat(1e6)]) {
    refuses({ files: [{ ...file('a'), mode }] }, 'mode_refused', /"a"/)
  }
})

test('sizes are whole, from 0 to 8 GiB less one; digests are 64 small hex digits', () => {
  for (const size of [-1, 0.5, 2 ** 33, Number.NaN, Number.POSITIVE_INFINITY, '1', undefined]) {
    refuses({ files: [{ ...file('a'), size }] }, 'manifest_invalid', /size/)
  }
  for (const digest of [DIGEST.toUpperCase(), DIGEST.slice(1), `${DIGEST}0`, '', undefined, `../${DIGEST}`]) {
    refuses({ files: [{ ...file('a'), sha256: digest }] }, 'manifest_invalid', /sha256/)
  }
  for (const entry of [
    null,
    1,
    'a',
    [],
    { path: 1 },
    { link: 'a' },
    { path: 'a', link: 1 },
    { path: 'a', dir: false },
  ]) {
    assert.throws(() => normaliseManifest({ ...base, files: [entry] }), Failure)
  }
})

describe('paths', () => {
  test('honest ones are taken: spaces, quotes, any script, twins in case or Unicode form, all 255 bytes', () => {
    const paths = [
      'a b',
      "a'b",
      'a"b',
      'a\\b',
      '-rf',
      '..a',
      'a..',
      '...',
      'README',
      'readme',
      'caf\u00e9',
      'cafe\u0301',
      '😀',
      '\uFFFD',
      'gpj.\u202eexe',
      'x'.repeat(255),
    ]
    const sorted = paths
      .map((path) => Buffer.from(path))
      .sort(Buffer.compare)
      .map(String)
    takes({ files: sorted.map(file) })
  })
  const hostile = [
    '',
    '.',
    '..',
    '/',
    '/etc/passwd',
    '../x',
    'a/..',
    'a/../b',
    './a',
    'a/.',
    'a//b',
    'a/',
    '//a',
    'a\0b',
    'a\nb',
    'a\x1b[31m',
    'a\x7f',
    'a\u0085',
    '\ud800',
    'x'.repeat(256),
    'é'.repeat(128),
    `${'d/'.repeat(512)}x`,
    'p/'.repeat(1e6),
  ]
  for (const path of hostile) {
    test(`refused: ${JSON.stringify(path.slice(0, 30))}`, () => {
      for (const entry of [file(path), dir(path), link(path, 'x')]) refuses({ files: [entry] }, 'path_refused')
      refuses({ shared: [path] }, 'path_refused')
    })
  }
  test('refused: not sorted by bytes, or twice', () => {
    for (const files of [
      ['b', 'a'],
      ['a', 'a'],
      ['a/b', 'a-b'],
      ['😀', '\uFFFD'],
    ])
      refuses({ files: files.map(file) }, 'path_refused')
    takes({ files: ['a-b', 'a/b', 'a0', '\uFFFD', '😀'].map(file) })
  })
  test('refused: anything below a file, a link or a directory entry', () => {
    for (const above of [file('a'), link('a', 'x'), dir('a')]) {
      refuses({ files: [above, file('a/b')] }, 'path_refused', /"a\/b"/)
      refuses({ files: [above, file('a-b'), file('a/b/c/d')] }, 'path_refused', /"a\/b\/c\/d"/)
    }
  })
  test('refused: a shared directory that is in the release too, is in another one, or lies below a file', () => {
    for (const entry of [file('up'), dir('up'), link('up', 'x'), file('up/a')])
      refuses({ shared: ['up'], files: [entry] }, 'path_refused')
    refuses({ shared: ['up', 'up'] }, 'path_refused')
    refuses({ shared: ['up', 'up/a'] }, 'path_refused')
    refuses({ shared: ['a/up'], files: [file('a')] }, 'path_refused')
    refuses({ shared: ['a/up'], files: [link('a', 'b')] }, 'path_refused')
    takes({ shared: ['a/up', 'data'], files: [file('a/b')] })
  })
})

describe('links', () => {
  test('inside the release are taken, to nothing too', () => {
    takes({
      files: [
        file('a/b'),
        link('a/c', 'b'),
        link('a/d', '../a//b'),
        link('a/e', './'),
        link('a/f', '..'),
        link('a/g', 'none'),
        link('h', 'a/c/'),
      ],
    })
    takes({ files: [link('node_modules/.bin/x', '../x/cli.js'), file('node_modules/x/cli.js')] })
    takes({ shared: ['up'], files: [link('a', 'up'), link('b', 'up/x')] })
  })
  const hostile: [string, unknown[], string[]?][] = [
    ['absolute', [link('l', '/etc/passwd')]],
    ['up and out', [link('l', '../x')]],
    ['up and out from below', [link('a/b/l', '../../../x')]],
    ['out and in again', [link('a/l', '../../tree/a')]],
    ['out by way of a directory that is not there', [link('l', 'none/../../x')]],
    ['out by another link', [link('a/up', '..'), link('l', 'a/up/../x')]],
    ['two that are harmless alone', [link('a', 'd/e'), link('d/e', 'f/g'), dir('d/f/g'), link('l', 'a/../../../../x')]],
    ['a link at its own end', [link('l', 'm'), link('m', 'a/../../x')]],
    ['to itself', [link('l', 'l')]],
    ['in a circle', [link('a', 'b'), link('b', 'a')]],
    ['through itself, growing', [link('l', 'l/l')]],
    [
      'through 41 links',
      Array.from({ length: 42 }, (_, index) =>
        link(`l${String(index).padStart(2, '0')}`, `l${String(index + 1).padStart(2, '0')}`),
      ),
    ],
    ['through a shared directory and up', [link('l', 'up/../../x')], ['up']],
    ['through a shared directory by a link, and up', [link('k', 'up'), link('l', 'k/..')], ['up']],
    ['empty', [link('l', '')]],
    ['with a newline', [link('l', 'a\nb')]],
    ['with half a character', [link('l', '\ud800')]],
    ['too long', [link('l', 'a/'.repeat(600))]],
    ['absurdly long', [link('l', `/${'a'.repeat(1e6)}`)]],
  ]
  for (const [what, files, shared = []] of hostile)
    test(`refused: ${what}`, () => refuses({ files, shared }, 'link_refused'))

  test('through 40 links is taken, as Linux takes it', () => {
    takes({
      files: Array.from({ length: 41 }, (_, index) =>
        link(`l${String(index).padStart(2, '0')}`, `l${String(index + 1).padStart(2, '0')}`),
      ),
    })
  })
})

describe('a manifest made to keep the agent busy is done with in a moment', () => {
  const within = (ms: number, act: () => void) => {
    const began = performance.now()
    act()
    const took = performance.now() - began
    assert.ok(took < ms, `${Math.round(took)} ms`)
  }
  const many = (count: number, entry: (index: number) => Entry | object) =>
    Array.from({ length: count }, (_, index) => entry(index))

  test('200,000 files are taken, 200,001 are not', () => {
    within(5000, () => takes({ files: many(200_000, (index) => file(`d/${numbered(index)}`)) }))
    refuses({ files: many(200_001, (index) => file(`d/${numbered(index)}`)) }, 'limit_exceeded')
  })
  test('50,000 links, each through another, are taken', () => {
    const links = many(50_000, (index) => link(`.bin/${numbered(index)}`, `../store/${numbered(index)}/cli.js`))
    const store = many(50_000, (index) => link(`store/${numbered(index)}`, '../real'))
    within(5000, () => takes({ files: [...links, file('real/cli.js'), ...store] }))
  })
  for (const [what, target] of [
    ['down', `${'a/'.repeat(500)}b`],
    ['down and up', `${'a/../'.repeat(200)}b`],
    ['of slashes', `a${'/'.repeat(1000)}b`],
  ] as const) {
    test(`60,000 links ${what} are refused`, () =>
      within(5000, () =>
        refuses({ files: many(60_000, (index) => link(numbered(index), target)) }, 'link_refused', /steps/),
      ))
  }
  test('50,000 directories 500 deep are taken', () => {
    within(10_000, () => takes({ files: many(50_000, (index) => dir(`${'a/'.repeat(500)}${numbered(index)}`)) }))
  })
})

test('what a release is made of is the same whenever and from wherever it was packed', () => {
  const one = normaliseManifest({ ...base, files: [file('a')] })
  const later = normaliseManifest({
    ...base,
    created: '2027-01-01T00:00:00Z',
    version: '2',
    source: { commit: 'c', dirty: false },
    files: [file('a')],
  })
  const contentOf = (manifest: Manifest) => contentOfText(manifestText(manifest))
  assert.equal(contentOf(one), contentOf(later))
  const spiteful = { ...later, version: '"services":{', source: { commit: '"services":', dirty: true } }
  assert.equal(contentOf(spiteful), contentOf(one))
  assert.notEqual(contentOf(one), contentOf(normaliseManifest({ ...base, files: [{ ...file('a'), mode: '0755' }] })))
})

test('equal files are one object; one digest of two sizes is refused', () => {
  const twice = normaliseManifest({ ...base, files: [file('a'), { ...file('b'), mode: '0755' }, link('c', 'a')] })
  assert.deepEqual([...objectsOf(twice)], [[DIGEST, 1]])
  const odd = normaliseManifest({ ...base, files: [file('a'), { ...file('b'), size: 2 }] })
  assert.throws(() => objectsOf(odd), { code: 'manifest_invalid' })
})
