import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Failure } from '../../shared/failure.ts'
import {
  changedVariables,
  isSameVariables,
  MAX_STRING_BYTES,
  parseVariableChange,
  VARIABLE_NAME,
} from '../../shared/variables.ts'

const SECRET = 'hunter2'

function refusal(value: unknown): Failure {
  try {
    parseVariableChange(value)
  } catch (error) {
    assert.ok(error instanceof Failure)
    assert.equal(`${error.message}${error.hint ?? ''}`.includes(SECRET), false, 'a value is in no message')
    return error
  }
  assert.fail(`${JSON.stringify(value)} was taken`)
}

const set = (name: string, value: string = SECRET) => ({ set: [{ name, value }], unset: [] })

test('names that no process can have, or that are given by tarmac or init, are refused', () => {
  for (const name of ['', '1A', 'A-B', 'A B', 'A=B', 'É', 'A\n', 'A\0', 'x'.repeat(201)]) {
    assert.equal(refusal(set(name)).code, 'env_invalid', name)
    assert.equal(refusal({ set: [], unset: [name] }).code, 'env_invalid', name)
  }
  for (const name of ['TARMAC_RELEASE', 'TARMAC_', 'LISTEN_FDS', 'LISTEN_PID', 'LISTEN_FDNAMES', 'LISTEN_PIDFDID']) {
    assert.match(refusal(set(name)).message, /is given to every service/, name)
  }
  for (const name of ['_', 'a', 'PORT', 'LISTEN_ADDR', 'NODE_OPTIONS', '__proto__', 'constructor', 'x'.repeat(200)]) {
    assert.deepEqual(parseVariableChange(set(name)), set(name))
  }
})

test('values that init or the kernel would not pass on are refused, one byte shorter is taken', () => {
  for (const value of ['\0', 'a\0b', '\ud800', '\udc00x', '\ufffe', '\uffff', '\ufdd0', '\u{1ffff}']) {
    assert.match(refusal(set('A', value)).message, /NUL, a lone surrogate or a noncharacter/, JSON.stringify(value))
  }
  const room = MAX_STRING_BYTES - 'A=\0'.length
  assert.equal(refusal(set('A', 'x'.repeat(room + 1))).code, 'env_invalid')
  assert.equal(refusal(set('A', 'ü'.repeat(room / 2 + 1))).code, 'env_invalid')
  assert.ok(parseVariableChange(set('A', 'x'.repeat(room))))
  assert.match(refusal(set('NODE_OPTIONS', 'x'.repeat(room - 4096))).message, /the limit is/)
})

test('what is no change is refused: odd shapes, nothing at all, a name twice', () => {
  for (const value of [undefined, null, [], {}, { set: [] }, { set: {}, unset: [] }, { set: [], unset: [1] }, 'A=b']) {
    assert.equal(refusal(value).code, 'request_refused', JSON.stringify(value))
  }
  assert.equal(refusal({ ...set('A'), more: 1 }).code, 'request_refused')
  assert.equal(refusal({ set: [], unset: [] }).code, 'request_refused')
  assert.match(refusal({ ...set('A'), unset: ['A'] }).message, /twice/)
  assert.match(refusal({ set: [], unset: ['A', 'A'] }).message, /twice/)
})

test('a change leaves every other variable as it was, and gives the same whatever the order', () => {
  const name = fc.oneof(
    fc.constantFrom('__proto__', 'constructor', 'toString', '_'),
    fc.stringMatching(/^[A-Z_]{1,3}$/),
  )
  const variables = fc.uniqueArray(fc.tuple(name, fc.string()), { selector: ([key]) => key, maxLength: 8 })
  fc.assert(
    fc.property(variables, variables, fc.uniqueArray(name), (entries, wanted, gone) => {
      const before = Object.fromEntries(entries)
      const change = {
        set: wanted.map(([name, value]) => ({ name, value })),
        unset: gone.filter((name) => !wanted.some(([other]) => other === name)),
      }
      const after = changedVariables(before, change)
      const expected = new Map(entries)
      for (const name of change.unset) expected.delete(name)
      for (const { name, value } of change.set) expected.set(name, value)
      assert.deepEqual(new Map(Object.entries(after)), expected)
      assert.deepEqual(Object.keys(after), [...expected.keys()].sort())
      assert.ok(isSameVariables(after, changedVariables(after, change)))
      assert.equal(isSameVariables(before, after), isSameVariables(after, before))
      assert.ok(Object.keys(after).every((key) => VARIABLE_NAME.test(key)))
    }),
  )
})

test('more variables or bytes than a process can be given are refused', () => {
  const many = Array.from({ length: 1001 }, (_, index) => ({ name: `A${index}`, value: '' }))
  assert.throws(() => changedVariables({}, { set: many, unset: [] }), /has 1001 variables; the limit is 1000/)
  assert.ok(changedVariables({}, { set: many.slice(1), unset: [] }))
  const large = Array.from({ length: 9 }, (_, index) => ({ name: `A${index}`, value: 'x'.repeat(120_000) }))
  assert.throws(() => changedVariables({}, { set: large, unset: [] }), /the limit is 1048576/)
})
