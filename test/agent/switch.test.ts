import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer as createHttp, type ServerResponse } from 'node:http'
import { type AddressInfo, createServer, type Server } from 'node:net'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { connectionsWaiting, waitingAt } from '../../agent/deploy/accept-queue.ts'
import { planSwitch } from '../../agent/deploy/switch-plan.ts'
import { probeSwitch, summaryOf } from '../../agent/deploy/switch-probe.ts'
import type { ServicePort, UnitKey, UnitSpec } from '../../agent/init/init-system.ts'
import { parseAppName, parseServiceName, type Slot } from '../../shared/names.ts'

const app = parseAppName('shop')

// The plan.

interface Wish {
  name: string
  port: number | undefined
  handed: boolean
  overlap: boolean
}

function unitOf({ name, port, handed, overlap }: Wish, slot: Slot): UnitSpec {
  const key: UnitKey = { app, service: parseServiceName(name), slot }
  const spec = { ...(port === undefined ? {} : { port }), ...(overlap ? { overlap } : {}) }
  const handover = handed && port !== undefined ? { port, style: 'preload' as const } : undefined
  return { ...key, spec, handover } as unknown as UnitSpec
}

const wish = fc.record({
  port: fc.option(fc.constantFrom(3000, 4000), { nil: undefined }),
  handed: fc.boolean(),
  overlap: fc.boolean(),
})
const side = fc.dictionary(fc.constantFrom('web', 'api', 'worker'), wish)

test('every unit is started once, an old one that is in the way is of a service that cannot start beside it', () => {
  fc.assert(
    fc.property(side, side, (before, after) => {
      const old = Object.entries(before).map(([name, one]) => unitOf({ name, ...one }, 'a'))
      const units = Object.entries(after).map(([name, one]) => unitOf({ name, ...one }, 'b'))
      const open = old.flatMap(({ service, handover }): ServicePort[] =>
        handover ? [{ app, service, port: handover.port }] : [],
      )
      const { beside, alone, inTheWay } = planSwitch(units, old, open)
      assert.deepEqual(new Set([...beside, ...alone]), new Set(units))
      assert.equal(beside.length + alone.length, units.length)
      for (const unit of beside) {
        const one = old.find(({ service }) => service === unit.service)
        assert.ok(!inTheWay.some(({ service }) => service === unit.service))
        if (one !== undefined && unit.handover !== undefined) assert.equal(one.handover?.port, unit.handover.port)
        if (unit.handover === undefined) assert.ok(unit.spec.overlap && unit.spec.port === undefined)
      }
      for (const unit of alone) {
        const isThere = old.some(({ service }) => service === unit.service)
        assert.equal(
          inTheWay.some(({ service }) => service === unit.service),
          isThere,
        )
      }
    }),
  )
})

// The measure.

test('a gap is as long as from the first question that failed to the next that was answered', () => {
  const seen = (text: string) => [...text].map((mark, index) => ({ at: index * 10, ok: mark === '.' }))
  assert.deepEqual(summaryOf(seen('......'), 60), { sent: 6, failed: 0, longestGapMs: 0 })
  assert.deepEqual(summaryOf(seen('..xx.x.'), 70), { sent: 7, failed: 3, longestGapMs: 20 })
  assert.deepEqual(summaryOf(seen('.x'), 95), { sent: 2, failed: 1, longestGapMs: 85 })
  assert.deepEqual(
    summaryOf(
      [
        { at: 5, ok: false },
        { at: 5, ok: true },
      ],
      6,
    ),
    { sent: 2, failed: 1, longestGapMs: 1 },
  )
})

test('a switch is asked 20 times a second at least, with keep-alive and anew, and a gap that there is is seen', async (t) => {
  const kinds = new Set<string>()
  let sick = false
  const server = createHttp((request, response) => {
    kinds.add(String(request.headers.connection))
    response.statusCode = sick ? 503 : 200
    response.end('x')
  })
  const port = await listening(t, server)
  const probing = await probeSwitch([{ port, path: '/health' }])
  const began = performance.now()
  await sleep(500)
  sick = true
  await sleep(300)
  sick = false
  await sleep(300)
  const seen = await probing.end()
  const seconds = (performance.now() - began) / 1000
  assert.ok(seen)
  assert.deepEqual(kinds, new Set(['keep-alive', 'close']))
  assert.ok(seen.sent / seconds >= 20, `${seen.sent} in ${seconds} s`)
  assert.ok(seen.failed > 0 && seen.failed < seen.sent)
  assert.ok(seen.longestGapMs >= 200 && seen.longestGapMs < 2_000, `${seen.longestGapMs} ms`)
  assert.equal(await probing.end(), seen)
})

test('what does not answer well before the switch is not asked: there is nothing it could lose', async (t) => {
  const port = await listening(
    t,
    createHttp((_, response) => response.writeHead(500).end()),
  )
  const probing = await probeSwitch([
    { port, path: '/' },
    { port: 1, path: undefined },
  ])
  await sleep(150)
  assert.equal(await probing.end(), undefined)
})

test('a switch does not wait for a port behind which nobody answers, and asks there once somebody does', async (t) => {
  const held: ServerResponse[] = []
  let isUp = false
  const port = await listening(
    t,
    createHttp((_, response) => (isUp ? response.end('x') : held.push(response))),
  )
  const began = performance.now()
  const probing = await probeSwitch([{ port, path: '/' }])
  assert.ok(performance.now() - began < 2_000, 'a first answer may take 5 s')
  isUp = true
  for (const response of held) response.end('x')
  await sleep(500)
  const seen = await probing.end()
  assert.ok(seen !== undefined && seen.sent > 0)
  assert.deepEqual([seen.failed, seen.longestGapMs], [0, 0], 'there was nothing to lose before')
})

// Whether somebody accepts.

test('connections that nobody accepts are counted where the kernel says so', {
  skip: process.platform !== 'linux',
}, async (t) => {
  const port = await listening(t, createServer())
  assert.equal(await connectionsWaiting(port), 0)
  const free = createServer()
  const gone = await listening(t, free)
  await new Promise((resolve) => free.close(resolve))
  assert.equal(await connectionsWaiting(gone), undefined)
  const row =
    '   7: 0100007F:0BB8 00000000:0000 0A 00000000:00000003 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0'
  assert.equal(waitingAt(`head\n${row}\n`, 3000), 3)
  assert.equal(waitingAt(`head\n${row.replace(' 0A ', ' 01 ')}\n`, 3000), undefined)
})

async function listening(t: TestContext, server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  return (server.address() as AddressInfo).port
}
