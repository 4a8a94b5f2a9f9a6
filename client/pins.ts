import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Failure, isErrno } from '../shared/failure.ts'
import { parsePin } from './config.ts'

// Which agent key each host has, as this user once saw and trusted it: like ~/.ssh/known_hosts.

export interface Pins {
  file: string
  of(url: string): string | undefined
  /** Remembers, in place of what was known before. */
  trust(url: string, pin: string): void
  all(): { url: string; pin: string }[]
}

export function openPins(configDir: string): Pins {
  const file = join(configDir, 'known_agents')
  return {
    file,
    of: (url) => readAll(file).get(url),
    all: () => [...readAll(file)].map(([url, pin]) => ({ url, pin })),
    trust(url, pin) {
      const pins = readAll(file).set(url, pin)
      mkdirSync(configDir, { recursive: true, mode: 0o700 })
      const temporary = `${file}.${process.pid}.tmp`
      writeFileSync(temporary, [...pins].map(([known, its]) => `${known} ${its}\n`).join(''), { mode: 0o600 })
      renameSync(temporary, file)
    },
  }
}

function readAll(file: string): Map<string, string> {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return new Map()
    throw error
  }
  const pins = new Map<string, string>()
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue
    const [url, pin, ...rest] = line.trim().split(/\s+/)
    if (url === undefined || pin === undefined || rest.length > 0) {
      throw new Failure('config_invalid', `read ${file}: line ${index + 1} is not "URL PIN"`)
    }
    pins.set(url, parsePin(pin))
  }
  return pins
}
