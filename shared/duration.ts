import { Failure } from './failure.ts'

const UNIT_MS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const
const UNIT_BYTES = { K: 1024, M: 1024 ** 2, G: 1024 ** 3, T: 1024 ** 4 } as const

/** "500ms", "30s", "5m", "2h", "1d" → ms. A bare number is refused: it does not say of what. */
export function parseDurationMs(text: string, what: string): number {
  const match = /^(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)$/.exec(text.trim())
  const unit = match?.[2] as keyof typeof UNIT_MS | undefined
  if (match?.[1] !== undefined && unit !== undefined) return Math.round(Number(match[1]) * UNIT_MS[unit])
  throw new Failure('config_invalid', `${what}: ${JSON.stringify(text)} is no duration`, {
    hint: 'write it as "500ms", "30s", "5m", "2h" or "1d"',
  })
}

/** "512M", "2G" → bytes, in powers of 1024 as systemd reads them. */
export function parseBytes(text: string, what: string): number {
  const match = /^(\d{1,9}(?:\.\d{1,3})?)([KMGT])i?B?$/.exec(text.trim())
  const unit = match?.[2] as keyof typeof UNIT_BYTES | undefined
  if (match?.[1] !== undefined && unit !== undefined) return Math.round(Number(match[1]) * UNIT_BYTES[unit])
  throw new Failure('config_invalid', `${what}: ${JSON.stringify(text)} is no size`, {
    hint: 'write it as "512M" or "2G"',
  })
}
