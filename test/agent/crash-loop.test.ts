import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { isNewLoop, type LoopFacts, planLoop, type ServiceFacts } from '../../agent/watch/crash-loop.ts'
import { parseReleaseId, parseServiceName } from '../../shared/names.ts'

const [A, B, C] = ['a', 'b', 'c'].map((hex) => parseReleaseId(`20261122T233851Z-0000000${hex}`)) as [
  ReturnType<typeof parseReleaseId>,
  ReturnType<typeof parseReleaseId>,
  ReturnType<typeof parseReleaseId>,
]
const WEB = parseServiceName('web')
const MINUTE = 60_000
const LIMITS = { exits: 5, withinMs: 10 * MINUTE, probationMs: 10 * MINUTE }
const NOW = Date.parse('2026-11-22T12:00:00.000Z')
const ago = (minutes: number) => new Date(NOW - minutes * MINUTE).toISOString()

function service(of: Partial<ServiceFacts> = {}): ServiceFacts {
  return { service: WEB, state: 'gave-up', respawns: 5, exits: exits(5), lastExitAt: NOW, ...of }
}

/** So many, `everyMs` apart, the newest so many minutes ago. */
function exits(count: number, { everyMs = 20_000, minutesAgo = 0 } = {}): number[] {
  return Array.from({ length: count }, (_, index) => NOW - minutesAgo * MINUTE - index * everyMs)
}

/** B was pushed a minute ago over the good A, and loops. */
function facts(of: Partial<LoopFacts> = {}): LoopFacts {
  return {
    current: B,
    services: [service()],
    switches: [
      { kind: 'push', to: B, result: 'done', endedAt: ago(1) },
      { kind: 'push', to: A, result: 'done', endedAt: ago(60) },
    ],
    releases: [
      { id: B, seq: 2, state: 'healthy', onceHealthy: true },
      { id: A, seq: 1, state: 'healthy', onceHealthy: true },
    ],
    now: NOW,
    ...of,
  }
}

const automatic = { kind: 'auto-rollback', endedAt: ago(0) } as const
const verdictOf = (of: Partial<LoopFacts>) => {
  const verdict = planLoop(facts(of), LIMITS)
  return verdict.act === 'go-back' ? `to ${verdict.to}` : verdict.act === 'stay-down' ? verdict.why : 'nothing'
}

const SPENT = 'it was rolled back once since the last push: that is not repeated'
const OVER = 'its probation is over: only a person can say what is better'
const NONE = 'there is no good release to go back to'

const TABLE: [title: string, of: Partial<LoopFacts>, verdict: string][] = [
  ['what init gave up in probation goes back', {}, `to ${A}`],
  ['what runs and stays up is left alone', { services: [service({ state: 'running', exits: exits(0) })] }, 'nothing'],
  ['four exits are no loop', { services: [service({ state: 'running', exits: exits(4) })] }, 'nothing'],
  ['five are one, also between two of them', { services: [service({ state: 'running', exits: exits(5) })] }, `to ${A}`],
  ['five are one, also before a respawn', { services: [service({ state: 'respawning', exits: exits(5) })] }, `to ${A}`],
  ['what was stopped loops no more', { services: [service({ state: 'stopped', exits: exits(9) })] }, 'nothing'],
  [
    'one looping service of two is enough',
    { services: [service({ state: 'running', exits: exits(0) }), service()] },
    `to ${A}`,
  ],
  [
    'after probation nothing goes back',
    { switches: [{ kind: 'push', to: B, result: 'done', endedAt: ago(11) }] },
    OVER,
  ],
  [
    'a loop within probation that is found later goes back',
    {
      services: [service({ lastExitAt: NOW - 50 * MINUTE })],
      switches: [{ kind: 'push', to: B, result: 'done', endedAt: ago(55) }],
    },
    `to ${A}`,
  ],
  [
    'five that took longer than the window are none',
    { services: [service({ state: 'running', exits: exits(5, { everyMs: 3 * MINUTE }) })] },
    'nothing',
  ],
  [
    'one that began in probation and went on for an hour with nobody to see it goes back',
    {
      services: [service({ state: 'running', exits: exits(180) })],
      switches: [{ kind: 'push', to: B, result: 'done', endedAt: ago(62) }],
    },
    `to ${A}`,
  ],
  [
    'one that began after it does not, whatever happened in it',
    {
      services: [service({ state: 'running', exits: [...exits(30), ...exits(4, { minutesAgo: 55 })] })],
      switches: [{ kind: 'push', to: B, result: 'done', endedAt: ago(62) }],
    },
    OVER,
  ],
  [
    'a rollback by a person begins a probation too',
    { switches: [{ kind: 'rollback', to: B, result: 'done', endedAt: ago(1) }] },
    `to ${A}`,
  ],
  [
    'a push that was cut off after its switch counts',
    { switches: [{ kind: 'push', to: B, result: 'interrupted', endedAt: ago(1) }] },
    `to ${A}`,
  ],
  [
    'one that was cut off before it does not',
    {
      switches: [
        { kind: 'push', to: C, result: 'interrupted', endedAt: ago(1) },
        { kind: 'push', to: B, result: 'done', endedAt: ago(30) },
      ],
    },
    OVER,
  ],
  ['with no record of a switch nothing goes back', { switches: [] }, OVER],
  ['a bad release is nothing to go back to', { releases: [{ id: A, seq: 1, state: 'bad', onceHealthy: true }] }, NONE],
  ['nor one that was never healthy', { releases: [{ id: A, seq: 1, state: 'assembled', onceHealthy: false }] }, NONE],
  [
    'a second time is not',
    { current: A, switches: [{ ...automatic, to: A, result: 'done' }, ...facts().switches] },
    SPENT,
  ],
  ['nor after one that failed', { switches: [{ ...automatic, to: A, result: 'failed' }, ...facts().switches] }, SPENT],
  [
    'one that was cut off and undone is tried again',
    { switches: [{ ...automatic, to: A, result: 'interrupted' }, ...facts().switches] },
    `to ${A}`,
  ],
  [
    'but once only',
    {
      switches: [
        { ...automatic, to: A, result: 'interrupted' },
        { ...automatic, to: A, result: 'interrupted' },
        ...facts().switches,
      ],
    },
    SPENT,
  ],
  [
    'one that was cut off and finished was the one',
    { current: A, switches: [{ ...automatic, to: A, result: 'interrupted' }, ...facts().switches] },
    SPENT,
  ],
  [
    'a push after it has its own',
    {
      switches: [
        { kind: 'push', to: B, result: 'done', endedAt: ago(1) },
        { ...automatic, to: A, result: 'done' },
      ],
    },
    `to ${A}`,
  ],
]

for (const [title, of, verdict] of TABLE) test(title, () => assert.equal(verdictOf(of), verdict))

test('a loop is news until it was written down, and again when it went on after that', () => {
  const loop = (at: number | undefined) => [{ service: WEB, why: '', at, since: at }] as const
  assert.ok(isNewLoop(loop(NOW), null))
  assert.ok(isNewLoop(loop(undefined), null))
  assert.ok(!isNewLoop(loop(NOW), ago(0)))
  assert.ok(!isNewLoop(loop(undefined), ago(5)))
  assert.ok(isNewLoop(loop(NOW), ago(1)))
  assert.ok(isNewLoop([...loop(NOW - 2 * MINUTE), ...loop(NOW)], ago(1)), 'another service')
})

const release = fc.constantFrom(A, B, C)
const anySwitch = fc.record({
  kind: fc.constantFrom('push' as const, 'rollback' as const, 'auto-rollback' as const),
  to: fc.option(release),
  result: fc.constantFrom('done' as const, 'failed' as const, 'interrupted' as const),
  endedAt: fc.integer({ min: 0, max: 30 }).map(ago),
})
const anyFacts: fc.Arbitrary<LoopFacts> = fc.record({
  current: release,
  services: fc.array(
    fc.record({
      service: fc.constant(WEB),
      state: fc.constantFrom('running' as const, 'respawning' as const, 'stopped' as const, 'gave-up' as const),
      respawns: fc.nat(9),
      exits: fc.nat(9).map((count) => exits(count)),
      lastExitAt: fc.option(fc.integer({ min: NOW - 30 * MINUTE, max: NOW }), { nil: undefined }),
    }),
    { maxLength: 3 },
  ),
  switches: fc.array(anySwitch, { maxLength: 6 }),
  releases: fc.uniqueArray(
    fc.record({
      id: release,
      seq: fc.nat(9),
      state: fc.constantFrom('healthy' as const, 'bad' as const, 'failed' as const, 'assembled' as const),
      onceHealthy: fc.boolean(),
    }),
    { selector: ({ id }) => id },
  ),
  now: fc.constant(NOW),
})

test('whatever happened, the agent goes only to a good release that does not run, and never twice for one push', () => {
  let goneBack = 0
  fc.assert(
    fc.property(anyFacts, (before) => {
      const verdict = planLoop(before, LIMITS)
      if (verdict.act !== 'go-back') return
      goneBack++
      const target = before.releases.find(({ id }) => id === verdict.to)
      assert.ok(target?.onceHealthy && target.state !== 'bad' && target.id !== before.current)
      // Done or failed, and whatever loops next.
      for (const [result, current] of [
        ['done', verdict.to],
        ['failed', before.current],
      ] as const) {
        const switches = [{ ...automatic, to: verdict.to, result }, ...before.switches]
        assert.notEqual(planLoop({ ...before, current, switches }, LIMITS).act, 'go-back')
      }
    }),
    { numRuns: 5_000 },
  )
  assert.ok(goneBack > 50, `${goneBack} of them went back`)
})
