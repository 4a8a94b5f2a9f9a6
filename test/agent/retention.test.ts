import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  brokenInvariants,
  type Kept,
  planRetention,
  previousGood,
  quotaOf,
  type RetentionFacts,
} from '../../agent/deploy/retention.ts'
import type { ReleaseId } from '../../shared/names.ts'
import type { DiskState, ReleaseState } from '../../shared/wire.ts'

const idOf = (n: number) => `20261122T${String(n).padStart(6, '0')}Z-0000000a` as ReleaseId
const NONE: ReadonlySet<ReleaseId> = new Set()
const NOBODY: ReadonlyMap<ReleaseId, string> = new Map()

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
          // One of unknown health counts as once healthy.
          health: fc.constantFrom('never', 'once', 'unknown'),
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
      onceHealthy: rest[index]?.health !== 'never',
      adopted: rest[index]?.health === 'unknown',
      state: rest[index]?.state ?? 'failed',
    })),
  )

const cases = kept.chain((releases) =>
  fc.record({
    releases: fc.constant(releases),
    current: releases.length === 0 ? fc.constant(null) : fc.constantFrom(null, ...releases.map(({ id }) => id)),
    flying: fc.subarray(releases.map(({ id }) => id)).map((ids) => ids.slice(0, 2)),
    held: fc.subarray(releases.map(({ id }) => id)).map((ids) => ids.slice(0, 1)),
    running: fc.subarray(releases.map(({ id }) => id)).map((ids) => ids.slice(0, 1)),
    pressure: fc.constantFrom<DiskState>('ok', 'low', 'critical'),
    keep: fc.record({ releases: fc.integer({ min: 2, max: 12 }), failed: fc.integer({ min: 0, max: 4 }) }),
  }),
)

type Case = typeof cases extends fc.Arbitrary<infer C> ? C : never

function plan({ releases, current, flying, held, running, keep, pressure }: Case) {
  const facts: RetentionFacts = {
    current,
    running: new Set(running),
    inFlight: new Set(flying),
    held: new Map(held.map((id) => [id, 'ann'])),
    keep,
    pressure,
  }
  const verdicts = planRetention(releases, facts)
  const doomed = verdicts.flatMap(({ id, keep }) => (keep ? [] : [id]))
  return { facts, verdicts, doomed, byId: new Map(releases.map((release) => [release.id, release])) }
}

/** What stays whatever the quotas say. */
function pinned({ releases, current, flying, held, running }: Case): Set<ReleaseId | null> {
  const previous = previousGood(releases, current)
  const once = [...releases].sort((a, b) => b.seq - a.seq).filter(({ onceHealthy }) => onceHealthy)
  const isLast = previous === null && !once.some(({ id }) => id === current)
  const seen = once.filter(({ adopted }) => !adopted)
  const isUnseen = !seen.some(({ id }) => id === current || id === previous)
  const last = [isLast ? once[0] : undefined, isUnseen ? seen[0] : undefined].map((release) => release?.id ?? null)
  return new Set([current, previous, ...flying, ...held, ...running, ...last])
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

test('current, the previous good one, what runs, is held or worked with are never removed, however full the disk', () => {
  fc.assert(
    fc.property(cases, (given) => {
      const gone = new Set(plan(given).doomed)
      for (const id of pinned(given)) assert.ok(id === null || !gone.has(id), String(id))
    }),
  )
})

test('no plan breaks what must be true of it, and any plan that goes further does', () => {
  fc.assert(
    fc.property(cases, fc.nat(), (given, choice) => {
      const { doomed, facts, verdicts, byId } = plan(given)
      assert.deepEqual(brokenInvariants(doomed, given.releases, facts), [])
      const isLast = (why: string) => why.startsWith('the last')
      const further = verdicts.filter(({ id, keep, why }) => keep && !isLast(why) && byId.get(id)?.onceHealthy)
      const one = further[choice % Math.max(1, further.length)]
      if (one !== undefined)
        assert.notDeepEqual(brokenInvariants([...doomed, one.id], given.releases, facts), [], one.why)
    }),
  )
})

test('a plan is refused in words: what is current, runs, is held or worked with, good, unknown or named twice', () => {
  const releases: Kept[] = [1, 2, 3, 4].map((seq) => ({ id: idOf(seq), seq, onceHealthy: true, state: 'healthy' }))
  releases.push({ id: idOf(5), seq: 0, onceHealthy: false, state: 'failed' })
  const facts: RetentionFacts = {
    current: idOf(4),
    running: new Set([idOf(2)]),
    inFlight: new Set([idOf(1)]),
    held: new Map([[idOf(5), 'ann']]),
    keep: { releases: 2, failed: 0 },
    pressure: 'ok',
  }
  const broken = (...doomed: number[]) => brokenInvariants(doomed.map(idOf), releases, facts)
  assert.deepEqual(broken(4), [`${idOf(4)} is current`, `${idOf(4)} is among the 2 newest that were healthy`])
  assert.match(broken(3).join(), /is the previous good one/)
  assert.deepEqual(broken(2), [`${idOf(2)} runs`])
  assert.deepEqual(broken(1), [`a change is working with ${idOf(1)}`])
  assert.deepEqual(broken(5), [`${idOf(5)} is held`])
  assert.deepEqual(broken(9), [`${idOf(9)} is not in the ledger`])
  assert.match(broken(9, 9).join(), /named twice/)
  assert.match(broken(1, 2, 3, 4).join(), /none that was ever healthy would be left/)
})

test('under pressure less is kept, and never less than current and the previous good one', () => {
  const keep = (releases: number, failed: number) => ({ releases, failed })
  const quotas = [keep(10, 2), keep(5, 1), keep(3, 0), keep(2, 0)]
  assert.deepEqual(
    quotas.map((quota) => quotaOf(quota, 'ok')),
    quotas,
  )
  assert.deepEqual(
    quotas.map((quota) => quotaOf(quota, 'low')),
    [keep(5, 0), keep(3, 0), keep(3, 0), keep(2, 0)],
  )
  assert.deepEqual(
    quotas.map((quota) => quotaOf(quota, 'critical')),
    quotas.map(() => keep(0, 0)),
  )
  const releases: Kept[] = [1, 2, 3, 4, 5, 6].map((seq) => ({
    id: idOf(seq),
    seq,
    onceHealthy: true,
    state: 'healthy',
  }))
  const facts = { current: idOf(3), running: NONE, inFlight: NONE, held: NOBODY, keep: keep(10, 2) }
  const left = (pressure: DiskState) => planRetention(releases, { ...facts, pressure }).filter(({ keep }) => keep)
  assert.deepEqual(
    left('low').map(({ id }) => id),
    [6, 5, 4, 3, 2].map(idOf),
  )
  assert.equal(left('low').at(-1)?.why, 'once healthy, 5 of the 5 kept, while the disk is low')
  assert.deepEqual(
    left('critical').map(({ id, why }) => [id, why]),
    [
      [idOf(6), 'previous good: rollback goes here'],
      [idOf(3), 'current'],
    ],
  )
})

test('failed releases and ones of unknown health, however many, change nothing for one that was once healthy', () => {
  fc.assert(
    fc.property(cases, (given) => {
      const good = given.releases.filter(({ onceHealthy, adopted }) => onceHealthy && !adopted)
      const isGood = (id: ReleaseId) => good.some((release) => release.id === id)
      const all = plan(given).verdicts.filter(({ id }) => isGood(id))
      const [flying, held, running] = [given.flying, given.held, given.running].map((ids) => ids.filter(isGood))
      const goods = { releases: good, flying: flying ?? [], held: held ?? [], running: running ?? [] }
      // With a good one known, one of unknown health is never where a rollback goes.
      if (good.every(({ state, id }) => state === 'bad' || state === 'failed' || id === given.current)) return
      const alone = plan({ ...given, ...goods }).verdicts
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
      const held = pinned(given)
      const quotas = quotaOf(given.keep, given.pressure)
      for (const kind of [true, false]) {
        const quota = kind ? quotas.releases : quotas.failed
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
      const held = pinned(given)
      const quota = quotaOf(given.keep, given.pressure).releases
      for (const [index, { id, keep }] of verdicts.entries()) {
        if (!byId.get(id)?.adopted) continue
        const newer = verdicts.slice(0, index).map((verdict) => byId.get(verdict.id))
        const good = newer.filter((release) => release?.onceHealthy && !release.adopted)
        assert.equal(keep, good.length < quota || held.has(id), String(id))
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
  const facts = {
    current: idOf(15),
    running: NONE,
    inFlight: NONE,
    held: NOBODY,
    keep: { releases: 10, failed: 2 },
    pressure: 'ok',
  } as const
  const left = planRetention(releases, facts).filter(({ keep }) => keep)
  assert.equal(left.length, 12)
  assert.deepEqual(left[0], { id: idOf(15), keep: true, why: 'current' })
})
