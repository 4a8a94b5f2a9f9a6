import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { describe, test } from 'node:test'
import { constants, createZstdCompress, gzipSync, zstdCompressSync } from 'node:zlib'
import { Header } from 'tar/header'
import { entryHeader } from '../../shared/bundle.ts'
import { readBundle } from '../../shared/bundle-read.ts'
import { Failure } from '../../shared/failure.ts'
import { sha256 } from '../../shared/names.ts'

// A stranger on the wire writes what he likes. Whatever it is: refused with a code, at once, in little memory; and if
// it is taken, then it says exactly what was packed.

const MEBIBYTE = 1024 * 1024
const CONTENT = Buffer.from('content of an object\n')
const OBJECT = `objects/${sha256(CONTENT)}`
const TEXT = '{"format":1}'
const SIGNATURE = '-----BEGIN SSH SIGNATURE-----\n'
const END = Buffer.alloc(1024)

function entry(name: string, content: string | Buffer): Buffer {
  const bytes = Buffer.from(content)
  return Buffer.concat([entryHeader(name, bytes.length), padded(bytes)])
}

function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512)])
}

const MANIFEST = entry('release.json', TEXT)
const HEAD = Buffer.concat([MANIFEST, entry('signatures/0.sig', SIGNATURE)])
const GOOD = Buffer.concat([HEAD, entry(OBJECT, CONTENT), END])

/** A header with anything in it, its checksum right. */
function forged(
  fields: ConstructorParameters<typeof Header>[0] & object,
  edit: (block: Buffer) => void = () => {},
): Buffer {
  const block = Buffer.alloc(512)
  const plain = { path: OBJECT, mode: 0o644, uid: 0, gid: 0, size: 0, mtime: new Date(0), uname: '', gname: '' }
  new Header({ ...plain, type: 'File', ...fields }).encode(block)
  edit(block)
  block.fill(' ', 148, 156)
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, '0')} \0`, 148, 'latin1')
  return block
}

/** A line an entry: its name, then what it holds. */
async function read(bytes: AsyncIterable<Uint8Array>): Promise<string[]> {
  const seen: string[] = []
  for await (const entry of readBundle(bytes)) {
    if (!('content' in entry)) seen.push(`${entry.kind} ${entry.text}`)
    else {
      const chunks: Buffer[] = []
      for await (const chunk of entry.content) chunks.push(Buffer.from(chunk))
      seen.push(`${entry.sha256} ${sha256(Buffer.concat(chunks))}`)
    }
  }
  return seen
}

async function* inPieces(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}

/** However it is cut into pieces. */
async function refused(bytes: Buffer, code: string, message = /./): Promise<void> {
  for (const piece of [bytes.length + 1, 1]) {
    await assert.rejects(read(inPieces(bytes, piece)), (error) => {
      assert.ok(error instanceof Failure, String(error))
      assert.equal(error.code, code, error.message)
      assert.match(error.message, message)
      return true
    })
  }
}

const packed = (tar: Buffer) => zstdCompressSync(tar)

test('the bundle that the attacks below start from is a good one', async () => {
  const seen = await read(inPieces(packed(GOOD), 1))
  assert.deepEqual(seen, [`manifest ${TEXT}`, `signature ${SIGNATURE}`, `${sha256(CONTENT)} ${sha256(CONTENT)}`])
})

describe('refused: a name that is none of the four', () => {
  for (const name of [
    '../etc/passwd',
    '/etc/passwd',
    './release.json',
    'release.json/',
    'release.jsonx',
    'RELEASE.JSON',
    'objects/',
    `objects/../${sha256('')}`,
    `objects/${sha256('').toUpperCase()}`,
    `objects/${sha256('')}0`,
    `objects/${sha256('').slice(1)}`,
    `objects/${sha256('')}/x`,
    `objects//${sha256('')}`,
    'recipes/',
    `recipes/${sha256('')}0`,
    `recipes/../${sha256('')}`,
    'signatures/00.sig',
    'signatures/-1.sig',
    'signatures/1e1.sig',
    'signatures/0.sig.x',
    'chunks/x',
    'pax_global_header',
    'name with\nnewline and \u001b[31m',
    'é',
  ]) {
    test(JSON.stringify(name), () => refused(packed(Buffer.concat([HEAD, entry(name, 'x'), END])), 'bundle_malformed'))
  }
})

describe('refused: a header that is not the one tarmac writes', () => {
  const headers: Record<string, Buffer> = {
    'a symbolic link': forged({ type: 'SymbolicLink', linkpath: '/etc/passwd' }),
    'a hard link': forged({ type: 'Link', linkpath: 'release.json' }),
    'a directory': forged({ type: 'Directory' }),
    'a character device': forged({ type: 'CharacterDevice', devmaj: 1, devmin: 3 }),
    'a fifo': forged({ type: 'FIFO' }),
    'a file of the old type NUL': forged({}, (block) => block.fill(0, 156, 157)),
    'a contiguous file': forged({ type: 'ContiguousFile' }),
    'a pax header': forged({ type: 'ExtendedHeader' }),
    'a global pax header': forged({ type: 'GlobalExtendedHeader' }),
    'a GNU long name': forged({ type: 'NextFileHasLongPath' }),
    'a GNU sparse file': forged({}, (block) => block.write('S', 156)),
    'a type nobody knows': forged({}, (block) => block.write('~', 156)),
    'a link name on a file': forged({ linkpath: 'x' }),
    setuid: forged({ mode: 0o4755 }),
    'mode 0755': forged({ mode: 0o755 }),
    'an owner': forged({ uid: 1000 }),
    'a group': forged({ gid: 1000 }),
    "an owner's name": forged({ uname: 'root' }),
    'a time': forged({ mtime: new Date(1000) }),
    'a prefix': forged({ path: sha256(CONTENT) }, (block) => block.write('objects', 345)),
    'something after the end of the name': forged({}, (block) => block.write('x', 90)),
    'something in the unused end': forged({}, (block) => block.write('x', 505)),
    'a size in base 256': forged({}, (block) => block.set([0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 124)),
    'a negative size': forged({}, (block) => block.fill(0xff, 124, 136)),
    'a broken base 256': forged({}, (block) => block.fill(0xc0, 124, 136)),
    'a size with blanks': forged({}, (block) => block.write('          0\0', 124)),
    'no size': forged({}, (block) => block.fill(0, 124, 136)),
    'the magic of old GNU tar': forged({}, (block) => block.write('ustar  \0', 257)),
    'no magic': forged({}, (block) => block.fill(0, 257, 265)),
    'no name': forged({}, (block) => block.fill(0, 0, 100)),
    'random bytes': randomBytes(512),
  }
  for (const [what, header] of Object.entries(headers)) {
    test(what, () => refused(packed(Buffer.concat([HEAD, header, END])), 'bundle_malformed'))
  }
  test('a wrong checksum', () => {
    const header = entryHeader(OBJECT, 0)
    header.write('1', 150)
    return refused(packed(Buffer.concat([HEAD, header, END])), 'bundle_malformed')
  })
  test('a size beyond 8 GiB, before anything is read', () => {
    const header = entryHeader(OBJECT, 2 ** 40)
    return refused(packed(Buffer.concat([HEAD, header, END])), 'limit_exceeded')
  })
})

describe('refused: entries twice, missing or in another order', () => {
  const object = entry(OBJECT, CONTENT)
  const signature = (index: number) => entry(`signatures/${index}.sig`, SIGNATURE)
  const tars: Record<string, Buffer[]> = {
    'nothing at all': [END],
    'no manifest': [signature(0), object, END],
    'an object before the manifest': [object, MANIFEST, END],
    'two manifests': [MANIFEST, MANIFEST, END],
    'a manifest after the objects': [HEAD, object, MANIFEST, END],
    'a signature after an object': [MANIFEST, object, signature(0), END],
    'a signature twice': [MANIFEST, signature(0), signature(0), END],
    'signatures that begin at 1': [MANIFEST, signature(1), END],
    'a gap in the signatures': [MANIFEST, signature(0), signature(2), END],
    'an object twice': [HEAD, object, object, END],
    'no zero block': [HEAD, object],
    'one zero block': [HEAD, object, Buffer.alloc(512)],
    'three zero blocks': [HEAD, object, END, Buffer.alloc(512)],
    'a byte after the end': [HEAD, object, END, Buffer.from('x')],
    'a second archive after the end': [GOOD, GOOD],
    'an entry between the zero blocks': [HEAD, Buffer.alloc(512), object, END],
    'something in the padding': [HEAD, entryHeader(OBJECT, 1), Buffer.from(`x${'\0'.repeat(510)}x`), END],
    'something in the padding of the manifest': [
      entryHeader('release.json', 1),
      Buffer.from(`x${'\0'.repeat(510)}x`),
      END,
    ],
  }
  for (const [what, parts] of Object.entries(tars)) {
    test(what, () => refused(packed(Buffer.concat(parts)), 'bundle_malformed'))
  }
  test('17 signatures', () => {
    const many = Array.from({ length: 17 }, (_, index) => signature(index))
    return refused(packed(Buffer.concat([MANIFEST, ...many, END])), 'limit_exceeded')
  })
  test('a signature of more than 16 KiB', () =>
    refused(packed(Buffer.concat([MANIFEST, entry('signatures/0.sig', 's'.repeat(16_385)), END])), 'limit_exceeded'))
  test('a manifest of more than 64 MiB, before it is read', () =>
    refused(packed(Buffer.concat([entryHeader('release.json', 64 * MEBIBYTE + 1)])), 'limit_exceeded'))
  test('a manifest that is not UTF-8', () =>
    refused(packed(Buffer.concat([entry('release.json', Buffer.from([0x22, 0xff, 0x22])), END])), 'bundle_malformed'))
})

describe('refused: anything but one whole zstd frame', () => {
  const good = packed(GOOD)
  const skippable = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4])
  const inputs: Record<string, Buffer> = {
    'no bytes': Buffer.alloc(0),
    'a plain tar': GOOD,
    'a gzipped tar': gzipSync(GOOD),
    'an empty frame': zstdCompressSync(Buffer.alloc(0)),
    'the bundle twice': Buffer.concat([good, good]),
    'an empty frame after it': Buffer.concat([good, zstdCompressSync(Buffer.alloc(0))]),
    'an empty frame before it': Buffer.concat([zstdCompressSync(Buffer.alloc(0)), good]),
    'a skippable frame before it': Buffer.concat([skippable, good]),
    'a skippable frame after it': Buffer.concat([good, skippable]),
    'the tar in two frames': Buffer.concat([packed(GOOD.subarray(0, 700)), packed(GOOD.subarray(700))]),
    'a byte after it': Buffer.concat([good, Buffer.from('x')]),
    'zeros after it': Buffer.concat([good, Buffer.alloc(100_000)]),
    'a block of the reserved type': Buffer.from('28b52ffd000007000000', 'hex'),
    'a frame of a later format': Buffer.from('28b52ffd080001000000', 'hex'),
    'a frame that asks for a dictionary': Buffer.from('28b52ffd01000501000000', 'hex'),
    'a window of 2 GiB': Buffer.from('28b52ffd00a8010000', 'hex'),
  }
  for (const [what, bytes] of Object.entries(inputs)) test(what, () => refused(bytes, 'bundle_malformed'))

  test('a window of 32 MiB', async () => {
    const zstd = createZstdCompress({ params: { [constants.ZSTD_c_windowLog]: 25 } })
    zstd.write(GOOD)
    zstd.flush(() => zstd.end())
    const chunks: Buffer[] = []
    for await (const chunk of zstd) chunks.push(chunk)
    await refused(Buffer.concat(chunks), 'bundle_malformed', /decompressed/)
  })

  test('the bundle cut off after each of its bytes', { timeout: 60_000 }, async () => {
    for (let end = 0; end < good.length; end++) {
      for (const piece of [good.length, 1]) {
        await assert.rejects(
          read(inPieces(good.subarray(0, end), piece)),
          { code: 'bundle_malformed' },
          `${end} of ${good.length}`,
        )
      }
    }
  })

  test('the tar cut off after each of its bytes, in a whole frame', { timeout: 60_000 }, async () => {
    for (let end = 0; end < GOOD.length; end++) {
      await assert.rejects(read(inPieces(packed(GOOD.subarray(0, end)), 512)), { code: 'bundle_malformed' }, `${end}`)
    }
  })
})

test('any one bit changed outside of the contents is refused', { timeout: 120_000 }, async () => {
  // Contents answer for themselves: the manifest by its signatures, objects by their digests.
  const contents = [
    { at: 512, size: TEXT.length },
    { at: 1536, size: SIGNATURE.length },
    { at: 2560, size: CONTENT.length },
  ]
  assert.equal(GOOD.subarray(2560, 2560 + CONTENT.length).toString(), CONTENT.toString())
  for (let byte = 0; byte < GOOD.length; byte++) {
    if (contents.some(({ at, size }) => byte >= at && byte < at + size)) continue
    await assert.rejects(read(inPieces(packed(flipped(GOOD, byte * 8 + (byte % 8))), 4096)), Failure, `byte ${byte}`)
  }
})

test('any one bit changed in the compressed bytes is refused, or shows in a digest', { timeout: 60_000 }, async () => {
  const good = packed(GOOD)
  const truth = await read(inPieces(good, 512))
  for (let bit = 0; bit < good.length * 8; bit++) {
    const seen = await read(inPieces(flipped(good, bit), 4096)).catch((error: unknown) => {
      assert.ok(error instanceof Failure, `bit ${bit}: ${String(error)}`)
      return truth
    })
    // A changed manifest or signature fails as a signature does; an object must then not be what its name says.
    // Two letters of a name can change with the sum of the header unchanged, so names alone prove nothing.
    const [, , object = ''] = seen
    const [name, digest] = object.split(' ')
    assert.ok(object === truth[2] || name !== digest, `bit ${bit}`)
  }
})

function flipped(bytes: Buffer, bit: number): Buffer {
  const copy = Buffer.from(bytes)
  copy.writeUInt8(copy.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3)
  return copy
}

test('a bomb is refused while it streams, in little memory', { timeout: 60_000 }, async () => {
  const zeros = Buffer.alloc(MEBIBYTE)
  const bomb = (front: Buffer) =>
    async function* () {
      const zstd = createZstdCompress()
      zstd.write(front)
      for (let sent = 0; sent < 4096; sent++) if (!zstd.write(zeros)) break
      for (let sent = 0; sent < 4096; sent++) {
        await new Promise((resolve) => zstd.write(zeros, resolve))
        for (let chunk = zstd.read(); chunk; chunk = zstd.read()) yield chunk
      }
    }
  const bombs: Record<string, Buffer> = {
    'after the end': GOOD,
    'instead of the manifest': Buffer.alloc(0),
    'as the content of an object': Buffer.concat([HEAD, entryHeader(OBJECT, 8 * 1024 ** 3 - 1)]),
  }
  for (const [what, front] of Object.entries(bombs)) {
    const before = process.memoryUsage().rss
    const limited = async () => {
      for await (const entry of readBundle(bomb(front)(), { maxObjects: 1, maxBytes: 1000 })) {
        if (entry.kind === 'object') for await (const _ of entry.content);
      }
    }
    await assert.rejects(limited(), (error) => error instanceof Failure, what)
    const grown = (process.memoryUsage().rss - before) / MEBIBYTE
    assert.ok(grown < 100, `${what}: ${Math.round(grown)} MiB more`)
  }
})

test('a frame of empty blocks without end is refused', { timeout: 60_000 }, async () => {
  const emptyBlocks = Buffer.alloc(60_000)
  const endless = async function* () {
    yield Buffer.from('28b52ffd0040', 'hex')
    for (;;) yield emptyBlocks
  }
  await assert.rejects(read(endless()), { code: 'bundle_malformed' })
})
