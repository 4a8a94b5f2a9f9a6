import { existsSync } from 'node:fs'
import type { Finding } from '../../shared/wire-doctor.ts'
import { run } from '../run.ts'

// journald.conf(5): without a word from anybody journald keeps to a tenth of its file system, and to 4 GB.

const TIMEOUT_MS = 10_000
const PERSISTENT = '/var/log/journal'
const DEFAULT_LIMIT = 'a tenth of its file system and 4 GB at the most (its default)'

/** As journald reads it, with every drop-in. Throws `program_failed`. */
export async function journalLimit(): Promise<Finding> {
  const { stdout } = await run(['systemd-analyze', '--no-pager', 'cat-config', 'systemd/journald.conf'], {
    timeoutMs: TIMEOUT_MS,
  })
  return limitOf(stdout, { isPersistent: existsSync(PERSISTENT) })
}

/** Pure: from the text of all configuration files, one after the other. */
export function limitOf(text: string, { isPersistent }: { isPersistent: boolean }): Finding {
  const settings = settingsIn(text)
  const storage = settings.get('Storage') ?? 'auto'
  if (storage === 'none') {
    const hint = 'Storage=persistent in /etc/systemd/journald.conf, then: systemctl restart systemd-journald'
    return { state: 'bad', what: 'journald keeps nothing (Storage=none): no output of an app can be read', hint }
  }
  const isInMemory = storage === 'volatile' || (storage === 'auto' && !isPersistent)
  const limit = settings.get(isInMemory ? 'RuntimeMaxUse' : 'SystemMaxUse')
  const what = `journald keeps ${limit ?? DEFAULT_LIMIT}`
  // Rate limiting is off when either is 0: one app in a loop then pushes out what all others said.
  if (['RateLimitIntervalSec', 'RateLimitBurst'].some((name) => /^0[a-z]*$/.test(settings.get(name) ?? ''))) {
    const hint = 'remove RateLimitIntervalSec=0 and RateLimitBurst=0 from journald.conf and its drop-ins'
    return { state: 'warn', what: `${what}, but limits no rate: one app can push out what all others said`, hint }
  }
  if (!isInMemory) return { state: 'ok', what, hint: null }
  const hint = `to keep it: mkdir ${PERSISTENT} && systemctl restart systemd-journald`
  return { state: 'warn', what: `${what}, in memory: a reboot forgets the apps' output`, hint }
}

/** The last one counts, and an empty one takes back what stood before. */
function settingsIn(text: string): Map<string, string> {
  const settings = new Map<string, string>()
  for (const line of text.split('\n')) {
    const [, name = '', value = ''] = /^\s*([A-Za-z]+)\s*=\s*(.*?)\s*$/.exec(line) ?? []
    if (name === '') continue
    if (value === '') settings.delete(name)
    else settings.set(name, value)
  }
  return settings
}
