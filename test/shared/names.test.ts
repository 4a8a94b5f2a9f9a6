import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Failure } from '../../shared/failure.ts'
import {
  isAppName,
  isReleaseId,
  isSha256,
  parseAppName,
  parseReleaseId,
  parseServiceName,
  releaseIdOf,
  sha256,
} from '../../shared/names.ts'

const isFailure = (code: string) => (error: unknown) => error instanceof Failure && error.code === code

test('a name is lower-case letters, digits and dashes, a letter first, 31 characters at most', () => {
  for (const name of ['a', 'shop', 'shop-2', 'a'.repeat(31), 'a--', 'constructor']) {
    assert.equal(parseAppName(name), name)
    assert.equal(parseServiceName(name), name)
    assert.ok(isAppName(name))
  }
  const odd = ['', 'A', '1a', '-a', 'a_b', 'a.b', 'a/b', '..', 'a;reboot', 'a\n', 'a ', 'é', 'a'.repeat(32)]
  for (const name of [...odd, 1, null, undefined, ['a'], { toString: () => 'a' }]) {
    assert.throws(() => parseAppName(name), isFailure('manifest_invalid'), String(name))
    assert.throws(() => parseServiceName(name), isFailure('manifest_invalid'))
    assert.ok(!isAppName(name))
  }
})

test('whatever a name is made of, it fits a path, a unit name and a user name as it is', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 40 }), (text) => {
      assert.equal(isAppName(text), /^[a-z][a-z0-9-]{0,30}$/.test(text) && !text.includes('\n'))
    }),
  )
})

test('a release id holds its creation and the head of its digest, and nothing else passes for one', () => {
  const id = releaseIdOf('2026-11-22T23:38:51Z', 'text')
  assert.equal(id, `20261122T233851Z-${sha256('text').slice(0, 8)}`)
  assert.equal(parseReleaseId(id), id)
  const odd = [`${id}\n`, ` ${id}`, id.toUpperCase(), id.slice(0, -1), `${id}0`, `../${id}`, 'current', '', 7, null]
  for (const value of odd) {
    assert.ok(!isReleaseId(value), String(value))
    assert.throws(() => parseReleaseId(value), isFailure('release_unknown'))
  }
})

test('a digest is 64 characters of lower-case hex', () => {
  assert.ok(isSha256(sha256('')))
  assert.equal(sha256(''), 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855')
  for (const value of [sha256('').toUpperCase(), sha256('').slice(1), `${sha256('')}\n`, 1, undefined])
    assert.ok(!isSha256(value))
})
