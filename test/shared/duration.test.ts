import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseBytes, parseDurationMs } from '../../shared/duration.ts'
import { Failure } from '../../shared/failure.ts'

const refused = (error: unknown) =>
  error instanceof Failure && error.code === 'config_invalid' && error.message.startsWith('health.timeout: ')

test('a duration has a unit and comes out in ms', () => {
  const known = {
    '500ms': 500,
    '30s': 30_000,
    '1.5s': 1500,
    '5m': 300_000,
    '2h': 7_200_000,
    '1d': 86_400_000,
    ' 1s ': 1000,
  }
  for (const [text, ms] of Object.entries(known)) assert.equal(parseDurationMs(text, 'health.timeout'), ms)
  for (const text of ['', '30', '30 s', '-1s', '1w', '1S', '.5s', '1e3s', '1s2s', '1s\n1s', '9999999999s'])
    assert.throws(() => parseDurationMs(text, 'health.timeout'), refused, text)
})

test('a size has a unit, in powers of 1024, and comes out in bytes', () => {
  const known = { '512M': 512 * 1024 ** 2, '2G': 2 * 1024 ** 3, '1.5K': 1536, '1MiB': 1024 ** 2, '1TB': 1024 ** 4 }
  for (const [text, bytes] of Object.entries(known)) assert.equal(parseBytes(text, 'health.timeout'), bytes)
  for (const text of ['', '512', '512m', '-1M', '1P', '1 M', '1M1M'])
    assert.throws(() => parseBytes(text, 'health.timeout'), refused, text)
})
