import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { Header } from 'tar/header'
import { type BundleObject, entryHeader } from '../../shared/bundle.ts'
import { type BundleLimits, readBundle } from '../../shared/bundle-read.ts'
import { type BundleParts, bundleBytes } from '../../shared/bundle-write.ts'
import { MAX_FILE_BYTES } from '../../shared/manifest.ts'
import { sha256 } from '../../shared/names.ts'

const MANIFEST = '{"format":1,"app":"shop","é":"…"}'
const MEBIBYTE = 1024 * 1024

function objectOf(content: Buffer, path?: string): BundleObject {
  const open = () => [content]
  return { sha256: sha256(content), size: content.length, open, ...(path === undefined ? {} : { path }) }
}

async function packed(parts: Partial<BundleParts>): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of bundleBytes({ manifest: MANIFEST, signatures: [], objects: [], ...parts }))
    chunks.push(chunk)
  return Buffer.concat(chunks)
}

async function* inPieces(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}

async function unpacked(bytes: AsyncIterable<Uint8Array>, limits?: BundleLimits) {
  const seen: { name: string; text: string }[] = []
  for await (const entry of readBundle(bytes, limits)) {
    if (entry.kind === 'manifest') seen.push({ name: 'manifest', text: entry.text })
    else if (entry.kind === 'signature') seen.push({ name: `signature ${entry.index}`, text: entry.text })
    else {
      const chunks: Buffer[] = []
      for await (const chunk of entry.content) chunks.push(Buffer.from(chunk))
      const content = Buffer.concat(chunks)
      assert.equal(content.length, entry.size)
      seen.push({ name: entry.sha256, text: content.toString('latin1') })
    }
  }
  return seen
}

test('what was packed is read back, whatever the sizes and however the bytes arrive', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.oneof(fc.nat(1100), fc.constantFrom(0, 1, 511, 512, 513, 262_144, 300_001)), { maxLength: 12 }),
      fc.array(fc.string({ unit: 'binary', maxLength: 600 }), { maxLength: 16 }),
      fc.integer({ min: 200, max: 70_000 }),
      async (sizes, signatures, piece) => {
        const contents = [...new Map(sizes.map((size) => [size, randomBytes(size)])).values()]
        const bytes = await packed({ signatures, objects: contents.map((content) => objectOf(content)) })
        assert.deepEqual(await unpacked(inPieces(bytes, piece)), [
          { name: 'manifest', text: MANIFEST },
          ...signatures.map((text, index) => ({ name: `signature ${index}`, text })),
          ...contents.map((content) => ({ name: sha256(content), text: content.toString('latin1') })),
        ])
      },
    ),
    { numRuns: 40 },
  )
})

test('a bundle can be read byte by byte', async () => {
  const content = randomBytes(1500)
  const bytes = await packed({ signatures: ['one', 'two'], objects: [objectOf(content)] })
  const seen = await unpacked(inPieces(bytes, 1))
  assert.deepEqual(
    seen.map(({ name }) => name),
    ['manifest', 'signature 0', 'signature 1', sha256(content)],
  )
})

test('tar lists a bundle: names, order, mode 0644, owner 0, no time', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'tarmac-test-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  const content = randomBytes(3 * MEBIBYTE + 7)
  const file = join(dir, 'app.tarmac')
  writeFileSync(file, await packed({ signatures: ['sig'], objects: [objectOf(content)] }))
  const tar = (...args: string[]) =>
    spawnSync('tar', ['--zstd', ...args], { maxBuffer: 8 * MEBIBYTE, env: { ...process.env, TZ: 'UTC' } })
  const list = tar('-tvf', file)
  if (list.error || String(list.stderr).includes('zstd: Cannot exec')) return t.skip('no tar or no zstd here')
  assert.equal(String(list.stderr), '')
  const lines = String(list.stdout)
    .trimEnd()
    .split('\n')
    .map((line) => line.split(/\s+/))
  assert.deepEqual(lines, [
    ['-rw-r--r--', '0/0', String(Buffer.byteLength(MANIFEST)), '1970-01-01', '00:00', 'release.json'],
    ['-rw-r--r--', '0/0', '3', '1970-01-01', '00:00', 'signatures/0.sig'],
    ['-rw-r--r--', '0/0', String(content.length), '1970-01-01', '00:00', `objects/${sha256(content)}`],
  ])
  assert.ok(tar('-xOf', file, `objects/${sha256(content)}`).stdout.equals(content))
})

for (const [what, now] of [
  ['shrinks', 'short'],
  ['grows', 'longer than it was'],
  ['changes within its size', 'CONTENT'],
] as const) {
  test(`packing refuses, by name, a file that ${what} meanwhile`, async () => {
    const object = { ...objectOf(Buffer.from('content'), 'lib/a.js'), open: () => [Buffer.from(now)] }
    await assert.rejects(packed({ objects: [object] }), { code: 'source_invalid', message: /"lib\/a\.js"/ })
  })
}

test('packing refuses what reading would refuse: too many signatures, and one too long', async () => {
  await assert.rejects(packed({ signatures: Array(17).fill('s') }), { code: 'limit_exceeded' })
  await assert.rejects(packed({ signatures: ['s'.repeat(16_385)] }), { code: 'limit_exceeded' })
})

test('an error while objects are read comes out of packing as itself', async () => {
  const error = new Error('disk gone')
  const failing = async function* () {
    yield objectOf(randomBytes(MEBIBYTE))
    throw error
  }
  await assert.rejects(packed({ objects: failing() }), (thrown) => thrown === error)
})

test('whoever stops packing early closes the object that is being read', async () => {
  let closed = false
  const endless = async function* () {
    try {
      for (;;) yield randomBytes(MEBIBYTE)
    } finally {
      closed = true
    }
  }
  const object = { ...objectOf(Buffer.alloc(0)), size: 100 * MEBIBYTE, open: endless }
  for await (const _ of bundleBytes({ manifest: MANIFEST, signatures: [], objects: [object] })) break
  await new Promise((resolve) => setTimeout(resolve, 50))
  assert.equal(closed, true)
})

test('an error of the source, as a cut connection, comes out of reading as itself', async () => {
  const bytes = await packed({ objects: [objectOf(randomBytes(MEBIBYTE))] })
  for (const before of [0, 1, 700, bytes.length - 1, bytes.length]) {
    const error = new Error('ECONNRESET')
    const cut = async function* () {
      yield* inPieces(bytes.subarray(0, before), 100_000)
      throw error
    }
    await assert.rejects(unpacked(cut()), (thrown) => thrown === error, `after ${before} bytes`)
  }
})

test('whoever stops reading early, anywhere, closes the source', async () => {
  const bytes = await packed({
    signatures: ['s'],
    objects: [objectOf(randomBytes(3 * MEBIBYTE)), objectOf(randomBytes(9))],
  })
  for (const stopAt of ['manifest', 'signature', 'content', 'object']) {
    let closed = false
    const source = async function* () {
      try {
        yield* inPieces(bytes, 65_536)
      } finally {
        closed = true
      }
    }
    for await (const entry of readBundle(source())) {
      if (stopAt === 'content' && entry.kind === 'object') for await (const _ of entry.content) break
      if (entry.kind === stopAt || (stopAt === 'content' && entry.kind === 'object')) break
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
    assert.equal(closed, true, stopAt)
  }
})

test('content that nobody reads, or not to its end, is skipped', async () => {
  const objects = [randomBytes(MEBIBYTE), randomBytes(700_000), Buffer.from('last')]
  const bytes = await packed({ objects: objects.map((content) => objectOf(content)) })
  const names: string[] = []
  let last = ''
  for await (const entry of readBundle(inPieces(bytes, 10_000))) {
    if (entry.kind !== 'object') continue
    names.push(entry.sha256)
    if (names.length === 2) for await (const _ of entry.content) break
    if (names.length === 3) for await (const chunk of entry.content) last += chunk
  }
  assert.deepEqual(
    names,
    objects.map((content) => sha256(content)),
  )
  assert.equal(last, 'last')
})

test('no object passes before the limits are raised, and no more than they say after', async () => {
  const bytes = await packed({ objects: [objectOf(Buffer.alloc(1000)), objectOf(Buffer.alloc(500))] })
  const read = async (raised: BundleLimits) => {
    const limits = { maxObjects: 0, maxBytes: 0 }
    let objects = 0
    for await (const entry of readBundle(inPieces(bytes, 4096), limits)) {
      if (entry.kind !== 'object') continue
      Object.assign(limits, raised)
      for await (const _ of entry.content);
      objects++
    }
    return objects
  }
  assert.equal(await read({ maxObjects: 2, maxBytes: 1500 }), 2)
  await assert.rejects(read({ maxObjects: 2, maxBytes: 1499 }), { code: 'limit_exceeded' })
  await assert.rejects(read({ maxObjects: 1, maxBytes: 9999 }), { code: 'limit_exceeded' })
  await assert.rejects(read({ maxObjects: 0, maxBytes: 0 }), { code: 'limit_exceeded' })
})

test('a gibibyte goes through writer and reader in little memory', { timeout: 120_000 }, async () => {
  const portion = randomBytes(4 * MEBIBYTE)
  const GIBIBYTE = 1024 * MEBIBYTE
  const sizes = [GIBIBYTE - 5, 5]
  async function* objects() {
    for (const size of sizes) {
      const open = async function* () {
        for (let left = size; left > 0; left -= portion.length) yield portion.subarray(0, left)
      }
      yield { sha256: await digestOf(open()), size, open }
    }
  }
  // The first megabytes bring in what every later one uses again.
  let before = 0
  let peak = 0
  let total = 0
  for await (const entry of readBundle(bundleBytes({ manifest: MANIFEST, signatures: [], objects: objects() }))) {
    if (entry.kind !== 'object') continue
    for await (const chunk of entry.content) {
      total += chunk.length
      const { rss } = process.memoryUsage()
      if (before === 0) before = rss
      peak = Math.max(peak, rss)
    }
  }
  assert.equal(total, GIBIBYTE)
  // What is not yet collected is more on a busy machine; a bundle that is held is seven times this.
  assert.ok(peak - before < 150 * MEBIBYTE, `${Math.round((peak - before) / MEBIBYTE)} MiB more than before`)
})

async function digestOf(chunks: AsyncIterable<Uint8Array>) {
  const { createHash } = await import('node:crypto')
  const hash = createHash('sha256')
  for await (const chunk of chunks) hash.update(chunk)
  const { isSha256 } = await import('../../shared/names.ts')
  const hex = hash.digest('hex')
  assert.ok(isSha256(hex))
  return hex
}

test('a manifest of 25,000 files on the one before takes some hundred bytes, and objects behind it no more than without', async () => {
  const lines = Array.from({ length: 25_000 }, (_, index) => `{"path":"${index}","sha256":"${sha256(`${index}`)}"}`)
  const reference = Buffer.from(lines.join(','))
  const manifest = lines.with(12_345, `{"path":"12345","sha256":"${sha256('new')}"}`).join(',')
  const on = await packed({ manifest, reference })
  assert.ok(on.length < 1_000, `${on.length} bytes`)
  const read = readBundle(inPieces(on, 100), undefined, reference)
  assert.deepEqual((await read.next()).value, { kind: 'manifest', text: manifest, bytes: Buffer.from(manifest) })
  assert.equal((await read.next()).done, true)

  const objects = [objectOf(readFileSync(process.execPath).subarray(0, 4 * MEBIBYTE))]
  const alone = await packed({ objects })
  const behind = await packed({ manifest, reference, objects })
  assert.ok(behind.length < alone.length * 1.01 + 1_000, `${behind.length} and ${alone.length} bytes`)
})

test('a header is the one that the tar package writes, at every width of a size', () => {
  const still = { mode: 0o644, uid: 0, gid: 0, mtime: new Date(0), uname: '', gname: '', type: 'File' } as const
  for (const path of ['release.json', 'signatures/12.sig', `objects/${'ab'.repeat(32)}`]) {
    for (const size of [0, 1, 511, 8 ** 9, 8 ** 10 - 1, 8 ** 10, MAX_FILE_BYTES]) {
      const block = Buffer.alloc(512)
      new Header({ ...still, path, size }).encode(block)
      assert.deepEqual(entryHeader(path, size), block, `${path} ${size}`)
    }
  }
})

test('what does not compress is read whole, however it arrives and however long its reader pauses', async () => {
  const content = randomBytes(16 * MEBIBYTE)
  const bytes = await packed({ objects: [objectOf(content)] })
  for (const size of [1_000, 16_377, 65_527, 300_000]) {
    for await (const entry of readBundle(inPieces(bytes, size))) {
      if (entry.kind !== 'object') continue
      let read = 0
      for await (const chunk of entry.content) {
        if (read === 0) await sleep(100)
        read += chunk.length
      }
      assert.equal(read, content.length, `in pieces of ${size}`)
    }
  }
})

test('a portion is what was packed until more is asked for; then the memory that is full is given back', async () => {
  const content = Buffer.concat([randomBytes(3 * MEBIBYTE), Buffer.alloc(5 * MEBIBYTE, 'what compresses well ')])
  const bytes = await packed({ objects: [objectOf(randomBytes(100_000)), objectOf(content)] })
  for (const piece of [16_384, bytes.length]) {
    const memory = new Set<ArrayBufferLike>()
    for await (const entry of readBundle(inPieces(bytes, piece))) {
      if (entry.kind !== 'object' || entry.size !== content.length) continue
      let at = 0
      for await (const portion of entry.content) {
        memory.add(portion.buffer)
        // The decompressor works on meanwhile.
        await new Promise((resolve) => setTimeout(resolve, 2))
        assert.ok(portion.equals(content.subarray(at, at + portion.length)))
        at += portion.length
      }
      assert.equal(at, content.length)
    }
    // Before Node 26 a stream joins what is ready, in memory of its own.
    if (Number.parseInt(process.versions.node, 10) < 26) continue
    assert.ok([...memory].filter(({ byteLength }) => byteLength === 0).length >= 7)
  }
})

test('whoever stops taking a bundle while it is written closes the object that is being read', async () => {
  let opened = 0
  let closed = 0
  const objects = Array.from({ length: 40 }, () => randomBytes(MEBIBYTE)).map((content) => ({
    ...objectOf(content),
    *open() {
      opened++
      try {
        yield content
      } finally {
        closed++
      }
    },
  }))
  for await (const _ of bundleBytes({ manifest: MANIFEST, signatures: [], objects })) {
    await sleep(200)
    break
  }
  for (let tries = 0; closed < opened && tries < 100; tries++) await sleep(20)
  assert.deepEqual([opened > 0, opened < 40, closed], [true, true, opened])
})
