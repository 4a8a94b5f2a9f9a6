import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { Failure } from '../../shared/failure.ts'
import { fingerprintOf, type KeyType, openPublicKey, parsePublicKey, publicLineOf } from '../../shared/ssh-key.ts'
import { MalformedError, sshString } from '../../shared/ssh-wire.ts'
import { makeHandKey, makeKey, tempDir } from '../helpers/ssh.ts'

const TYPES: KeyType[] = [
  'ssh-ed25519',
  'ecdsa-sha2-nistp256',
  'sk-ssh-ed25519@openssh.com',
  'sk-ecdsa-sha2-nistp256@openssh.com',
]

test("a key's fingerprint is the one ssh-keygen -l prints", (t) => {
  for (const type of ['ed25519', 'ecdsa'] as const) {
    const { file, publicLine } = makeKey(t, tempDir(t), { type, name: 'ada at work' })
    const printed = execFileSync('ssh-keygen', ['-l', '-f', `${file}.pub`], { encoding: 'utf8' })
    const key = parsePublicKey(publicLine)
    assert.equal(fingerprintOf(key.blob), printed.split(' ')[1])
    assert.equal(key.comment, 'ada at work')
    assert.equal(`${publicLineOf(key)} ada at work`, publicLine)
  }
})

test('each of the four types is read back as it was made, and ssh-keygen reads it too', (t) => {
  for (const type of TYPES) {
    const { publicLine, blob } = makeHandKey(type)
    const key = parsePublicKey(`${publicLine}\n`)
    assert.deepEqual(key, { type, blob, comment: '' })
    const file = join(tempDir(t), 'key.pub')
    execFileSync('tee', [file], { input: `${publicLine}\n` })
    const printed = execFileSync('ssh-keygen', ['-l', '-f', file], { encoding: 'utf8' })
    assert.equal(printed.split(' ')[1], fingerprintOf(blob))
  }
})

test('RSA keys, certificates and other curves are refused with the command that makes a good key', (t) => {
  const dir = tempDir(t)
  const rsa = makeKey(t, dir, { type: 'rsa' })
  const user = makeKey(t, dir)
  execFileSync('ssh-keygen', ['-q', '-s', rsa.file, '-I', 'id', '-n', 'ada', `${user.file}.pub`])
  const certificate = readFileSync(`${user.file}-cert.pub`, 'utf8')
  execFileSync('ssh-keygen', ['-q', '-t', 'ecdsa', '-b', '384', '-N', '', '-f', join(dir, 'p384')])
  for (const line of [rsa.publicLine, certificate, readFileSync(join(dir, 'p384.pub'), 'utf8')]) {
    assert.throws(() => parsePublicKey(line), refusal(/is not one of/))
  }
})

test('a line that is not exactly one key is refused, and never quoted', (t) => {
  const { file, publicLine } = makeKey(t, tempDir(t))
  const [type = '', base64 = ''] = publicLine.split(' ')
  const other = makeHandKey('ecdsa-sha2-nistp256')
  const privateText = readFileSync(file, 'utf8')
  const lines = {
    empty: '',
    'no key': type,
    'only base64': base64,
    'two lines': `${publicLine}\n${publicLine}`,
    'base64 without its end': `${type} ${base64.slice(0, -1)}`,
    'base64 of the URL kind': `${type} ${base64.replaceAll('A', '-')}`,
    'bits after the end': other.publicLine.replace(/.=$/, 'B='),
    'another type inside': `${type} ${other.publicLine.split(' ')[1]}`,
    'control characters': `${publicLine}\u001b[2J`,
    'a private key': privateText,
    'a private key on one line': privateText.split('\n').slice(1).join(' '),
    'too long': `${publicLine} ${'x'.repeat(5000)}`,
  }
  const secret = privateText.split('\n')[3] ?? assert.fail()
  for (const [what, line] of Object.entries(lines)) {
    assert.throws(() => parsePublicKey(line), refusal(/^public key: /), what)
    assert.throws(
      () => parsePublicKey(line),
      (error: Error) => !error.message.includes(secret) && !error.message.includes('b3BlbnNza'),
      what,
    )
  }
})

test('every byte of a key cut off, and every one too many, is refused', () => {
  for (const type of TYPES) {
    const { blob } = makeHandKey(type)
    for (let length = 0; length < blob.length; length++) {
      assert.throws(() => openPublicKey(blob.subarray(0, length)), isExpected, `${type} cut at ${length}`)
    }
    assert.throws(() => openPublicKey(Buffer.concat([blob, Buffer.alloc(1)])), MalformedError)
  }
})

test('a point off the curve, compressed, or of another curve is refused', () => {
  const curve = sshString('nistp256')
  const onCurve = makeHandKey('ecdsa-sha2-nistp256').blob.subarray(-65)
  const points = {
    'off the curve': [
      curve,
      sshString(Buffer.concat([onCurve.subarray(0, 64), Buffer.from([(onCurve[64] ?? 0) ^ 1])])),
    ],
    compressed: [curve, sshString(Buffer.concat([Buffer.from([2]), onCurve.subarray(1, 33)]))],
    'at infinity': [curve, sshString(Buffer.alloc(1))],
    'of zeros': [curve, sshString(Buffer.concat([Buffer.from([4]), Buffer.alloc(64)]))],
    'beyond the field': [curve, sshString(Buffer.concat([Buffer.from([4]), Buffer.alloc(64, 0xff)]))],
    'of another curve': [sshString('nistp384'), sshString(onCurve)],
  }
  for (const [what, fields] of Object.entries(points)) {
    const blob = Buffer.concat([sshString('ecdsa-sha2-nistp256'), ...fields])
    assert.throws(() => openPublicKey(blob), MalformedError, what)
    assert.throws(() => parsePublicKey(`ecdsa-sha2-nistp256 ${blob.toString('base64')}`), refusal(/public key/), what)
  }
})

function refusal(message: RegExp) {
  return (error: unknown) => {
    assert.ok(error instanceof Failure, String(error))
    assert.equal(error.code, 'key_unsupported')
    assert.match(error.message, message)
    assert.match(error.hint ?? '', /ssh-keygen -t ed25519/)
    return true
  }
}

function isExpected(error: unknown): boolean {
  return error instanceof MalformedError || error instanceof Failure
}
