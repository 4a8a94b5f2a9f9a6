import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { openHashCache } from '../../client/hash-cache.ts'
import { type HashProgress, hashTree } from '../../client/hash-tree.ts'
import { startHelper } from '../../client/hash-work.ts'
import { treeSource } from '../../client/tree-source.ts'
import { type WalkedFile, walk } from '../../client/walk.ts'
import { isFile } from '../../shared/manifest.ts'
import { type Sha256, sha256 } from '../../shared/names.ts'

/** Longer than what counts as just touched. */
const SETTLED_MS = 2100

function workshop(t: TestContext): { dir: string; cacheDir: string } {
  const root = mkdtempSync(join(tmpdir(), 'tarmac-test-'))
  t.after(() => rmSync(root, { recursive: true, force: true }))
  const dir = join(root, 'project')
  mkdirSync(dir)
  return { dir, cacheDir: join(root, 'cache') }
}

function put(dir: string, path: string, content: string | Buffer): void {
  mkdirSync(dirname(join(dir, path)), { recursive: true })
  writeFileSync(join(dir, path), content)
}

function filesOf(dir: string): WalkedFile[] {
  return walk(dir).entries.filter((entry) => entry.kind === 'file')
}

function byPath(files: WalkedFile[], digests: Sha256[]): Map<string, Sha256> {
  return new Map(digests.map((digest, index) => [files[index]?.path ?? '', digest]))
}

/** Digests by path, and which files the cache did not know. */
async function hashed({ dir, cacheDir }: { dir: string; cacheDir: string }) {
  const files = filesOf(dir)
  const opened = openHashCache(cacheDir, dir)
  const read: string[] = []
  const cache = {
    ...opened,
    get: (file: WalkedFile) => {
      const digest = opened.get(file)
      if (digest === undefined) read.push(file.path)
      return digest
    },
  }
  const digests = byPath(files, await hashTree({ root: dir, files, cache }))
  cache.save()
  return { digests, read }
}

test('digests are those of the contents: empty, small, of one portion, of many', async (t) => {
  const place = workshop(t)
  const contents = new Map(
    [0, 1, 2 ** 20 - 1, 2 ** 20, 2 ** 20 + 1, 3_500_000].map((size) => [`f${size}`, randomBytes(size)]),
  )
  for (const [path, content] of contents) put(place.dir, path, content)
  const { digests } = await hashed(place)
  assert.equal(digests.size, contents.size)
  for (const [path, content] of contents) assert.equal(digests.get(path), sha256(content), path)
})

test('an unchanged tree is not read again, but whatever was changed in any way is', async (t) => {
  const place = workshop(t)
  for (const path of ['same', 'longer', 'edited', 'replaced', 'restored', 'touched', 'gone'])
    put(place.dir, `lib/${path}`, 'content')
  const at = (path: string) => join(place.dir, 'lib', path)
  utimesSync(at('restored'), 1000, 1000)
  await sleep(SETTLED_MS)
  const first = await hashed(place)
  assert.equal(first.read.length, 7)
  assert.deepEqual((await hashed(place)).read, [])

  put(place.dir, 'lib/longer', 'content and more')
  put(place.dir, 'lib/edited', 'CONTENT')
  put(place.dir, 'lib/new', 'content')
  put(place.dir, 'lib/other', 'content')
  renameSync(at('other'), at('replaced'))
  // Same size and the old mtime put back, as archivers and some editors do: ctime tells.
  put(place.dir, 'lib/restored', 'CONTENT')
  utimesSync(at('restored'), 1000, 1000)
  utimesSync(at('touched'), 1, 1)
  rmSync(at('gone'))
  const { digests, read } = await hashed(place)
  assert.deepEqual(
    read,
    ['edited', 'longer', 'new', 'replaced', 'restored', 'touched'].map((name) => `lib/${name}`),
  )
  assert.equal(digests.get('lib/restored'), sha256('CONTENT'))
  assert.equal(digests.get('lib/edited'), sha256('CONTENT'))
})

test('an unchanged tree of 24,000 files is not opened again: it can be unreadable', { timeout: 120_000 }, async (t) => {
  const place = workshop(t)
  for (let index = 0; index < 24_000; index++)
    put(place.dir, `pkg${index % 600}/f${index}.js`, `module.exports = ${index}\n`)
  await sleep(SETTLED_MS)
  await hashed(place)
  const files = filesOf(place.dir)
  // Where there is no file, none can be opened. As root, mode 000 would prove nothing.
  const began = performance.now()
  const cache = openHashCache(place.cacheDir, place.dir)
  rmSync(place.dir, { recursive: true })
  const digests = byPath(files, await hashTree({ root: place.dir, files, cache }))
  t.diagnostic(`${Math.round(performance.now() - began)} ms with the removal of the tree`)
  assert.equal(digests.size, 24_000)
  assert.equal(digests.get('pkg7/f7.js'), sha256('module.exports = 7\n'))
})

test('a file touched just before it was read is not remembered: a write in the same tick would stay unseen', async (t) => {
  const place = workshop(t)
  put(place.dir, 'a', 'one')
  assert.deepEqual((await hashed(place)).read, ['a'])
  assert.deepEqual((await hashed(place)).read, ['a'])
  await sleep(SETTLED_MS)
  assert.deepEqual((await hashed(place)).read, ['a'])
  assert.deepEqual((await hashed(place)).read, [])
  // An old mtime does not help: what was just unpacked has it.
  utimesSync(join(place.dir, 'a'), 1, 1)
  assert.deepEqual((await hashed(place)).read, ['a'])
  assert.deepEqual((await hashed(place)).read, ['a'])
})

test('a file from the future is not remembered', (t) => {
  const { dir, cacheDir } = workshop(t)
  const cache = openHashCache(cacheDir, dir)
  const nowMs = Date.now()
  const file = { kind: 'file', path: 'a', mode: '0644', size: 1, ino: 1 } as const
  const old = nowMs - 5000
  const future = nowMs + 5000
  for (const [mtimeMs, ctimeMs, known] of [
    [old, old, true],
    [future, old, false],
    [old, future, false],
  ] as const) {
    const walked = { ...file, path: `${mtimeMs} ${ctimeMs}`, mtimeMs, ctimeMs }
    cache.remember(walked, sha256('x'), nowMs)
    cache.save()
    assert.equal(openHashCache(cacheDir, dir).get(walked), known ? sha256('x') : undefined)
  }
})

test('a damaged cache is no cache', async (t) => {
  const place = workshop(t)
  put(place.dir, 'a', 'one')
  await sleep(SETTLED_MS)
  await hashed(place)
  const [name = ''] = readdirSync(place.cacheDir)
  const file = join(place.cacheDir, name)
  const good = readFileSync(file)
  const body = good.subarray(65).toString('latin1')
  const sealed = (text: string) => `${sha256(Buffer.from(text, 'latin1'))}\n${text}`
  assert.equal(good.toString('latin1'), sealed(body))
  for (const [what, text] of Object.entries({
    empty: '',
    cut: sealed(body).slice(0, -5),
    'not ours': 'x',
    null: sealed('null\n'),
    'another format': sealed(body.replace('{"format":3', '{"format":2')),
    "another project's": sealed(body.replace(JSON.stringify(place.dir), '"/elsewhere"')),
    'one digit of a digest': sealed(body).replace(
      sha256('one'),
      sha256('one').replace(/.$/, (digit) => (digit === '0' ? '1' : '0')),
    ),
    'no digest at its beginning': body,
  })) {
    assert.notEqual(text, sealed(body), what)
    writeFileSync(file, text, 'latin1')
    const { digests, read } = await hashed(place)
    assert.deepEqual(read, ['a'], what)
    assert.equal(digests.get('a'), sha256('one'), what)
    assert.deepEqual((await hashed(place)).read, [], what)
  }
})

test('the cache is written whole, for its owner only, one file a project, and only when something is new', async (t) => {
  const place = workshop(t)
  const other = workshop(t)
  put(place.dir, 'a', 'one')
  put(other.dir, 'a', 'two')
  await sleep(SETTLED_MS)
  await hashed(place)
  await hashed({ ...other, cacheDir: place.cacheDir })
  const names = readdirSync(place.cacheDir)
  assert.equal(names.length, 2)
  for (const name of names) assert.equal(statSync(join(place.cacheDir, name)).mode & 0o777, 0o600)
  const written = () => names.map((name) => statSync(join(place.cacheDir, name)).ino)
  const before = written()
  assert.deepEqual((await hashed(place)).read, [])
  assert.deepEqual(written(), before)
})

test('a cache that cannot be written fails nothing', async (t) => {
  const place = workshop(t)
  put(place.dir, 'a', 'one')
  await sleep(SETTLED_MS)
  writeFileSync(place.cacheDir, 'a file where the directory should be')
  assert.equal((await hashed(place)).digests.get('a'), sha256('one'))
})

test('a file that grows, shrinks, goes, or becomes a link between walk and hash is refused by name', async (t) => {
  const { dir, cacheDir } = workshop(t)
  const changes: Record<string, (file: string) => void> = {
    grows: (file) => writeFileSync(file, 'content and more'),
    shrinks: (file) => writeFileSync(file, 'c'),
    goes: (file) => rmSync(file),
    'becomes a link': (file) => {
      rmSync(file)
      symlinkSync('/etc/hostname', file)
    },
  }
  for (const [what, change] of Object.entries(changes)) {
    put(dir, 'lib/a.js', 'content')
    const files = filesOf(dir)
    change(join(dir, 'lib/a.js'))
    const hashing = hashTree({ root: dir, files, cache: openHashCache(cacheDir, dir) })
    await assert.rejects(hashing, { code: 'source_invalid', message: /lib\/a\.js/ }, what)
    rmSync(join(dir, 'lib/a.js'), { force: true })
  }
})

test('what takes long is hashed by two, and each content is that of its file; what cannot be read is told by name', async (t) => {
  const { dir, cacheDir } = workshop(t)
  const contents = new Map(Array.from({ length: 90 }, (_, n) => [`f${n}`, Buffer.alloc(2 ** 20 - 45 + n, `${n} `)]))
  for (const [path, content] of contents) put(dir, path, content)
  const files = filesOf(dir)
  const said: HashProgress[] = []
  const onProgress = (progress: HashProgress) => said.push(progress)
  const digests = await hashTree({ root: dir, files, cache: openHashCache(cacheDir, dir), onProgress })
  assert.deepEqual(
    digests,
    files.map(({ path }) => sha256(contents.get(path) ?? '')),
  )
  assert.partialDeepStrictEqual(said.at(-1), { files: 90, totalFiles: 90, bytes: said.at(-1)?.totalBytes })
  for (const { files, bytes, totalBytes } of said) assert.ok(files <= 90 && bytes <= totalBytes)

  const work = {
    files: files.map(({ path, size }) => ({ place: join(dir, path), size })),
    claimed: new Int32Array(new SharedArrayBuffer(4)),
  }
  const helped = await startHelper(work)?.digests
  assert.deepEqual(
    files.map((_, index) => helped?.get(index)),
    digests,
    'alone it gets them all',
  )

  // Whichever of the two comes to it.
  for (const path of ['f0', 'f45', 'f89']) {
    rmSync(join(dir, path))
    const hashing = hashTree({ root: dir, files, cache: openHashCache(cacheDir, dir) })
    await assert.rejects(hashing, { code: 'source_invalid', message: new RegExp(path) })
    put(dir, path, contents.get(path) ?? '')
  }
})

test('hashing lets others run and says how far it is', async (t) => {
  const { dir, cacheDir } = workshop(t)
  const fd = openSync(join(dir, 'big'), 'w')
  for (let at = 0; at < 400; at++) writeSync(fd, Buffer.alloc(2 ** 20, at))
  closeSync(fd)
  let ticks = 0
  const timer = setInterval(() => ticks++, 10)
  t.after(() => clearInterval(timer))
  const said: HashProgress[] = []
  await hashTree({
    root: dir,
    files: filesOf(dir),
    cache: openHashCache(cacheDir, dir),
    onProgress: (progress) => said.push(progress),
  })
  assert.ok(ticks > 1, `${ticks} ticks`)
  assert.deepEqual(said.at(-1), { files: 1, totalFiles: 1, bytes: 400 * 2 ** 20, totalBytes: 400 * 2 ** 20 })
})

test('a directory as a source: entries, tarmac.toml, and each wanted object once', async (t) => {
  const { dir, cacheDir } = workshop(t)
  const big = randomBytes(3_000_000)
  put(dir, 'tarmac.toml', 'app = "shop"')
  put(dir, 'a', 'same')
  put(dir, 'b/c', 'same')
  put(dir, 'big', big)
  mkdirSync(join(dir, 'empty'))
  symlinkSync('a', join(dir, 'link'))
  const source = await treeSource(dir, { cacheDir, exclude: ['none'] })
  assert.deepEqual(source.entries, [
    { path: 'a', mode: '0644', size: 4, sha256: sha256('same') },
    { path: 'b/c', mode: '0644', size: 4, sha256: sha256('same') },
    { path: 'big', mode: '0644', size: big.length, sha256: sha256(big) },
    { path: 'empty', dir: true },
    { path: 'link', link: 'a' },
  ])
  assert.equal(source.projectToml, 'app = "shop"')
  const wanted = new Set(source.entries.filter(isFile).map((entry) => entry.sha256))
  for (let round = 0; round < 2; round++) {
    const seen: string[] = []
    for await (const object of source.objects(wanted)) {
      const chunks: Buffer[] = []
      for await (const chunk of object.open()) chunks.push(Buffer.from(chunk))
      assert.equal(sha256(Buffer.concat(chunks)), object.sha256)
      seen.push(object.path ?? '')
    }
    assert.deepEqual(seen, ['a', 'big'])
  }
  const drain = async () => {
    for await (const _ of source.objects(new Set([sha256('not here')])));
  }
  await assert.rejects(drain(), { code: 'object_missing' })
})
