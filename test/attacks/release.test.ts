import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { zstdCompressSync } from 'node:zlib'
import { sha256 } from '../../shared/names.ts'
import { SESSION_NAMESPACE, sessionStatement } from '../../shared/session.ts'
import { sshString } from '../../shared/ssh-wire.ts'
import { armorOf } from '../../shared/sshsig.ts'
import { paths, RELEASE_NAMESPACE } from '../../shared/wire.ts'
import { rawConnect, rawRequest } from '../helpers/raw-client.ts'
import {
  APP,
  bundleOf,
  fileEntry,
  flipped,
  groundOf,
  headEntries,
  type Json,
  MISSING,
  manifestOf,
  objectEntry,
  RELEASES,
  randomFrom,
  releaseOf,
  SLEEPER,
  signedBy,
  type TarEntry,
  tarOf,
} from '../helpers/raw-release.ts'
import { type HandKey, makeHandKey, rawSignature } from '../helpers/ssh.ts'
import { makeWorld, type World } from '../helpers/world.ts'

// Someone who may open a session sends what nobody signed, or signs what no release may be. Whatever it is: refused
// with its own code, no process started, and not a byte of it left on the host.

const SMALL = 'a small file\n'
const BIG = Buffer.alloc(1024 * 1024 + 4096, 'more than a mebibyte ')
const GOOD = manifestOf([fileEntry('big.bin', BIG), fileEntry('small.txt', SMALL)])
const GOOD_TEXT = JSON.stringify(GOOD)
const KNOWN = paths.known(APP)

interface Stage {
  world: World
  /** Known for sessions and releases. */
  eve: HandKey
  /** Sends it as a first push; it must be refused, with nothing left. */
  refused(bundle: Buffer, code: string, status: number): Promise<void>
}

async function stageOf(t: TestContext): Promise<Stage> {
  const world = await makeWorld(t)
  const eve = makeHandKey('ssh-ed25519')
  assert.equal((await world.agentCommand('signers', 'add', 'eve', eve.publicLine)).exit, 0)
  return {
    world,
    eve,
    async refused(bundle, code, status) {
      const before = groundOf(world.root)
      const answer = await rawRequest(world, eve, { method: 'POST', target: RELEASES, body: bundle })
      assert.deepEqual([answer.code, answer.status], [code, status], answer.body.slice(0, 500))
      assert.deepEqual(groundOf(world.root), before)
    },
  }
}

/** What the person's own client says of a bundle that came from elsewhere: its exit code, and the code of the refusal. */
async function pushedByClient(world: World, bundle: Buffer): Promise<{ exit: number | null; code: string }> {
  const file = join(world.dir, 'evil.tarmac')
  writeFileSync(file, bundle)
  const { exit, stdout } = await world.tarmac('push', file, '--json')
  const [last = '{}'] = stdout.trim().split('\n').slice(-1)
  const { error, hosts } = JSON.parse(last) as { error?: { code: string }; hosts?: { code: string }[] }
  return { exit, code: (error ?? hosts?.[0])?.code ?? '' }
}

test('a release that fits its signature is taken: what the attacks below start from', async (t) => {
  const { world, eve } = await stageOf(t)
  const body = bundleOf(GOOD_TEXT, [signedBy(eve, GOOD_TEXT)], [SMALL, BIG])
  const answer = await rawRequest(world, eve, { method: 'POST', target: RELEASES, body })
  assert.equal(answer.lines.at(-1)?.step, 'done', answer.body)
  assert.equal(readFileSync(join(world.root, 'apps/shop/current/tree/small.txt'), 'utf8'), SMALL)
  assert.equal(groundOf(world.root).processes.length, 1)
})

test('refused: signatures that do not hold', { timeout: 120_000 }, async (t) => {
  const { world, eve, refused } = await stageOf(t)
  const mallory = makeHandKey('ssh-ed25519')
  const good = eve.sign({ namespace: RELEASE_NAMESPACE, message: GOOD_TEXT })
  const armored = armorOf(good)
  const withSignatures = (...signatures: string[]) => bundleOf(GOOD_TEXT, signatures, [SMALL, BIG])
  const hand = (over: Partial<Parameters<typeof rawSignature>[0]>) => {
    const namespace = RELEASE_NAMESPACE
    const value = good.subarray(good.length - 83)
    return armorOf(rawSignature({ blob: eve.blob, namespace, hash: 'sha512', value, ...over }))
  }
  assert.equal(hand({}), armored)
  const otherText = JSON.stringify({ ...GOOD, created: '2026-11-22T23:38:52Z' })
  const cases: Record<string, [Buffer, string, number]> = {
    none: [withSignatures(), 'signature_missing', 403],
    'by a key nobody knows': [withSignatures(signedBy(mallory, GOOD_TEXT)), 'signer_unknown', 403],
    'over another manifest': [withSignatures(signedBy(eve, otherText)), 'signature_mismatch', 403],
    'of a session': [withSignatures(signedBy(eve, GOOD_TEXT, SESSION_NAMESPACE)), 'signer_unknown', 403],
    'for files, as ssh-keygen has it by default': [
      withSignatures(signedBy(eve, GOOD_TEXT, 'file')),
      'signature_mismatch',
      403,
    ],
    'that claims the right namespace over the wrong one': [
      withSignatures(hand({ value: eve.sign({ namespace: SESSION_NAMESPACE, message: GOOD_TEXT }).subarray(-83) })),
      'signature_mismatch',
      403,
    ],
    "with the key of another's in it": [withSignatures(hand({ blob: mallory.blob })), 'signer_unknown', 403],
    'a good one and one by nobody': [withSignatures(armored, signedBy(mallory, GOOD_TEXT)), 'signer_unknown', 403],
    'one by nobody and a good one': [withSignatures(signedBy(mallory, GOOD_TEXT), armored), 'signer_unknown', 403],
    'a good one and one over something else': [
      withSignatures(armored, signedBy(eve, otherText)),
      'signature_mismatch',
      403,
    ],
    'a good one and garbage': [withSignatures(armored, 'garbage'), 'signature_malformed', 403],
    'an empty one': [withSignatures(''), 'signature_malformed', 403],
    'of a later version': [withSignatures(hand({ version: 2 })), 'signature_malformed', 403],
    'with something reserved': [withSignatures(hand({ reserved: 'x' })), 'signature_malformed', 403],
    'with an unknown hash': [withSignatures(hand({ hash: 'md5' })), 'signature_malformed', 403],
    'with another hash': [withSignatures(hand({ hash: 'sha256' })), 'signature_mismatch', 403],
    'with an empty value': [withSignatures(hand({ value: Buffer.alloc(0) })), 'signature_malformed', 403],
    'all zeros': [
      withSignatures(hand({ value: Buffer.concat([sshString('ssh-ed25519'), sshString(Buffer.alloc(64))]) })),
      'signature_mismatch',
      403,
    ],
    'with something behind it': [
      withSignatures(armorOf(Buffer.concat([good, Buffer.alloc(1)]))),
      'signature_malformed',
      403,
    ],
    'seventeen of them': [withSignatures(...Array.from({ length: 17 }, () => armored)), 'limit_exceeded', 413],
  }
  for (const [what, [bundle, code, status]] of Object.entries(cases)) {
    await t.test(what, async () => {
      const expected = what === 'of a session' ? 'signature_mismatch' : code
      await refused(bundle, expected, status)
    })
  }
  await t.test('a session signature played back as that of a release', async () => {
    const connection = await rawConnect(world)
    const statement = sessionStatement(connection.exporter, world.pin)
    const session = connection.authorization(eve).replace('SSHSIG ', '')
    connection.close()
    const text = statement.toString('latin1')
    const bundle = bundleOf(text, [armorOf(Buffer.from(session, 'base64'))])
    await refused(bundle, 'signature_mismatch', 403)
  })
  await t.test('a bit of each field, and of every byte of them', async () => {
    const blobAt = good.indexOf(eve.blob)
    const namespaceAt = good.indexOf(RELEASE_NAMESPACE)
    const hashAt = good.indexOf('sha512')
    const codes = new Map<string, string>()
    for (let at = 0; at < good.length; at++) {
      const field =
        at < 6
          ? 'magic'
          : at < blobAt - 4
            ? 'version'
            : at < namespaceAt - 4
              ? 'key'
              : at < hashAt - 8
                ? 'namespace'
                : at < hashAt + 6
                  ? 'hash'
                  : 'value'
      const bundle = bundleOf(GOOD_TEXT, [armorOf(flipped(good, at * 8 + (at % 8)))])
      const before = groundOf(world.root).files
      const answer = await rawRequest(world, eve, { method: 'POST', target: RELEASES, body: bundle })
      assert.ok(answer.status === 403 || answer.code === 'key_unsupported', `${field} ${at}: ${answer.body}`)
      codes.set(`${field} ${answer.code}`, field)
      assert.deepEqual(groundOf(world.root).files, before)
    }
    assert.deepEqual([...new Set(codes.values())], ['magic', 'version', 'key', 'namespace', 'hash', 'value'])
  })
  await t.test('the real client exits 3 with each of them', async () => {
    for (const what of [
      'none',
      'by a key nobody knows',
      'over another manifest',
      'of a session',
      'a good one and garbage',
    ]) {
      const [bundle, code] = cases[what] ?? assert.fail()
      const before = groundOf(world.root)
      const expected = what === 'of a session' ? 'signature_mismatch' : code
      assert.deepEqual(await pushedByClient(world, bundle), { exit: 3, code: expected }, what)
      assert.deepEqual(groundOf(world.root), before)
    }
  })
  assert.equal(existsSync(join(world.root, 'apps/shop')), false)
})

test('refused: one changed bit, wherever it is', { timeout: 180_000 }, async (t) => {
  const { world, eve, refused } = await stageOf(t)
  const noise = randomBytes(20_000)
  const manifest = manifestOf([fileEntry('big.bin', BIG), fileEntry('noise.bin', noise), fileEntry('small.txt', SMALL)])
  const text = JSON.stringify(manifest)
  const signature = signedBy(eve, text)
  await t.test('in the manifest', async () => {
    const random = randomFrom(1)
    for (let round = 0; round < 20; round++) {
      const changed = flipped(Buffer.from(text), random(text.length) * 8 + random(7)).toString('latin1')
      await refused(bundleOf(changed, [signature], [SMALL, BIG, noise]), 'signature_mismatch', 403)
    }
  })
  await t.test('in a small object, and in one of more than a mebibyte', async () => {
    for (const content of [Buffer.from(SMALL), BIG]) {
      for (const bit of [0, content.length * 4, content.length * 8 - 1]) {
        const others = [Buffer.from(SMALL), BIG, noise].filter((other) => !other.equals(content))
        const entries = [...headEntries(text, [signature]), ...others.map(objectEntry)]
        const evil: TarEntry = [`objects/${sha256(content)}`, flipped(content, bit)]
        await refused(zstdCompressSync(tarOf([...entries, evil])), 'object_mismatch', 422)
      }
    }
  })
  const tar = tarOf([...headEntries(text, [signature]), ...[SMALL, noise, BIG].map(objectEntry)])
  await t.test('at 200 random places of the tar', async () => {
    const random = randomFrom(2)
    const seen = new Set<string>()
    for (let round = 0; round < 200; round++) {
      // Half of them in what is not the big file, where the structure is.
      const bit = random(round % 2 === 0 ? tar.length * 8 : 25_000 * 8)
      const before = groundOf(world.root)
      const body = zstdCompressSync(flipped(tar, bit))
      const answer = await rawRequest(world, eve, { method: 'POST', target: RELEASES, body })
      assert.ok(answer.status >= 400 && answer.status < 500, `bit ${bit}: ${answer.status} ${answer.body}`)
      assert.deepEqual(groundOf(world.root), before, `bit ${bit}`)
      seen.add(answer.code ?? '')
    }
    for (const code of ['bundle_malformed', 'object_mismatch']) assert.ok(seen.has(code), [...seen].join())
  })
  await t.test('at 200 random places of the bundle', async () => {
    const random = randomFrom(3)
    const bundle = zstdCompressSync(tar)
    for (let round = 0; round < 200; round++) {
      const bit = random(bundle.length * 8)
      const before = groundOf(world.root)
      const body = flipped(bundle, bit)
      const answer = await rawRequest(world, eve, { method: 'POST', target: RELEASES, body })
      if (answer.status === 200) {
        // A bit that says nothing, or another way to say the same: what was taken is what was signed.
        assert.equal(readFileSync(join(world.root, 'apps/shop/current/release.json'), 'utf8'), text)
        continue
      }
      assert.ok(answer.status >= 400 && answer.status < 500, `bit ${bit}: ${answer.status} ${answer.body}`)
      assert.deepEqual(groundOf(world.root), before, `bit ${bit}: ${answer.code}`)
    }
  })
})

/** Of the small file. */
const file = (path: string, over: Json = {}) => fileEntry(path, SMALL, over)
/** Files, the code by which they are refused, and what else is in the manifest. */
const MANIFESTS: Record<string, [unknown[], string, Json?]> = {
  'out and up': [[file('../evil')], 'path_refused'],
  'up in the middle': [[file('a/../../evil')], 'path_refused'],
  'up at the end': [[file('a/..')], 'path_refused'],
  absolute: [[file('/etc/cron.d/evil')], 'path_refused'],
  'a dot': [[file('./a')], 'path_refused'],
  'an empty segment': [[file('a//b')], 'path_refused'],
  'an end in a slash': [[file('a/')], 'path_refused'],
  'no name': [[file('')], 'path_refused'],
  'a NUL': [[file('a\0b')], 'path_refused'],
  'a newline': [[file('a\nb')], 'path_refused'],
  'an escape': [[file('a\u001b[2Jb')], 'path_refused'],
  'a C1 control': [[file('a\u009bb')], 'path_refused'],
  'half a surrogate pair': [[file('a\ud800')], 'path_refused'],
  'a name of 256 bytes': [[file('x'.repeat(256))], 'path_refused'],
  'a path of 1025 bytes': [[file(`${'x/'.repeat(512)}x`)], 'path_refused'],
  'the same twice': [[file('a'), file('a')], 'path_refused'],
  'not sorted': [[file('b'), file('a')], 'path_refused'],
  'below a file': [[file('a'), file('a/b')], 'path_refused'],
  'below a link': [[{ path: 'a', link: 'b' }, file('a/c')], 'path_refused'],
  'below an empty directory': [[{ path: 'a', dir: true }, file('a/b')], 'path_refused'],
  'in a shared directory': [[file('data/x')], 'path_refused', { shared: ['data'] }],
  'shared up and out': [[file('a')], 'path_refused', { shared: ['../../../etc'] }],
  'shared absolute': [[file('a')], 'path_refused', { shared: ['/etc'] }],
  'shared below a link': [[{ path: 'a', link: '.' }], 'path_refused', { shared: ['a/b'] }],
  'setuid as text': [[file('a', { mode: '4755' })], 'mode_refused'],
  setgid: [[file('a', { mode: '02755' })], 'mode_refused'],
  'setuid as a number': [[file('a', { mode: 2541 })], 'mode_refused'],
  '0o644 as a number': [[file('a', { mode: 0o644 })], 'mode_refused'],
  'writable by all': [[file('a', { mode: '0666' })], 'mode_refused'],
  'no mode': [[file('a', { mode: undefined })], 'mode_refused'],
  'an absolute link': [[{ path: 'a', link: '/etc/passwd' }], 'link_refused'],
  'a link up and out': [[{ path: 'a', link: '../../../../../etc/passwd' }], 'link_refused'],
  'a link one up from the top': [[{ path: 'a', link: '..' }], 'link_refused'],
  'a link out by a detour': [[file('b/c/d'), { path: 'x', link: 'b/c/../../../etc' }], 'link_refused'],
  'links that leave together': [
    [
      { path: 'a/b', link: '..' },
      { path: 'c', link: 'a/b/../etc' },
    ],
    'link_refused',
  ],
  'links in a circle': [
    [
      { path: 'a', link: 'b' },
      { path: 'b', link: 'a' },
    ],
    'link_refused',
  ],
  'an empty link': [[{ path: 'a', link: '' }], 'link_refused'],
  'a link with a NUL': [[{ path: 'a', link: 'b\0c' }], 'link_refused'],
  'a link through a shared directory and up': [
    [{ path: 'a', link: 'data/../../../../x' }],
    'link_refused',
    { shared: ['data'] },
  ],
  'a negative size': [[file('a', { size: -1 })], 'manifest_invalid'],
  'a size that is text': [[file('a', { size: '13' })], 'manifest_invalid'],
  'a huge size': [[file('a', { size: 2 ** 53 })], 'manifest_invalid'],
  'one digest with two sizes': [[file('a'), file('b', { size: 12 })], 'manifest_invalid'],
  'a digest in capitals': [[file('a', { sha256: sha256(SMALL).toUpperCase() })], 'manifest_invalid'],
  'a digest that is a path': [
    [file('a', { sha256: '../../../../../../../../../../../etc/passwd' })],
    'manifest_invalid',
  ],
  'a file and a link in one': [[file('a', { link: 'b' })], 'manifest_invalid'],
  'a file that is null': [[null], 'manifest_invalid'],
  'another app': [[file('a')], 'app_mismatch', { app: 'other' }],
  'an app that is a path': [[file('a')], 'manifest_invalid', { app: '../shop' }],
  'a service that is a path': [[file('a')], 'manifest_invalid', { services: { '../web': SLEEPER } }],
  'a later format': [[file('a')], 'manifest_invalid', { format: 2 }],
  'a date that is a path': [[file('a')], 'manifest_invalid', { created: '../../2026' }],
  'no service': [[file('a')], 'manifest_invalid', { services: {} }],
  'a newline in a command': [
    [file('a')],
    'manifest_invalid',
    { services: { web: { ...SLEEPER, command: { exec: ['/bin/sleep', '1\nUser=root'] } } } },
  ],
  'a newline in a shell command': [
    [file('a')],
    'manifest_invalid',
    { services: { web: { ...SLEEPER, command: { shell: 'sleep 1\n[Service]\nExecStartPre=+/bin/sh' } } } },
  ],
  'a command and a shell command': [
    [file('a')],
    'manifest_invalid',
    { services: { web: { ...SLEEPER, command: { exec: ['/bin/true'], shell: 'true' } } } },
  ],
  'a user of its own': [[file('a')], 'manifest_invalid', { services: { web: { ...SLEEPER, user: 'root' } } }],
  'an unknown key': [[file('a')], 'manifest_invalid', { hooks: { pre: 'true' } }],
  'an own __proto__': [[file('a')], 'manifest_invalid', JSON.parse('{"__proto__":{"app":"x"}}') as Json],
}

/** The good release, written as tarmac does not. */
const SPELLINGS: Record<string, string> = {
  'a space': GOOD_TEXT.replace(':', ': '),
  'a newline at the end': `${GOOD_TEXT}\n`,
  'a byte order mark': `\ufeff${GOOD_TEXT}`,
  'a key twice': GOOD_TEXT.replace('"app":"shop"', '"app":"other","app":"shop"'),
  'a key twice in a file': GOOD_TEXT.replace('"mode":"0644"', '"mode":"4755","mode":"0644"'),
  'keys in another order': JSON.stringify({ app: 'shop', ...GOOD, format: 1 }).replace('{"app"', '{"app"'),
  'an escaped letter': GOOD_TEXT.replace('small.txt', 'sm\\u0061ll.txt'),
  'a number as 1.0': GOOD_TEXT.replace('"format":1', '"format":1.0'),
  'an extra key in a file': GOOD_TEXT.replace('"mode":"0644"', '"mode":"0644","uid":0'),
  '__proto__ in a file': GOOD_TEXT.replace('"mode":"0644"', '"mode":"0644","__proto__":{"link":"/etc"}'),
  '__proto__ as a service': GOOD_TEXT.replace('"web":', `"__proto__":${JSON.stringify(SLEEPER)},"web":`),
  'no JSON': 'release',
  'nothing but null': 'null',
  'a list': '[]',
  'a hundred thousand brackets': '['.repeat(100_000),
}

test('refused: paths, modes, links and spellings that no release may have', { timeout: 120_000 }, async (t) => {
  const { world, eve, refused } = await stageOf(t)
  for (const [what, [files, code, over]] of Object.entries(MANIFESTS)) {
    await t.test(what, () => refused(releaseOf(eve, manifestOf(files, over), [SMALL]), code, 422))
  }
  const spelled = (text: string) => bundleOf(text, [signedBy(eve, text)], [SMALL, BIG])
  for (const [what, text] of Object.entries(SPELLINGS)) {
    await t.test(`spelled with ${what}`, () => refused(spelled(text), 'manifest_invalid', 422))
  }
  await t.test('the real client exits 3 with them, and the agent hears nothing of it', async () => {
    for (const what of ['out and up', 'setuid as text', 'an absolute link', 'links in a circle']) {
      const [files, code, over] = MANIFESTS[what] ?? assert.fail()
      const before = groundOf(world.root)
      const bundle = releaseOf(eve, manifestOf(files, over), [SMALL])
      assert.deepEqual(await pushedByClient(world, bundle), { exit: 3, code }, what)
      assert.deepEqual(groundOf(world.root), before)
    }
    const spaced = spelled(SPELLINGS['a space'] ?? '')
    assert.deepEqual(await pushedByClient(world, spaced), { exit: 3, code: 'manifest_invalid' })
    const other = releaseOf(eve, manifestOf([fileEntry('a', SMALL)], { app: 'other' }), [SMALL])
    writeFileSync(join(world.dir, 'other.tarmac'), other)
    assert.equal((await world.tarmac('push', join(world.dir, 'other.tarmac'), '--app', 'shop')).exit, 2)
  })
  assert.equal(existsSync(join(world.root, 'apps/shop')), false)
})

/** That two files say this of one content is seen when it is to be stored. */
const LATE = 'one digest with two sizes'

test('refused in the same way: beside what runs, with which a release is compared that was asked about', {
  timeout: 120_000,
}, async (t) => {
  const { world, eve, refused } = await stageOf(t)
  const running = bundleOf(GOOD_TEXT, [signedBy(eve, GOOD_TEXT)], [SMALL, BIG])
  const answer = await rawRequest(world, eve, { method: 'POST', target: RELEASES, body: running })
  assert.equal(answer.lines.at(-1)?.step, 'done', answer.body)
  const asked = async () => {
    const { status, body } = await rawRequest(world, eve, { method: 'POST', target: KNOWN, body: Buffer.from('{}') })
    assert.equal(status, 200, body)
  }
  const beside: typeof MANIFESTS = {
    ...MANIFESTS,
    'another size of what is here': [
      [fileEntry('big.bin', BIG), fileEntry('small.txt', SMALL, { size: 12 })],
      'manifest_invalid',
    ],
    'one digest with two sizes, of what is here': [
      [fileEntry('big.bin', SMALL, { size: 99 }), fileEntry('small.txt', SMALL)],
      'manifest_invalid',
    ],
    'a mode': [[fileEntry('big.bin', BIG), fileEntry('small.txt', SMALL, { mode: '4755' })], 'mode_refused'],
    'a link in the place of a file': [
      [fileEntry('big.bin', BIG), { path: 'small.txt', link: '/etc/passwd' }],
      'link_refused',
    ],
    'nothing of what it says': [[fileEntry('big.bin', BIG), fileEntry('small.txt', 'other text\n')], 'object_missing'],
  }
  for (const [what, [files, code, over]] of Object.entries(beside)) {
    await t.test(what, async () => {
      await asked()
      const later = { created: '2026-11-23T00:00:00Z', ...over }
      const body = releaseOf(eve, manifestOf(files, later))
      if (code !== 'object_missing' && what !== LATE) {
        const answer = await rawRequest(world, eve, { method: 'POST', target: MISSING, body })
        assert.deepEqual([answer.code, answer.status], [code, 422], answer.body)
        await asked()
      }
      await refused(body, code, 422)
    })
  }
  for (const [what, text] of Object.entries(SPELLINGS)) {
    await t.test(`spelled with ${what}`, async () => {
      await asked()
      await refused(bundleOf(text, [signedBy(eve, text)], []), 'manifest_invalid', 422)
    })
  }
  await t.test('nothing of it is called damaged, and what is signed for this is taken', async () => {
    await asked()
    const files = [fileEntry('big.bin', BIG), fileEntry('small.txt', 'other text\n')]
    const body = releaseOf(eve, manifestOf(files, { created: '2026-11-23T00:00:00Z' }), ['other text\n'])
    const answer = await rawRequest(world, eve, { method: 'POST', target: RELEASES, body })
    assert.equal(answer.lines.at(-1)?.step, 'done', answer.body)
    assert.deepEqual(await statesOf(world), ['healthy', 'healthy'])
  })
})

test('what is lacking is told by what is there when all of the question has come', { timeout: 60_000 }, async (t) => {
  const { world, eve } = await stageOf(t)
  const running = bundleOf(GOOD_TEXT, [signedBy(eve, GOOD_TEXT)], [SMALL, BIG])
  await rawRequest(world, eve, { method: 'POST', target: RELEASES, body: running })
  const known = () => rawRequest(world, eve, { method: 'POST', target: KNOWN, body: Buffer.from('{}') })
  await known()
  const text = JSON.stringify({ ...GOOD, created: '2026-11-23T00:00:00Z' })
  const body = bundleOf(text, [signedBy(eve, text)])
  let begun = () => {}
  const hasBegun = new Promise<void>((resolve) => {
    begun = resolve
  })
  let end = () => {}
  const mayEnd = new Promise<void>((resolve) => {
    end = resolve
  })
  async function* slowly() {
    yield body.subarray(0, 20)
    begun()
    await mayEnd
    yield body.subarray(20)
  }
  const asking = rawRequest(world, eve, { method: 'POST', target: MISSING, body: slowly() })
  await hasBegun
  damageObject(world, SMALL)
  // This one sees it, and sets it aside.
  assert.equal(JSON.parse((await known()).body).running, null)
  end()
  const { missing, damaged, alreadyRunning } = JSON.parse((await asking).body)
  assert.deepEqual([missing, damaged, alreadyRunning], [[sha256(SMALL)], 1, null])
})

test('damage is told too of a release that is refused for a size', { timeout: 60_000 }, async (t) => {
  const { world, eve } = await stageOf(t)
  const running = bundleOf(GOOD_TEXT, [signedBy(eve, GOOD_TEXT)], [SMALL, BIG])
  await rawRequest(world, eve, { method: 'POST', target: RELEASES, body: running })
  damageObject(world, BIG)
  const files = [fileEntry('big.bin', BIG), fileEntry('small.txt', SMALL, { size: 12 })]
  const body = releaseOf(eve, manifestOf(files, { created: '2026-11-23T00:00:00Z' }))
  for (const target of [MISSING, RELEASES]) {
    const { code } = await rawRequest(world, eve, { method: 'POST', target, body })
    assert.equal(code, 'manifest_invalid')
  }
  assert.deepEqual(await statesOf(world), ['damaged'])
})

/** Other bytes of the same length, in its place. */
function damageObject(world: World, content: string | Buffer): void {
  const digest = sha256(content)
  const path = join(world.root, 'apps/shop/objects', digest.slice(0, 2), digest.slice(2))
  chmodSync(path, 0o644)
  writeFileSync(path, Buffer.alloc(Buffer.byteLength(content), 'x'))
}

async function statesOf(world: World): Promise<string[]> {
  const { stdout } = await world.tarmac('releases', '--app', 'shop', '--json')
  return JSON.parse(stdout).hosts[0].releases.map(({ state }: { state: string }) => state)
}

test('refused: objects that do not belong, and bundles out of order', { timeout: 120_000 }, async (t) => {
  const { world, eve, refused } = await stageOf(t)
  const signature = signedBy(eve, GOOD_TEXT)
  const head = headEntries(GOOD_TEXT, [signature])
  const [manifest, signed] = head
  assert.ok(manifest && signed)
  const small = objectEntry(SMALL)
  const big = objectEntry(BIG)
  const stranger = objectEntry('not in the manifest')
  const tars: Record<string, [TarEntry[], string, number]> = {
    'an object that is not in the manifest': [[...head, small, big, stranger], 'object_unexpected', 422],
    'such an object first': [[...head, stranger, small, big], 'object_unexpected', 422],
    'an object twice': [[...head, small, small, big], 'bundle_malformed', 400],
    'an object too short': [[...head, big, [small[0], SMALL.slice(1)]], 'object_mismatch', 422],
    'an object too long': [[...head, big, [small[0], `${SMALL}x`]], 'object_mismatch', 422],
    'an object with the content of another': [[...head, [small[0], SMALL.toUpperCase()], big], 'object_mismatch', 422],
    'a big object with other content': [[...head, small, [big[0], Buffer.alloc(BIG.length)]], 'object_mismatch', 422],
    'an object missing': [[...head, big], 'object_missing', 422],
    'all objects missing': [head, 'object_missing', 422],
    'no manifest': [[small, big], 'bundle_malformed', 400],
    'no manifest but a signature': [[signed, small, big], 'bundle_malformed', 400],
    'the manifest last': [[small, big, manifest, signed], 'bundle_malformed', 400],
    'the signature before the manifest': [[signed, manifest, small, big], 'bundle_malformed', 400],
    'the signature after the objects': [[manifest, small, big, signed], 'signature_missing', 403],
    'two manifests': [[manifest, signed, manifest, small, big], 'bundle_malformed', 400],
    'another manifest after the objects': [[...head, small, big, manifest], 'bundle_malformed', 400],
    'a name out of the store': [[...head, ['objects/../../../evil', 'x']], 'bundle_malformed', 400],
    nothing: [[], 'bundle_malformed', 400],
  }
  for (const [what, [entries, code, status]] of Object.entries(tars)) {
    await t.test(what, () => refused(zstdCompressSync(tarOf(entries)), code, status))
  }
  const whole = bundleOf(GOOD_TEXT, [signature], [SMALL, BIG])
  const raws: Record<string, Buffer> = {
    'not compressed at all': tarOf([...head, small, big]),
    'no bytes': Buffer.alloc(0),
    'cut short': whole.subarray(0, whole.length - 1),
    'a byte more': Buffer.concat([whole, Buffer.from('x')]),
    'twice in a row': Buffer.concat([whole, whole]),
    'an HTTP request inside': Buffer.from('GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n'),
  }
  for (const [what, body] of Object.entries(raws)) {
    await t.test(what, () => refused(body, 'bundle_malformed', 400))
  }
  await t.test('the real client exits 3 with them', async () => {
    for (const what of [
      'an object that is not in the manifest',
      'an object twice',
      'an object too long',
      'no manifest',
    ]) {
      const [entries, code] = tars[what] ?? assert.fail()
      const before = groundOf(world.root)
      assert.deepEqual(await pushedByClient(world, zstdCompressSync(tarOf(entries))), { exit: 3, code }, what)
      assert.deepEqual(groundOf(world.root), before)
    }
  })
  await t.test('none of them was let further by asking what is missing', async () => {
    const before = groundOf(world.root)
    for (const what of ['no manifest', 'the signature before the manifest', 'the signature after the objects']) {
      const [entries, code, status] = tars[what] ?? assert.fail()
      const body = zstdCompressSync(tarOf(entries))
      const answer = await rawRequest(world, eve, { method: 'POST', target: MISSING, body })
      assert.deepEqual([answer.code, answer.status], [code, status], what)
    }
    assert.deepEqual(groundOf(world.root), before)
  })
  assert.equal(existsSync(join(world.root, 'apps/shop')), false)
})

test('a refused push beside a release that serves takes nothing from it', { timeout: 60_000 }, async (t) => {
  const { world, eve, refused } = await stageOf(t)
  const first = bundleOf(GOOD_TEXT, [signedBy(eve, GOOD_TEXT)], [SMALL, BIG])
  const pushed = await rawRequest(world, eve, { method: 'POST', target: RELEASES, body: first })
  assert.equal(pushed.lines.at(-1)?.step, 'done', pushed.body)
  const next = JSON.stringify({ ...GOOD, created: '2026-11-23T00:00:00Z' })
  const evil = [...headEntries(next, [signedBy(eve, next)]), ...[SMALL, BIG, 'not in the manifest'].map(objectEntry)]
  await refused(zstdCompressSync(tarOf(evil)), 'object_unexpected', 422)
})

test('two releases that share a second and eight digits are not taken for each other', {
  timeout: 60_000,
}, async (t) => {
  const { world, eve } = await stageOf(t)
  const seen = new Map<string, string>()
  let pair: [string, string] | undefined
  // 32 bits: the birthday paradox gives two of one name among some 80,000.
  for (let round = 0; pair === undefined; round++) {
    const text = JSON.stringify({
      ...manifestOf([fileEntry(`file-${round % 2}`, SMALL)]),
      keep: { releases: 10, failed: 2 },
      services: { web: { ...SLEEPER, command: { exec: ['/bin/sleep', String(1000 + round)] } } },
    })
    const name = sha256(text).slice(0, 8)
    const other = seen.get(name)
    if (other !== undefined && other.includes('file-0') !== text.includes('file-0')) pair = [other, text]
    seen.set(name, text)
  }
  const [one, two] = pair
  const push = (text: string) =>
    rawRequest(world, eve, { method: 'POST', target: RELEASES, body: bundleOf(text, [signedBy(eve, text)], [SMALL]) })
  assert.equal((await push(one)).lines.at(-1)?.step, 'done')
  const before = groundOf(world.root)
  const answer = await push(two)
  assert.deepEqual([answer.code, answer.status], ['manifest_invalid', 422], answer.body)
  assert.deepEqual(groundOf(world.root), before)
  assert.equal(readFileSync(join(world.root, 'apps/shop/current/release.json'), 'utf8'), one)
})

test('names that differ in case only are two files, as on any Linux', async (t) => {
  const { world, eve } = await stageOf(t)
  const body = releaseOf(eve, manifestOf([fileEntry('README', 'one'), fileEntry('readme', 'two')]), ['one', 'two'])
  const answer = await rawRequest(world, eve, { method: 'POST', target: RELEASES, body })
  assert.equal(answer.lines.at(-1)?.step, 'done', answer.body)
  const read = (name: string) => readFileSync(join(world.root, 'apps/shop/current/tree', name), 'utf8')
  assert.deepEqual([read('README'), read('readme')], ['one', 'two'])
})

test('what a command holds reaches its program as it is, and no shell', async (t) => {
  const { world, eve } = await stageOf(t)
  const words = [
    '"',
    "'",
    '$HOME',
    '`id`',
    '$(touch /tmp/evil)',
    '; id',
    '%n',
    '%%',
    '\\',
    '\\n',
    '{a,b}',
    '*',
    '',
    ' ',
  ]
  const script =
    'for (const word of process.argv.slice(1)) console.log(JSON.stringify(word)); setInterval(() => {}, 1e6)'
  const exec = [process.execPath, '-e', script, '--', ...words]
  const manifest = manifestOf([], { services: { web: { ...SLEEPER, command: { exec } } } })
  const answer = await rawRequest(world, eve, { method: 'POST', target: RELEASES, body: releaseOf(eve, manifest) })
  assert.equal(answer.lines.at(-1)?.step, 'done', answer.body)
  const said = async () => {
    const { body } = await rawRequest(world, eve, { target: '/v1/apps/shop/logs' })
    const lines = body.split('\n').filter((line) => line !== '')
    return lines.map((line) => JSON.parse((JSON.parse(line) as { message: string }).message) as string)
  }
  for (let tries = 0; tries < 100 && (await said()).length < words.length; tries++)
    await new Promise((resolve) => setTimeout(resolve, 50))
  assert.deepEqual(await said(), words)
})

test('a shared directory that is a link to elsewhere is not followed, made or given away', async (t) => {
  const { world, eve } = await stageOf(t)
  let second = 0
  const push = (shared: string[]) => {
    const created = `2026-11-22T23:38:${String(10 + second++)}Z`
    const body = releaseOf(eve, manifestOf([], { shared, created }))
    return rawRequest(world, eve, { method: 'POST', target: RELEASES, body })
  }
  const victim = join(world.dir, 'victim')
  mkdirSync(join(victim, 'inside'), { recursive: true, mode: 0o700 })
  const untouched = () =>
    [victim, join(victim, 'inside')].map((path) => {
      const { uid, gid, mode, ctimeMs } = lstatSync(path)
      return { uid, gid, mode, ctimeMs }
    })
  const before = untouched()
  const shared = (path: string) => join(world.root, 'apps/shop/shared', path)
  assert.equal((await push(['data', 'more'])).lines.at(-1)?.step, 'done')
  await t.test('a link in its place', async () => {
    rmSync(shared('data'), { recursive: true })
    symlinkSync(victim, shared('data'))
    await push(['data', 'more'])
    assert.deepEqual(untouched(), before)
    assert.equal(readlinkSync(shared('data')), victim)
  })
  await t.test('a link to nothing in its place', async () => {
    rmSync(shared('data'))
    symlinkSync(join(world.dir, 'nothing'), shared('data'))
    assert.equal((await push(['data', 'more'])).lines.at(-1)?.step, 'done')
    assert.equal(existsSync(join(world.dir, 'nothing')), false)
    rmSync(shared('data'))
  })
  await t.test('a link in a directory that the app was given before', async () => {
    symlinkSync(victim, shared('more/x'))
    const current = readlinkSync(join(world.root, 'apps/shop/current'))
    for (const path of ['more/x/inside', 'more/x/new', 'more/x/new/er', 'more/y']) {
      const answer = await push([path])
      const last = answer.lines.at(-1) ?? {}
      // Without root the app is the agent's own user, and what is the app's is the agent's.
      if (path === 'more/y' && process.getuid?.() !== 0) continue
      assert.deepEqual([last.step, last.code], ['failed', 'deploy_failed'], `${path}: ${answer.body}`)
      assert.equal(existsSync(join(victim, 'new')), false)
      assert.equal(readlinkSync(join(world.root, 'apps/shop/current')), current)
    }
    assert.deepEqual(untouched(), before)
  })
})

test('a refused push leaves no directory, and takes none that an app made in what it shares', async (t) => {
  const { world, eve, refused } = await stageOf(t)
  const services = { web: { ...SLEEPER, command: { exec: ['/bin/false'] } } }
  const broken = manifestOf([fileEntry('small.txt', 'another')], { services, shared: ['data'] })
  const pushed = await rawRequest(world, eve, {
    method: 'POST',
    target: RELEASES,
    body: releaseOf(eve, broken, ['another']),
  })
  assert.equal(pushed.lines.at(-1)?.code, 'deploy_down', pushed.body)
  const empty = join(world.root, 'apps/shop/shared/data/empty')
  mkdirSync(empty)
  const answer = await rawRequest(world, eve, { method: 'POST', target: RELEASES, body: bundleOf(GOOD_TEXT, []) })
  assert.equal(answer.code, 'signature_missing')
  assert.ok(existsSync(empty))
  await refused(bundleOf(GOOD_TEXT, [signedBy(eve, GOOD_TEXT)], [SMALL, 'x']), 'object_unexpected', 422)
})
