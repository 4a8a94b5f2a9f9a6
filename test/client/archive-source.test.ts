import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmodSync, linkSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { constants, gzipSync, zstdCompressSync } from 'node:zlib'
import { Header, type HeaderData } from 'tar/header'
import { archiveSource } from '../../client/archive-source.ts'
import { bundleSource } from '../../client/bundle-source.ts'
import type { Source } from '../../client/source.ts'
import { treeSource } from '../../client/tree-source.ts'
import { bundleBytes } from '../../shared/bundle-write.ts'
import { isFile, manifestText, normaliseManifest } from '../../shared/manifest.ts'
import { sha256 } from '../../shared/names.ts'

const END = Buffer.alloc(1024)

/** One entry as another program might write it; its checksum is right. */
function entry(
  fields: HeaderData & { path: string },
  content: Buffer | string = '',
  edit?: (block: Buffer) => void,
): Buffer {
  const bytes = Buffer.from(content)
  const block = Buffer.alloc(512)
  new Header({ mode: 0o644, size: bytes.length, mtime: new Date(1e12), type: 'File', uname: 'me', ...fields }).encode(
    block,
  )
  if (edit) {
    edit(block)
    block.fill(' ', 148, 156)
    const sum = block.reduce((total, byte) => total + byte, 0)
    block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  }
  return Buffer.concat([block, bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512)])
}

const file = (path: string, content: Buffer | string = path) => entry({ path }, content)
const dir = (path: string) => entry({ path, type: 'Directory', mode: 0o755 })
const symlink = (path: string, linkpath: string) => entry({ path, type: 'SymbolicLink', linkpath })
const hardlink = (path: string, linkpath: string) => entry({ path, type: 'Link', linkpath })
const pax = (path: string, records: Record<string, string>) => {
  const lines = Object.entries(records).map(([key, value]) => {
    const rest = Buffer.byteLength(` ${key}=${value}\n`)
    const digits = String(rest + String(rest).length).length
    return `${rest + digits} ${key}=${value}\n`
  })
  return entry({ path, type: 'ExtendedHeader' }, lines.join(''))
}

function archive(t: TestContext, parts: Buffer | Buffer[]): { path: string; tmpDir: string } {
  const root = mkdtempSync(join(tmpdir(), 'tarmac-test-'))
  t.after(() => rmSync(root, { recursive: true, force: true }))
  const tmpDir = join(root, 'tmp')
  mkdirSync(tmpDir)
  const path = join(root, 'build.tar')
  writeFileSync(path, Buffer.isBuffer(parts) ? parts : Buffer.concat([...parts, END]))
  return { path, tmpDir }
}

async function opened(t: TestContext, parts: Buffer | Buffer[]): Promise<Source> {
  const { path, tmpDir } = archive(t, parts)
  const source = await archiveSource(path, { tmpDir })
  t.after(() => source.close())
  assert.deepEqual(readdirSync(tmpDir), [], 'nothing of the spool can be seen, nor left behind')
  return source
}

async function refused(t: TestContext, parts: Buffer | Buffer[], message: RegExp): Promise<void> {
  const { path, tmpDir } = archive(t, parts)
  await assert.rejects(archiveSource(path, { tmpDir }), { name: 'Failure', code: 'source_invalid', message })
  assert.deepEqual(readdirSync(tmpDir), [])
}

async function contentsOf(source: Source): Promise<Map<string, Buffer>> {
  const contents = new Map<string, Buffer>()
  for await (const object of source.objects(new Set(source.entries.filter(isFile).map((entry) => entry.sha256)))) {
    const chunks: Buffer[] = []
    for await (const chunk of object.open()) chunks.push(Buffer.from(chunk))
    const content = Buffer.concat(chunks)
    assert.equal(content.length, object.size)
    assert.equal(sha256(content), object.sha256)
    contents.set(object.path ?? '', content)
  }
  return contents
}

const paths = (source: Source) => source.entries.map(({ path }) => path)

test('plain, gzip and zstd are told by their first bytes, and give the same', async (t) => {
  const big = randomBytes(5_000_000)
  const tar = Buffer.concat([
    dir('./'),
    file('./b/a.js', 'a'),
    file('./big', big),
    file('./empty', ''),
    symlink('./l', 'b/a.js'),
    dir('./none/'),
    END,
  ])
  const plain = await opened(t, tar)
  assert.deepEqual(plain.entries, [
    { path: 'b/a.js', mode: '0644', size: 1, sha256: sha256('a') },
    { path: 'big', mode: '0644', size: big.length, sha256: sha256(big) },
    { path: 'empty', mode: '0644', size: 0, sha256: sha256('') },
    { path: 'l', link: 'b/a.js' },
    { path: 'none', dir: true },
  ])
  for (const packed of [
    tar,
    gzipSync(tar),
    zstdCompressSync(tar),
    Buffer.concat([gzipSync(tar.subarray(0, 700)), gzipSync(tar.subarray(700))]),
  ]) {
    const source = await opened(t, packed)
    assert.deepEqual(source.entries, plain.entries)
    for (let round = 0; round < 2; round++) {
      const contents = await contentsOf(source)
      assert.ok(contents.get('big')?.equals(big))
    }
  }
})

test('GNU tar in each of its formats gives what the directory itself gives: long names, any script, hard links', async (t) => {
  if (spawnSync('tar', ['--version']).error) return t.skip('no tar here')
  const root = mkdtempSync(join(tmpdir(), 'tarmac-test-'))
  t.after(() => rmSync(root, { recursive: true, force: true }))
  const tree = join(root, 'tree')
  const long = `${'long-directory-name/'.repeat(8)}${'ü'.repeat(100)}`
  for (const path of ['a', 'b/c', 'b/é 😀', 'bin/run', 'x/\uFF5Ey', long, 'z/big']) {
    mkdirSync(dirname(join(tree, path)), { recursive: true })
    writeFileSync(join(tree, path), path === 'z/big' ? randomBytes(3_000_000) : path)
  }
  for (let index = 0; index < 300; index++)
    writeFileSync(join(tree, `${'ö'.repeat(60 + (index % 40))}${index}`), `${index}`)
  chmodSync(join(tree, 'bin/run'), 0o755)
  mkdirSync(join(tree, 'empty'))
  symlinkSync('../a', join(tree, 'b/link'))
  symlinkSync(`../${'ä'.repeat(80)}`, join(tree, 'b/long-link'))
  linkSync(join(tree, 'b/c'), join(tree, 'hard'))
  const expected = await treeSource(tree, { cacheDir: join(root, 'cache') })
  for (const format of ['gnu', 'oldgnu', 'pax', 'posix']) {
    const packed = join(root, `${format}.tar.gz`)
    const { status, stderr } = spawnSync('tar', ['-czf', packed, `--format=${format}`, '-C', root, 'tree'])
    assert.equal(status, 0, String(stderr))
    const source = await archiveSource(packed, { tmpDir: root })
    assert.deepEqual(source.entries, expected.entries, format)
    await contentsOf(source)
    source.close()
  }
})

test('one directory that holds everything is taken off; two, or a file beside it, are not', async (t) => {
  assert.deepEqual(paths(await opened(t, [file('package/package.json'), file('package/lib/a.js')])), [
    'lib/a.js',
    'package.json',
  ])
  assert.deepEqual(paths(await opened(t, [dir('repo-abc/'), file('repo-abc/a'), dir('repo-abc/b/')])), ['a', 'b'])
  assert.deepEqual(paths(await opened(t, [file('./package/a'), symlink('./package/b', 'a')])), ['a', 'b'])
  assert.deepEqual(paths(await opened(t, [file('a/x'), file('b/x')])), ['a/x', 'b/x'])
  assert.deepEqual(paths(await opened(t, [file('package/a'), file('package.json')])), ['package.json', 'package/a'])
  assert.deepEqual(paths(await opened(t, [file('package/a'), dir('other')])), ['other', 'package/a'])
  assert.deepEqual(paths(await opened(t, [file('only')])), ['only'])
  assert.deepEqual(paths(await opened(t, [file('a/b/c/d')])), ['b/c/d'])
})

test('modes become 0644 and 0755; setuid, sticky, owners and times do not travel', async (t) => {
  const modes = [0o6755, 0o1666, 0o4711, 0o000, 0o444, 0o010, undefined]
  const parts = modes.map((mode, index) =>
    entry({ path: `f${index}`, uid: 1234, gid: 1234, ...(mode === undefined ? {} : { mode }) }),
  )
  const source = await opened(t, parts)
  assert.deepEqual(
    source.entries.map((entry) => (isFile(entry) ? entry.mode : '')),
    ['0755', '0644', '0755', '0644', '0644', '0755', '0644'],
  )
  for (const entry of source.entries) assert.deepEqual(Object.keys(entry), ['path', 'mode', 'size', 'sha256'])
})

test('a hard link is the file it names, with its mode; a hard link to a symbolic link is one', async (t) => {
  const parts = [
    entry({ path: 'top/a', mode: 0o755 }, 'x'),
    hardlink('top/b', 'top/a'),
    hardlink('top/c', './top/b'),
    symlink('top/l', 'a'),
    hardlink('top/m', 'top/l'),
  ]
  const source = await opened(t, parts)
  const same = { mode: '0755', size: 1, sha256: sha256('x') }
  assert.deepEqual(source.entries, [
    { path: 'a', ...same },
    { path: 'b', ...same },
    { path: 'c', ...same },
    { path: 'l', link: 'a' },
    { path: 'm', link: 'a' },
  ])
})

test('tarmac.toml at the top is read and not packed; one below is a file', async (t) => {
  const source = await opened(t, [file('p/tarmac.toml', 'app = "é"'), file('p/a'), file('p/b/tarmac.toml')])
  assert.equal(source.projectToml, 'app = "é"')
  assert.deepEqual(paths(source), ['a', 'b/tarmac.toml'])
  assert.equal((await opened(t, [file('a')])).projectToml, undefined)
})

test('secrets and look-alikes in an archive are packed, and warned of', async (t) => {
  const source = await opened(t, [file('.env'), file('a/.env.local'), file('readme'), file('README')])
  assert.equal(source.entries.length, 4)
  assert.deepEqual(source.warnings, [
    '".env" is in the archive, and goes to the hosts',
    '"a/.env.local" is in the archive, and goes to the hosts',
    '"README" and "readme" differ only in case or Unicode form',
  ])
})

describe('refused by name', () => {
  const good = file('good')
  const cases: Record<string, [Buffer[], RegExp]> = {
    'an absolute path': [[good, file('/etc/passwd')], /"\/etc\/passwd".*absolute/],
    'a path up and out': [[good, file('../x')], /"\.\.\/x".*outside/],
    'a path up in its middle': [[good, file('a/../b')], /"a\/\.\.\/b".*outside/],
    'a path up as its end': [[good, dir('a/..')], /"a\/\.\.".*outside/],
    'an absolute path in a pax header': [
      [good, pax('x', { path: '/etc/passwd' }), file('x')],
      /"\/etc\/passwd".*absolute/,
    ],
    'a character device': [
      [good, entry({ path: 'null', type: 'CharacterDevice', devmaj: 1, devmin: 3 })],
      /"null".*CharacterDevice/,
    ],
    'a block device': [[good, entry({ path: 'sda', type: 'BlockDevice' })], /"sda".*BlockDevice/],
    'a fifo': [[good, entry({ path: 'pipe', type: 'FIFO' })], /"pipe".*FIFO/],
    'a file twice': [[file('twice', '1'), file('twice', '2')], /"twice".*there twice/],
    'a file twice in two spellings': [[file('a/twice', '1'), file('./a//twice', '2')], /"a\/twice".*there twice/],
    'a file and a link': [[file('twice'), symlink('twice', 'x')], /"twice".*there twice/],
    'a link and a hard link': [[good, symlink('twice', 'x'), hardlink('twice', 'good')], /"twice".*there twice/],
    'a file and a directory': [[file('twice'), dir('twice')], /"twice".*there twice/],
    'a directory and a file': [[dir('twice'), file('twice')], /"twice".*there twice/],
    'a file that is the top': [[good, file('./.')], /no name for a file/],
    'a hard link to nothing': [[good, hardlink('h', 'none')], /"h".*"none"/],
    'a hard link to what comes later': [[good, hardlink('h', 'later'), file('later')], /"h".*"later"/],
    'a hard link to itself': [[good, hardlink('h', 'h')], /"h"/],
    'a hard link to a directory': [[dir('d'), hardlink('h', 'd')], /"h".*"d"/],
    'a hard link out': [[good, hardlink('h', '/etc/hostname')], /"h".*"\/etc\/hostname".*absolute/],
    'a hard link up and out': [[good, hardlink('h', '../victim')], /"h".*"\.\.\/victim".*outside/],
    'a hard link with content': [[good, entry({ path: 'h', type: 'Link', linkpath: 'good' }, 'x')], /"h".*content/],
    'a sparse file of old GNU tar': [
      [good, entry({ path: 's' }, 'x', (block) => block.write('S', 156))],
      /"s".*SparseFile/,
    ],
    'a sparse file in a pax header': [
      [good, pax('s', { 'GNU.sparse.major': '1', 'GNU.sparse.name': 'real' }), file('s')],
      /"real".*sparse/,
    ],
    'a type nobody knows': [[good, entry({ path: 'u' }, '', (block) => block.write('~', 156))], /"u"/],
    'a multi-volume continuation': [[good, entry({ path: 'v' }, '', (block) => block.write('M', 156))], /"v"/],
    'a name that is not UTF-8': [[good, entry({ path: 'n' }, '', (block) => block.set([0x61, 0xff], 0))], /not UTF-8/],
    'a link that is not UTF-8': [
      [good, entry({ path: 'n', type: 'SymbolicLink', linkpath: 'x' }, '', (block) => block.set([0xff], 157))],
      /"n".*not UTF-8/,
    ],
    'a pax header of 2 MB': [[pax('x', { comment: 'c'.repeat(2_000_000) }), good], /ExtendedHeader/],
    'a wrong checksum': [[good, file('bad').fill(0x37, 148, 152)], /checksum/],
    'a negative size': [
      [good, entry({ path: 'n' }, '', (block) => block.fill(0xff, 124, 136)), good],
      /twice|checksum|invalid|size/,
    ],
    'a link without a target': [[good, entry({ path: 'l', type: 'SymbolicLink' })], /linkpath/],
  }
  for (const [what, [parts, message]] of Object.entries(cases)) test(what, (t) => refused(t, parts, message))

  test('an archive of nothing', (t) => refused(t, [], /Unrecognized/))
  test('an archive of tarmac.toml alone', (t) => refused(t, [file('tarmac.toml')], /nothing is in it/))
  test('an empty file', (t) => refused(t, Buffer.alloc(0), /./))
  test('text', (t) => refused(t, Buffer.from('hello '.repeat(1000)), /checksum/))
  test('something compressed twice', (t) => refused(t, gzipSync(zstdCompressSync(Buffer.concat([good, END]))), /twice/))
  test('broken gzip', (t) => refused(t, gzipSync(Buffer.concat([good, END])).fill(0xff, 30, 40), /build\.tar/))
  test('a file that is not there', async (t) => {
    const { tmpDir } = archive(t, [good])
    await assert.rejects(archiveSource(join(tmpDir, 'none'), { tmpDir }), { code: 'source_invalid', message: /none/ })
    await assert.rejects(archiveSource(tmpDir, { tmpDir }), { code: 'source_invalid', message: /tmp/ })
  })

  test('an archive cut short at any block, plain or compressed', async (t) => {
    const tar = Buffer.concat([
      dir('d'),
      file('d/a', randomBytes(1300)),
      file('d/b', randomBytes(10)),
      symlink('l', 'd/a'),
    ])
    const { path, tmpDir } = archive(t, tar)
    const whole = Buffer.concat([tar, END])
    const cuts: Buffer[] = []
    for (let end = 0; end <= tar.length; end += 256) cuts.push(whole.subarray(0, end))
    for (const packed of [
      gzipSync(whole),
      zstdCompressSync(whole, { params: { [constants.ZSTD_c_checksumFlag]: 1 } }),
    ]) {
      for (let end = 1; end < packed.length; end += 97) cuts.push(packed.subarray(0, end))
    }
    for (const cut of cuts) {
      writeFileSync(path, cut)
      await assert.rejects(archiveSource(path, { tmpDir }), { code: 'source_invalid' }, `${cut.length} bytes`)
    }
    assert.deepEqual(readdirSync(tmpDir), [])
  })
})

test('what an archive can say and a release cannot is refused by the manifest', async (t) => {
  const service = {
    command: { exec: ['a'] },
    health: { intervalMs: 500, timeoutMs: 5000, settleMs: 0 },
    restart: { attempts: 5, withinMs: 30_000, delayMs: 0 },
    stopTimeoutMs: 6000,
  }
  const head = {
    format: 1,
    app: 'shop',
    created: '2026-11-22T23:38:51Z',
    services: { web: service },
    shared: [],
    keep: { releases: 10, failed: 2 },
  }
  for (const [parts, code] of [
    [[symlink('d', '/etc'), file('d/pwn'), file('x')], 'path_refused'],
    [[file('x'), file('x/y')], 'path_refused'],
    [[symlink('l', '/etc/passwd'), file('x')], 'link_refused'],
    [[symlink('l', '../../etc/passwd'), file('x')], 'link_refused'],
    [[file('a\x1b[31m'), file('x')], 'path_refused'],
  ] as const) {
    const { entries } = await opened(t, [...parts])
    assert.throws(() => normaliseManifest({ ...head, files: entries }), { code })
  }
})

describe('a bundle as a source', () => {
  const service = {
    command: { exec: ['a'] },
    health: { intervalMs: 500, timeoutMs: 5000, settleMs: 0 },
    restart: { attempts: 5, withinMs: 30_000, delayMs: 0 },
    stopTimeoutMs: 6000,
  }
  const contents = [randomBytes(2_000_000), Buffer.from('b'), Buffer.from('')]
  const files = contents.map((content, index) => ({
    path: `f${index}`,
    mode: '0644',
    size: content.length,
    sha256: sha256(content),
  }))
  const manifest = manifestText(
    normaliseManifest({
      format: 1,
      app: 'shop',
      created: '2026-11-22T23:38:51Z',
      services: { web: service },
      shared: [],
      keep: { releases: 10, failed: 2 },
      files,
    }),
  )
  const objects = contents.map((content) => ({ sha256: sha256(content), size: content.length, open: () => [content] }))

  async function packed(t: TestContext, parts: Partial<Parameters<typeof bundleBytes>[0]> = {}): Promise<string> {
    const chunks: Buffer[] = []
    for await (const chunk of bundleBytes({ manifest, signatures: ['one', 'two'], objects, ...parts }))
      chunks.push(chunk)
    return archive(t, Buffer.concat(chunks)).path
  }

  test('gives the text that was signed, its signatures and its objects, any of them, any number of times', async (t) => {
    const source = await bundleSource(await packed(t))
    assert.equal(source.signed?.signed.text, manifest)
    assert.deepEqual(source.signed?.signatures, ['one', 'two'])
    assert.equal((await contentsOf(source)).size, 1, 'a bundle knows no paths: all have none')
    for (const wanted of [contents, contents.slice(1), contents.slice(0, 1), []]) {
      const seen: string[] = []
      for await (const object of source.objects(new Set(wanted.map((content) => sha256(content))))) {
        for await (const _ of object.open());
        seen.push(object.sha256)
      }
      assert.deepEqual(
        seen,
        wanted.map((content) => sha256(content)),
      )
    }
  })

  test('may lack objects that a host has, and says so when they are wanted', async (t) => {
    const source = await bundleSource(await packed(t, { objects: objects.slice(1) }))
    const drain = async () => {
      for await (const _ of source.objects(new Set([sha256(contents[0] ?? '')])));
    }
    await assert.rejects(drain(), { code: 'object_missing' })
  })

  test('is refused with an object of other content, an object too many, a damaged or missing file', async (t) => {
    const other = Buffer.from('other')
    await assert.rejects(
      bundleSource(await packed(t, { objects: [{ sha256: sha256(other), size: 5, open: () => [other] }] })),
      { code: 'object_unexpected' },
    )
    await assert.rejects(bundleSource(await packed(t, { manifest: '{}' })), { code: 'manifest_invalid' })
    await assert.rejects(bundleSource('/nonexistent/app.tarmac'), { code: 'source_invalid', message: /app\.tarmac/ })
    await assert.rejects(bundleSource(tmpdir()), { code: 'source_invalid' })
    await assert.rejects(bundleSource(archive(t, [file('x')]).path), { code: 'bundle_malformed' })
  })

  test('is refused when a file of its content was changed after it was packed', async (t) => {
    const { entryHeader, objectName } = await import('../../shared/bundle.ts')
    const text = Buffer.from(manifest)
    const pad = (size: number) => Buffer.alloc((512 - (size % 512)) % 512)
    const forged = Buffer.concat([
      entryHeader('release.json', text.length),
      text,
      pad(text.length),
      entryHeader(objectName(sha256('b')), 1),
      Buffer.from('x'),
      pad(1),
      END,
    ])
    await assert.rejects(bundleSource(archive(t, zstdCompressSync(forged)).path), { code: 'object_mismatch' })
  })
})
