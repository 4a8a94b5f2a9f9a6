import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { notTooSlow } from '../../agent/http/upload-rate.ts'

async function* trickle(chunk: Buffer, { times, everyMs }: { times: number; everyMs: number }): AsyncGenerator<Buffer> {
  for (let sent = 0; sent < times; sent++) {
    await sleep(everyMs)
    yield chunk
  }
}

test('an upload that trickles is cut, and one that keeps its rate passes', async () => {
  const limits = { minBytesPerSecond: 1000, rateWindowMs: 100 }
  const read = async (bytes: number) => {
    let seen = 0
    for await (const chunk of notTooSlow(trickle(Buffer.alloc(bytes), { times: 30, everyMs: 20 }), limits))
      seen += chunk.length
    return seen
  }
  await assert.rejects(read(1), { code: 'limit_exceeded' })
  assert.equal(await read(1000), 30_000)
})

test('time that we take ourselves is not held against the client', async () => {
  const limits = { minBytesPerSecond: 1000, rateWindowMs: 100 }
  let seen = 0
  for await (const chunk of notTooSlow(trickle(Buffer.alloc(20), { times: 20, everyMs: 1 }), limits)) {
    seen += chunk.length
    await sleep(20)
  }
  assert.equal(seen, 400)
})
