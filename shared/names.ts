import { hash } from 'node:crypto'
import { Failure } from './failure.ts'

// Names that reach unit files, user names and paths. One strict, ASCII, anchored rule each:
// CVE-2026-45408 of another tool was a `;` that its app-name rule let into a generated hook.
const NAME = /^[a-z][a-z0-9-]{0,30}$/
const RELEASE_ID = /^\d{8}T\d{6}Z-[0-9a-f]{8}$/
const MAX_SHOWN_CHARS = 100
const SHA256 = /^[0-9a-f]{64}$/

export type AppName = string & { readonly brand: 'AppName' }
export type ServiceName = string & { readonly brand: 'ServiceName' }
export type ReleaseId = string & { readonly brand: 'ReleaseId' }
export type Sha256 = string & { readonly brand: 'Sha256' }

/** The two places of a service between which traffic moves. */
export type Slot = 'a' | 'b'
export const SLOTS: readonly Slot[] = ['a', 'b']

export function parseAppName(value: unknown): AppName {
  return checkedName(value, 'app') as AppName
}

export function isAppName(value: unknown): value is AppName {
  return typeof value === 'string' && NAME.test(value)
}

export function parseServiceName(value: unknown): ServiceName {
  return checkedName(value, 'service') as ServiceName
}

function checkedName(value: unknown, what: string): string {
  if (typeof value === 'string' && NAME.test(value)) return value
  throw new Failure('manifest_invalid', `${what} name ${clipped(value)} does not match ${NAME.source}`, {
    hint: 'lower-case letters, digits and dashes, a letter first, 31 characters at most',
  })
}

export function parseReleaseId(value: unknown): ReleaseId {
  if (isReleaseId(value)) return value
  throw new Failure(
    'release_unknown',
    `release ${clipped(value)} is not a release id such as 20261122T233851Z-3f9a1c2b`,
    {
      hint: 'tarmac releases lists what is kept',
    },
  )
}

/** What came from outside may be megabytes: a message shows enough of it to be found. */
function clipped(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value)
  return text.length <= MAX_SHOWN_CHARS ? text : `${text.slice(0, MAX_SHOWN_CHARS)}…`
}

export function isReleaseId(value: unknown): value is ReleaseId {
  return typeof value === 'string' && RELEASE_ID.test(value)
}

export function isSha256(value: unknown): value is Sha256 {
  return typeof value === 'string' && SHA256.test(value)
}

export function sha256(data: string | Uint8Array): Sha256 {
  return hash('sha256', data, 'hex') as Sha256
}

/**
 * `<created>-<first 8 hex of sha256(release.json)>`: the name a release has on every host.
 * It orders nothing: the agent orders releases by its own sequence number.
 */
export function releaseIdOf(created: string, manifestText: string | Uint8Array): ReleaseId {
  const stamp = created.replace(/[-:]|\.\d+/g, '')
  return `${stamp}-${sha256(manifestText).slice(0, 8)}` as ReleaseId
}
