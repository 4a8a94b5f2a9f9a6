import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import { test } from 'node:test'
import fc from 'fast-check'
import { type Code, Failure } from '../../shared/failure.ts'
import { type KeyType, parsePublicKey } from '../../shared/ssh-key.ts'
import { sshString } from '../../shared/ssh-wire.ts'
import { armorOf, parseSignature, rawOf, verifySignature } from '../../shared/sshsig.ts'
import {
  agentSign,
  makeHandKey,
  makeKey,
  rawSignature,
  sshSign,
  sshVerifies,
  startAgent,
  tempDir,
} from '../helpers/ssh.ts'

const PLAIN: KeyType[] = ['ssh-ed25519', 'ecdsa-sha2-nistp256']
const FIDO: KeyType[] = ['sk-ssh-ed25519@openssh.com', 'sk-ecdsa-sha2-nistp256@openssh.com']
const NAMESPACE = 'tarmac-release'
const MESSAGE = Buffer.from('{"app":"shop"}')

test('what ssh-keygen signs verifies here, by key file and by ssh-agent', async (t) => {
  const dir = tempDir(t)
  const agent = await startAgent(t)
  for (const type of ['ed25519', 'ecdsa'] as const) {
    const key = makeKey(t, dir, { type })
    agent.add(key)
    const byFile = sshSign(key.file, NAMESPACE, MESSAGE)
    rmSync(key.file)
    const byAgent = agentSign(agent, key, { namespace: NAMESPACE, data: MESSAGE })
    for (const armored of [byFile, byAgent]) {
      const signature = parseSignature(armored)
      assert.deepEqual(signature.publicKey, parsePublicKey(key.publicLine).blob)
      verifySignature(signature, NAMESPACE, MESSAGE)
      assert.equal(armorOf(rawOf(armored)), armored)
      check(rawOf(armored))
    }
  }
})

test('P-256 signatures verify whatever the length of their r and s', (t) => {
  const { file } = makeKey(t, tempDir(t), { type: 'ecdsa' })
  for (let round = 0; round < 40; round++) check(sshSign(file, NAMESPACE, MESSAGE))
  const key = makeHandKey('ecdsa-sha2-nistp256')
  for (let round = 0; round < 1000; round++) check(key.sign({ namespace: NAMESPACE, message: MESSAGE }))
})

test('ssh-keygen and we agree on signatures of every type and hash, and on wrong namespaces and messages', () => {
  for (const type of [...PLAIN, ...FIDO]) {
    const key = makeHandKey(type)
    for (const hash of ['sha256', 'sha512'] as const) {
      const armored = armorOf(key.sign({ namespace: NAMESPACE, message: MESSAGE, hash }))
      const says = (namespace: string, message: Buffer) => {
        const theirs = sshVerifies(`ada ${key.publicLine}`, armored, { principal: 'ada', namespace, message })
        assert.equal(verifies(armored, namespace, message), theirs, `${type} ${hash} ${namespace}`)
        return theirs
      }
      assert.equal(says(NAMESPACE, MESSAGE), true)
      assert.equal(says('tarmac-session', MESSAGE), false)
      assert.equal(says(NAMESPACE, Buffer.from('{"app":"shup"}')), false)
    }
  }
})

test('a FIDO signature without a touch is refused, though ssh-keygen lets it pass', () => {
  for (const type of FIDO) {
    const key = makeHandKey(type)
    for (const flags of [0x00, 0x04, 0xfe]) {
      const raw = key.sign({ namespace: NAMESPACE, message: MESSAGE, flags })
      const use = { principal: 'ada', namespace: NAMESPACE, message: MESSAGE }
      assert.equal(sshVerifies(`ada ${key.publicLine}`, armorOf(raw), use), true)
      assert.throws(() => check(raw), failure('signature_mismatch', /touched/))
    }
    check(key.sign({ namespace: NAMESPACE, message: MESSAGE, flags: 0x05 }))
  }
})

test('of all single bit flips in a signature or its message none is accepted, and each is a Failure', () => {
  for (const type of [...PLAIN, ...FIDO]) {
    const raw = makeHandKey(type).sign({ namespace: NAMESPACE, message: MESSAGE })
    check(raw)
    for (const flipped of bitFlips(raw)) assert.equal(verifies(flipped), false)
    for (const flipped of bitFlips(MESSAGE)) assert.equal(verifies(raw, NAMESPACE, flipped), false)
    for (let length = 0; length < raw.length; length++) {
      assert.equal(verifies(raw.subarray(0, length)), false)
    }
  }
})

test('any bytes in any field end in a Failure and nothing else', () => {
  const keys = [...PLAIN, ...FIDO].map((type) => ({ type, blob: makeHandKey(type).blob }))
  const any = fc.uint8Array({ maxLength: 120 })
  const values = fc.record({ key: fc.constantFrom(...keys), inside: any, value: any, blob: any, raw: any })
  const property = fc.property(values, ({ key, inside, value, blob, raw }) => {
    const { type } = key
    const frame = { namespace: NAMESPACE, hash: 'sha512' }
    const typed = Buffer.concat([sshString(type), sshString(value), inside])
    for (const bytes of [
      raw,
      rawSignature({ ...frame, blob, value }),
      rawSignature({ ...frame, blob: key.blob, value }),
      rawSignature({ ...frame, blob: key.blob, value: typed }),
      rawSignature({ ...frame, blob: Buffer.concat([sshString(type), sshString(inside)]), value: typed }),
    ]) {
      assert.equal(verifies(bytes), false)
      assert.equal(verifies(armorOf(bytes)), false)
      assert.equal(verifies(Buffer.from(bytes).toString('latin1')), false)
    }
  })
  fc.assert(property, { numRuns: 2000 })
})

test('an ed25519 key that is no point of the curve verifies nothing and breaks nothing', () => {
  for (const fill of [0x00, 0x02, 0x7f, 0xff]) {
    const blob = Buffer.concat([sshString('ssh-ed25519'), sshString(Buffer.alloc(32, fill))])
    const value = Buffer.concat([sshString('ssh-ed25519'), sshString(Buffer.alloc(64, 1))])
    const raw = rawSignature({ blob, namespace: NAMESPACE, hash: 'sha512', value })
    assert.throws(() => check(raw), failure('signature_mismatch'))
  }
})

test('P-256 values that are zero, the order, negative or padded never pass', () => {
  const { blob } = makeHandKey('ecdsa-sha2-nistp256')
  const order = Buffer.from('00ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551', 'hex')
  const odd = [[], [0], [1], [0x80], [0, 1], Array(40).fill(1)].map((bytes) => Buffer.from(bytes))
  const numbers = [...odd, order]
  for (const r of numbers) {
    for (const s of numbers) {
      const value = Buffer.concat([
        sshString('ecdsa-sha2-nistp256'),
        sshString(Buffer.concat([sshString(r), sshString(s)])),
      ])
      assert.equal(verifies(rawSignature({ blob, namespace: NAMESPACE, hash: 'sha512', value })), false)
    }
  }
})

test('a signature by an RSA key is refused by its type', (t) => {
  const { file } = makeKey(t, tempDir(t), { type: 'rsa' })
  const armored = sshSign(file, NAMESPACE, MESSAGE)
  assert.throws(() => parseSignature(armored), failure('key_unsupported', /ssh-rsa/))
})

test('a signature of one type by a key of another is refused', () => {
  const key = makeHandKey('ssh-ed25519')
  for (const type of ['sk-ssh-ed25519@openssh.com', 'rsa-sha2-512', 'webauthn-sk-ecdsa-sha2-nistp256@openssh.com']) {
    const value = Buffer.concat([sshString(type), sshString(Buffer.alloc(64))])
    const raw = rawSignature({ blob: key.blob, namespace: NAMESPACE, hash: 'sha512', value })
    assert.throws(() => parseSignature(raw), failure('signature_mismatch', new RegExp(type)))
  }
})

test('every deviation from the frame is refused', () => {
  const key = makeHandKey('ssh-ed25519')
  const raw = key.sign({ namespace: NAMESPACE, message: MESSAGE })
  const value = raw.subarray(raw.length - 83)
  const good = { blob: key.blob, namespace: NAMESPACE, hash: 'sha512', value }
  assert.deepEqual(rawSignature(good), raw)
  const frames = {
    'version 0': rawSignature({ ...good, version: 0 }),
    'version 2': rawSignature({ ...good, version: 2 }),
    'no namespace': rawSignature({ ...good, namespace: '' }),
    'a namespace with an escape': rawSignature({ ...good, namespace: 'tarmac\u001b[2J' }),
    'something reserved': rawSignature({ ...good, reserved: 'x' }),
    sha1: rawSignature({ ...good, hash: 'sha1' }),
    'no hash': rawSignature({ ...good, hash: '' }),
    'upper case hash': rawSignature({ ...good, hash: 'SHA512' }),
    'a byte after the end': Buffer.concat([raw, Buffer.alloc(1)]),
    'a byte after the value': rawSignature({ ...good, value: Buffer.concat([value, Buffer.alloc(1)]) }),
    'a byte after the key': rawSignature({ ...good, blob: Buffer.concat([key.blob, Buffer.alloc(1)]) }),
    'too long': rawSignature({ ...good, value: Buffer.alloc(5000) }),
    nothing: Buffer.alloc(0),
  }
  for (const [what, bytes] of Object.entries(frames)) {
    assert.throws(() => parseSignature(bytes), failure('signature_malformed'), what)
  }
})

test('armor is one block of canonical base64; line ends and widths are free', () => {
  const raw = makeHandKey('ssh-ed25519').sign({ namespace: NAMESPACE, message: MESSAGE })
  const armored = armorOf(raw)
  const base64 = raw.toString('base64')
  const around = (body: string) => `-----BEGIN SSH SIGNATURE-----\n${body}\n-----END SSH SIGNATURE-----\n`
  for (const text of [armored, armored.trimEnd(), armored.replaceAll('\n', '\r\n'), around(base64)]) {
    assert.deepEqual(rawOf(text), raw)
  }
  const refused = {
    'bare base64': base64,
    'text before': `x\n${armored}`,
    'text after': `${armored}x`,
    'two blocks': armored + armored,
    'a blank in it': around(base64.replace('A', 'A ')),
    'an empty line in it': around(`${base64}\n`),
    'no base64': around(''),
    'a URL alphabet': around(base64.replaceAll('A', '-')),
    'padding in the middle': around(`${base64.slice(0, 4)}====${base64.slice(4)}`),
    'padding missing': around(raw.subarray(0, 100).toString('base64').replace(/=+$/, '')),
    'bits after the end': around(raw.subarray(0, 100).toString('base64').replace(/.==$/, 'h==')),
    'another label': armored.replaceAll('SSH SIGNATURE', 'PGP SIGNATURE'),
    'too long': around('A'.repeat(1_000_000)),
    'without an end': `-----BEGIN SSH SIGNATURE-----\n${'A\n'.repeat(4000)}`,
  }
  for (const [what, text] of Object.entries(refused)) {
    assert.throws(() => rawOf(text), failure('signature_malformed'), what)
  }
})

function check(signature: string | Uint8Array): void {
  verifySignature(parseSignature(signature), NAMESPACE, MESSAGE)
}

/** Whether it is accepted; fails the test when it is refused by anything but a Failure. */
function verifies(signature: string | Uint8Array, namespace = NAMESPACE, message: Uint8Array = MESSAGE): boolean {
  try {
    verifySignature(parseSignature(signature), namespace, message)
    return true
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    assert.match(error.code, /^(signature_malformed|signature_mismatch|key_unsupported)$/)
    return false
  }
}

function* bitFlips(bytes: Uint8Array): Iterable<Buffer> {
  for (let bit = 0; bit < bytes.length * 8; bit++) {
    const copy = Buffer.from(bytes)
    copy[bit >> 3] = (copy[bit >> 3] ?? 0) ^ (1 << (bit & 7))
    yield copy
  }
}

function failure(code: Code, message = /./) {
  return (error: unknown) => {
    assert.ok(error instanceof Failure, String(error))
    assert.equal(error.code, code, error.message)
    assert.match(error.message, message)
    return true
  }
}
