import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import fc from 'fast-check'
import { parseAllowedSigners, signerLine, signerOf } from '../../shared/allowed-signers.ts'
import { type Code, Failure } from '../../shared/failure.ts'
import { fingerprintOf, parsePublicKey } from '../../shared/ssh-key.ts'
import { armorOf } from '../../shared/sshsig.ts'
import { makeHandKey, makeKey, sshVerifies, tempDir } from '../helpers/ssh.ts'

const NAMESPACE = 'tarmac-release'
const MESSAGE = 'message'
const ada = makeHandKey('ssh-ed25519')
const bob = makeHandKey('sk-ecdsa-sha2-nistp256@openssh.com')
const adaSignature = armorOf(ada.sign({ namespace: NAMESPACE, message: MESSAGE }))
const noon = new Date('2026-11-22T12:00:00Z')

test('a file of comments, blank lines, options and keys is read line by line', () => {
  const text = `
# people
ada@example.com namespaces="tarmac-session,git",valid-after="20260101Z",valid-before="202612312359Z" ${ada.publicLine} at work
 \tbob\tVALID-BEFORE="20270101000001Z"\t${bob.publicLine}
   # nobody else`
  const [first, second, ...none] = parseAllowedSigners(text)
  assert.deepEqual(none, [])
  assert.deepEqual(first, {
    principal: 'ada@example.com',
    namespaces: ['tarmac-session', 'git'],
    validAfter: new Date('2026-01-01T00:00:00Z'),
    validBefore: new Date('2026-12-31T23:59:00Z'),
    key: { type: 'ssh-ed25519', blob: ada.blob, comment: 'at work' },
    line: 3,
  })
  assert.deepEqual(second, {
    principal: 'bob',
    validBefore: new Date('2027-01-01T00:00:01Z'),
    key: parsePublicKey(bob.publicLine),
    line: 4,
  })
  assert.deepEqual(parseAllowedSigners(''), [])
})

test('one line that is not understood refuses the whole file and is named', (t) => {
  const rsa = makeKey(t, tempDir(t), { type: 'rsa' }).publicLine
  const lines = {
    'no principal': ada.publicLine,
    'no key': 'ada',
    'no key after options': 'ada namespaces="git"',
    'two principals': `ada,bob ${ada.publicLine}`,
    'a pattern': `*@example.com ${ada.publicLine}`,
    'a pattern of one': `ad? ${ada.publicLine}`,
    'a negation': `!ada ${ada.publicLine}`,
    'a quoted principal': `"ada" ${ada.publicLine}`,
    'a long principal': `${'a'.repeat(65)} ${ada.publicLine}`,
    'a principal like a flag': `-ada ${ada.publicLine}`,
    'a principal beyond ASCII': `\u0430da ${ada.publicLine}`,
    'a certificate authority': `ada cert-authority ${ada.publicLine}`,
    'one among options': `ada namespaces="git",cert-authority ${ada.publicLine}`,
    'an unknown option': `ada touch-required="yes" ${ada.publicLine}`,
    'an unknown flag': `ada no-touch-required ${ada.publicLine}`,
    'an option without quotes': `ada valid-before=20270101 ${ada.publicLine}`,
    'an open quote': `ada namespaces="git ${ada.publicLine}`,
    'an escaped quote': `ada namespaces="gi\\"t" ${ada.publicLine}`,
    'a comma before the key': `ada namespaces="git",${ada.publicLine}`,
    'a comma and a blank': `ada namespaces="git", ${ada.publicLine}`,
    'an option twice': `ada namespaces="git",Namespaces="file" ${ada.publicLine}`,
    'a namespace pattern': `ada namespaces="tarmac-*" ${ada.publicLine}`,
    'no namespace': `ada namespaces="" ${ada.publicLine}`,
    'a blank among namespaces': `ada namespaces="git, file" ${ada.publicLine}`,
    'a time in words': `ada valid-before="tomorrow" ${ada.publicLine}`,
    'a time with dashes': `ada valid-before="2027-01-01" ${ada.publicLine}`,
    'the 31st of February': `ada valid-before="20270231Z" ${ada.publicLine}`,
    'hour 24': `ada valid-before="202701012400Z" ${ada.publicLine}`,
    'second 60': `ada valid-before="20270101000060Z" ${ada.publicLine}`,
    'a time before 1970': `ada valid-after="19690101Z" ${ada.publicLine}`,
    'an empty window': `ada valid-after="20270101Z",valid-before="20270101Z" ${ada.publicLine}`,
    'an RSA key': `ada ${rsa}`,
    'an RSA key after options': `ada namespaces="git" ${rsa}`,
    'a key cut short': `ada ${ada.publicLine.slice(0, -4)}`,
    'a Windows line end': `ada ${ada.publicLine}\r`,
    'a NUL': `ada ${ada.publicLine} \0`,
    'the key of another': `eve ${bob.publicLine}`,
    'the name of another in capitals': `BOB ${ada.publicLine}`,
  }
  for (const [what, line] of Object.entries(lines)) {
    const text = `# ours\nbob ${bob.publicLine}\n${line}\n`
    assert.throws(() => parseAllowedSigners(text), failure('policy_unreadable', /^allowed_signers line 3: /), what)
  }
})

test('what is read here means the same to ssh-keygen, at the first and the last second too', () => {
  const limits = [
    '',
    'namespaces="tarmac-session,tarmac-release"',
    'namespaces="tarmac-session"',
    'namespaces="Tarmac-Release"',
    'valid-after="20261122120000Z"',
    'valid-before="20261122120000Z"',
    'valid-after="20261122Z",valid-before="202611221200Z"',
    'valid-after="202611221200Z",namespaces="tarmac-release"',
    'valid-before="202611221200Z",namespaces="git"',
    'VALID-AFTER="20261123Z"',
  ]
  for (const limit of limits) {
    const text = `ada ${limit}${limit && ' '}${ada.publicLine} comment\n`
    for (const at of ['20261122115959', '20261122120000', '20261122120001']) {
      assert.equal(accepts(text, dateOf(at)), sshAccepts(text, `${at}Z`), `${limit} at ${at}`)
    }
  }
})

test('times without Z are local standard time, as ssh-keygen reads them', (t) => {
  for (const zone of ['UTC', 'Europe/Berlin', 'America/New_York', 'Australia/Sydney', 'Asia/Kolkata']) {
    setZone(t, zone)
    for (const time of ['20260115', '202607150830', '20260715083001', '20260329023000', '20261025023000']) {
      const text = `ada valid-before="${time}" ${ada.publicLine}\n`
      const [{ validBefore = assert.fail() } = assert.fail()] = parseAllowedSigners(text)
      for (const at of [validBefore, new Date(validBefore.getTime() + 1000)]) {
        const stamp = at.toISOString().replace(/\.000|[-:T]/g, '')
        assert.equal(accepts(text, at), sshAccepts(text, stamp, { TZ: zone }), `${zone} ${time} at ${stamp}`)
      }
    }
  }
})

test('whatever line is accepted here, ssh-keygen accepts for the same principal', () => {
  const words = 'ada|bob| |\t|,|"|=|#|*|!|\\|Z|ssh-ed25519|AAAA|namespaces="tarmac-release"|valid-before="20270101Z"'
  const piece = fc.constantFrom(...words.split('|'), 'valid-after="20260101"', 'cert-authority', ada.publicLine)
  let accepted = 0
  const check = fc.property(fc.array(piece, { maxLength: 6 }), fc.boolean(), (pieces, whole) => {
    const text = whole ? `ada ${pieces.join('')} ${ada.publicLine}` : pieces.join('')
    const principal = acceptedPrincipal(text)
    if (principal === undefined) return
    accepted++
    assert.ok(sshAccepts(text, '20261122120000Z', {}, principal), text)
  })
  fc.assert(check, { numRuns: 3000 })
  assert.ok(accepted > 20, `only ${accepted} lines were accepted`)
})

test('an unknown key is refused with its fingerprint and the command that would let it in', () => {
  const signers = parseAllowedSigners(`bob ${bob.publicLine}`)
  for (const known of [signers, []]) {
    assert.throws(
      () => signerOf(known, ada.blob, { namespace: NAMESPACE, now: noon }),
      (error) => {
        assert.ok(error instanceof Failure)
        assert.equal(error.code, 'signer_unknown')
        assert.ok(error.message.includes(fingerprintOf(ada.blob)))
        assert.ok(error.hint?.includes(`tarmac-agent signers add NAME '${ada.publicLine}'`))
        return true
      },
    )
  }
})

test('a known key outside its time or its namespaces is refused in words of its own', () => {
  const text = `ada namespaces="git" ${ada.publicLine}\nbob valid-after="20270101Z",valid-before="20280101Z" ${bob.publicLine}`
  const signers = parseAllowedSigners(text)
  const ask = (blob: Buffer, now: Date) => () => signerOf(signers, blob, { namespace: NAMESPACE, now })
  assert.throws(
    ask(ada.blob, noon),
    failure('signer_unknown', /ada's key SHA256:.* not allowed in namespace "tarmac-rel/),
  )
  assert.throws(ask(bob.blob, noon), failure('signer_expired', /bob's key .* is not valid before 2027-01-01T00:00:00/))
  assert.throws(ask(bob.blob, new Date('2029-01-01')), failure('signer_expired', /was valid until 2028-01-01T00:00:00/))
  assert.throws(ask(bob.blob, new Date(Number.NaN)), failure('signer_expired'))
  assert.equal(ask(bob.blob, new Date('2027-06-01'))().principal, 'bob')
})

test('one person may have several keys, and one key several lines, each with its own limits', () => {
  const second = makeHandKey('ssh-ed25519')
  const text = `ada namespaces="tarmac-session" ${ada.publicLine}
ada namespaces="tarmac-release",valid-before="20260101Z" ${ada.publicLine}
ada ${second.publicLine}`
  const signers = parseAllowedSigners(text)
  const lineOf = (blob: Buffer, namespace: string) => signerOf(signers, blob, { namespace, now: noon }).line
  assert.equal(lineOf(ada.blob, 'tarmac-session'), 1)
  assert.throws(() => lineOf(ada.blob, 'tarmac-release'), failure('signer_expired'))
  assert.equal(lineOf(second.blob, 'tarmac-release'), 3)
})

test('a line we write is read back by us and by ssh-keygen, for our two namespaces and no other', (t) => {
  const key = parsePublicKey(makeKey(t, tempDir(t), { name: 'ada’s laptop "x" #1' }).publicLine)
  const [signer] = parseAllowedSigners(signerLine('ada', key))
  assert.deepEqual(signer, { principal: 'ada', namespaces: ['tarmac-session', 'tarmac-release'], key, line: 1 })
  const text = signerLine('ada', parsePublicKey(ada.publicLine))
  assert.ok(sshAccepts(text, '20261122120000Z'))
  const git = armorOf(ada.sign({ namespace: 'git', message: MESSAGE }))
  assert.equal(sshVerifies(text, git, { principal: 'ada', namespace: 'git', message: MESSAGE }), false)
})

test('a signer is never written under a name that the file could misread', () => {
  const key = parsePublicKey(ada.publicLine)
  const names = ['', 'a b', 'a,b', 'a"b', '*', 'a?', '!a', '#a', '-a', 'a\nb', 'a'.repeat(65), 'ад', 'a\\b', 'a=b']
  for (const name of names) {
    assert.throws(() => signerLine(name, key), failure('usage'), name)
  }
  for (const name of ['a', 'ada@example.com', 'ci+shop', '7', 'a'.repeat(64)]) {
    assert.equal(parseAllowedSigners(signerLine(name, key))[0]?.principal, name)
  }
})

function acceptedPrincipal(text: string, now = noon): string | undefined {
  try {
    return signerOf(parseAllowedSigners(text), ada.blob, { namespace: NAMESPACE, now }).principal
  } catch (error) {
    if (error instanceof Failure) return undefined
    throw error
  }
}

function accepts(text: string, now: Date): boolean {
  assert.equal(parseAllowedSigners(text).length, 1)
  return acceptedPrincipal(text, now) === 'ada'
}

function sshAccepts(text: string, at: string, env: Record<string, string> = {}, principal = 'ada'): boolean {
  return sshVerifies(text, adaSignature, { principal, namespace: NAMESPACE, message: MESSAGE, at, env })
}

function dateOf(stamp: string): Date {
  return new Date(stamp.replace(/^(....)(..)(..)(..)(..)(..)$/, '$1-$2-$3T$4:$5:$6Z'))
}

function setZone(t: TestContext, zone: string): void {
  const before = process.env.TZ
  process.env.TZ = zone
  t.after(() => {
    if (before === undefined) delete process.env.TZ
    else process.env.TZ = before
  })
}

function failure(code: Code, message = /./) {
  return (error: unknown) => {
    assert.ok(error instanceof Failure, String(error))
    assert.equal(error.code, code, error.message)
    assert.match(error.message, message)
    return true
  }
}
