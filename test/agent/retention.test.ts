import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { type Kept, planRetention, previousGood, type RetentionFacts } from '../../agent/deploy/retention.ts'
import type { ReleaseId } from '../../shared/names.ts'
import type { ReleaseState } from '../../shared/wire.ts'

const idOf = (n: number) => `20261122T${String(n).padStart(6, '0')}Z-0000000a` as ReleaseId

// Names and sequence numbers are drawn apart from each other: a clock that runs backwards must not matter.
const kept: fc.Arbitrary<Kept[]> = fc
  .uniqueArray(fc.nat({ max: 99 }), { maxLength: 30 })
  .chain((names) =>
    fc.tuple(
      fc.shuffledSubarray(
        Array.from({ length: 60 }, (_, seq) => seq),
        { minLength: names.length, maxLength: names.length },
      ),
      fc.array(
        fc.record({
          onceHealthy: fc.boolean(),
          adopted: fc.boolean(),
          state: fc.constantFrom<ReleaseState>('assembled', 'started', 'healthy', 'failed', 'bad'),
        }),
        { minLength: names.length, maxLength: names.length },
      ),
      fc.constant(names),
    ),
  )
  .map(([seqs, rest, names]) =>
    names.map((name, index) => ({
      id: idOf(name),
      seq: seqs[index] ?? 0,
      onceHealthy: rest[index]?.onceHealthy ?? false,
      adopted: rest[index]?.adopted ?? false,
      state: rest[index]?.state ?? 'failed',
    })),
  )

const cases = kept.chain((releases) =>
  fc.record({
    releases: fc.constant(releases),
    current: releases.length === 0 ? fc.constant(null) : fc.constantFrom(null, ...releases.map(({ id }) => id)),
    flying: fc.subarray(releases.map(({ id }) => id)).map((ids) => ids.slice(0, 2)),
    keep: fc.record({ releases: fc.integer({ min: 2, max: 12 }), failed: fc.integer({ min: 0, max: 4 }) }),
  }),
)

function plan({ releases, current, flying, keep }: typeof cases extends fc.Arbitrary<infer C> ? C : never) {
  const facts: RetentionFacts = { current, inFlight: new Set(flying), keep }
  return { verdicts: planRetention(releases, facts), byId: new Map(releases.map((release) => [release.id, release])) }
}

test('there is one verdict for each release, newest first by the agent’s own order', () => {
  fc.assert(
    fc.property(cases, (given) => {
      const order = [...given.releases].sort((a, b) => b.seq - a.seq).map(({ id }) => id)
      assert.deepEqual(
        plan(given).verdicts.map(({ id }) => id),
        order,
      )
    }),
  )
})

test('current, the previous good one and what a change works with are never removed, however old', () => {
  fc.assert(
    fc.property(cases, (given) => {
      const gone = new Set(plan(given).verdicts.flatMap(({ id, keep }) => (keep ? [] : [id])))
      const previous = previousGood(given.releases, given.current)
      for (const id of [given.current, previous, ...given.flying]) assert.ok(id === null || !gone.has(id), String(id))
    }),
  )
})

test('failed releases and ones of unknown health, however many, change nothing for one that was once healthy', () => {
  fc.assert(
    fc.property(cases, (given) => {
      const good = given.releases.filter(({ onceHealthy, adopted }) => onceHealthy && !adopted)
      const isGood = (id: ReleaseId) => good.some((release) => release.id === id)
      const all = plan(given).verdicts.filter(({ id }) => isGood(id))
      const current = given.current !== null && isGood(given.current) ? given.current : null
      const alone = plan({ ...given, releases: good, current, flying: given.flying.filter(isGood) }).verdicts
      assert.deepEqual(
        all.map(({ id, keep }) => [id, keep]),
        alone.map(({ id, keep }) => [id, keep]),
      )
    }),
  )
})

test('of each kind the newest are kept, as many as the quota says, and beyond it only what is held', () => {
  fc.assert(
    fc.property(cases, (given) => {
      const { verdicts, byId } = plan(given)
      const held = new Set([given.current, previousGood(given.releases, given.current), ...given.flying])
      for (const kind of [true, false]) {
        const quota = kind ? given.keep.releases : given.keep.failed
        const ours = verdicts.filter(({ id }) => byId.get(id)?.onceHealthy === kind && byId.get(id)?.adopted === false)
        for (const [place, { id, keep }] of ours.entries())
          assert.equal(keep, place < quota || held.has(id), String(id))
      }
    }),
  )
})

test('one of unknown health stays while fewer good ones than the quota came after it, and counts against none', () => {
  fc.assert(
    fc.property(cases, (given) => {
      const { verdicts, byId } = plan(given)
      const held = new Set([given.current, previousGood(given.releases, given.current), ...given.flying])
      for (const [index, { id, keep }] of verdicts.entries()) {
        if (!byId.get(id)?.adopted) continue
        const newer = verdicts.slice(0, index).map((verdict) => byId.get(verdict.id))
        const good = newer.filter((release) => release?.onceHealthy && !release.adopted)
        assert.equal(keep, good.length < given.keep.releases || held.has(id), String(id))
      }
    }),
  )
})

test('a rollback goes to the newest good one that is neither bad, failed nor running; else to an older one of unknown health, or nowhere', () => {
  fc.assert(
    fc.property(cases, ({ releases, current }) => {
      const now = releases.find(({ id }) => id === current)?.seq ?? Number.POSITIVE_INFINITY
      const fit = releases
        .filter(({ id, state }) => state !== 'bad' && state !== 'failed' && id !== current)
        .sort((a, b) => b.seq - a.seq)
      const known = fit.find(({ onceHealthy, adopted }) => onceHealthy && !adopted)
      const found = fit.find(({ adopted, seq }) => adopted && seq < now)
      assert.equal(previousGood(releases, current), (known ?? found)?.id ?? null)
    }),
  )
})

test('thirteen good and three failed releases leave ten and two', () => {
  const releases = Array.from({ length: 16 }, (_, seq) => ({
    id: idOf(seq),
    seq,
    onceHealthy: seq % 5 !== 4,
    adopted: false,
    state: seq % 5 === 4 ? ('failed' as const) : ('healthy' as const),
  }))
  const facts = { current: idOf(15), inFlight: new Set<ReleaseId>(), keep: { releases: 10, failed: 2 } }
  const left = planRetention(releases, facts).filter(({ keep }) => keep)
  assert.equal(left.length, 12)
  assert.deepEqual(left[0], { id: idOf(15), keep: true, why: 'current' })
})
