import assert from 'node:assert/strict'
import { test } from 'node:test'
import { checksOfFailure, checksOfWay } from '../../client/commands/doctor.ts'
import { Failure } from '../../shared/failure.ts'
import { version } from '../../shared/version.ts'

const host = { name: 'a', url: 'https://a:7433', pin: undefined }
const asked = Date.parse('2026-11-22T23:38:51.000Z')

function wayWith({ offMs = 0, theirs = version }: { offMs?: number; theirs?: string }) {
  const answer = { at: new Date(asked + offMs).toISOString(), agent: { version: theirs, init: 'systemd' }, checks: [] }
  const checks = checksOfWay(host, { pin: 'sha256//x', answer, asked, answered: asked + 40 })
  return Object.fromEntries(checks.map((check) => [check.check, check]))
}

test('a clock is off by what no delay of the answer explains, and told from 5 s on, as bad from 5 minutes', () => {
  for (const [offMs, state, what] of [
    [0, 'ok', /^the same time as here$/],
    [40, 'ok', /^the same time as here$/],
    [4_040, 'ok', /^4s ahead of this machine$/],
    [-6_000, 'warn', /^6s behind this machine$/],
    [60_040, 'warn', /^1m ahead of this machine$/],
    [-3_600_000, 'bad', /^1h behind this machine$/],
  ] as const) {
    const { clock } = wayWith({ offMs })
    assert.equal(clock?.state, state, String(offMs))
    assert.match(clock?.what ?? '', what)
    assert.equal(clock?.hint === null, state === 'ok')
  }
})

test('an agent of another version is told', () => {
  assert.equal(wayWith({}).version?.state, 'ok')
  assert.equal(wayWith({ theirs: '0.0.1' }).version?.state, 'warn')
})

test('a host that does not answer is not reachable; one that refuses is, and says why', () => {
  const told = (code: ConstructorParameters<typeof Failure>[0]) =>
    checksOfFailure(host, new Failure(code, 'why', { hint: 'do' })).map(({ check, state }) => [check, state])
  assert.deepEqual(told('agent_unreachable'), [['reachable', 'bad']])
  assert.deepEqual(told('pin_mismatch'), [
    ['reachable', 'ok'],
    ['pin', 'bad'],
  ])
  assert.deepEqual(told('signer_unknown'), [
    ['reachable', 'ok'],
    ['answer', 'bad'],
  ])
})
