import { Failure } from './failure.ts'
import { SESSION_NAMESPACE } from './session.ts'
import { fingerprintOf, openPublicKey, type PublicKey, parsePublicKey, publicLineOf } from './ssh-key.ts'
import { RELEASE_NAMESPACE } from './wire.ts'

// Who may sign what, until when: OpenSSH's allowed_signers (ssh-keygen(1), ALLOWED SIGNERS), so that
// `ssh-keygen -Y verify` gives the same answers offline. Only what names one person with one key is read: patterns,
// certificates and options we do not know refuse the whole file, because a policy half understood is worse than none.

const PRINCIPAL = /^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$/
const PRINCIPAL_RULE = '1 to 64 letters, digits and . _ @ + -, a letter or digit first'
const NAMESPACE = /^[A-Za-z0-9._@/:+-]+$/
const OPTION = /^([A-Za-z-]+)="([^"\\]*)"(,|[ \t]+)/
const TIMESTAMP = /^(\d{4})(\d\d)(\d\d)(?:(\d\d)(\d\d)(\d\d)?)?(Z?)$/

/** One line: this key is this person, in these namespaces and at these times. */
export interface Signer {
  principal: string
  /** Literal names; undefined: every namespace. */
  namespaces?: string[]
  /** The first and the last second at which the key counts, as OpenSSH has it. */
  validAfter?: Date
  validBefore?: Date
  key: PublicKey
  line: number
}

type Limits = Pick<Signer, 'namespaces' | 'validAfter' | 'validBefore'>

/**
 * Throws policy_unreadable with the number of the first line that is not understood. Beyond OpenSSH, a line names
 * one principal, a key belongs to one principal, and no two principals differ in case only: where two people are
 * asked for, one person must not count as two.
 */
export function parseAllowedSigners(text: string): Signer[] {
  const signers: Signer[] = []
  for (const [index, line] of text.split('\n').entries()) {
    if (/^[ \t\r]*(#|$)/.test(line)) continue
    try {
      signers.push(parseLine(line, index + 1))
    } catch (error) {
      if (error instanceof Failure) throw atLine(index + 1, error)
      throw error
    }
  }
  refuseTwoForOne(signers)
  return signers
}

/**
 * The person this key is, here and now. The key is one that parseSignature gave, and whose signature is verified
 * before anything is done. Throws signer_unknown, also for a namespace that no line of this key allows, or signer_expired.
 */
export function signerOf(
  signers: readonly Signer[],
  keyBlob: Uint8Array,
  use: { namespace: string; now: Date },
): Signer {
  const known = signers.filter((signer) => signer.key.blob.equals(keyBlob))
  const allowed = known.filter(({ namespaces }) => namespaces === undefined || namespaces.includes(use.namespace))
  const signer = allowed.find((candidate) => outsideValidity(candidate, use.now) === undefined)
  if (signer !== undefined) return signer

  const fingerprint = fingerprintOf(keyBlob)
  const [expired] = allowed
  if (expired !== undefined) {
    const why = `${expired.principal}'s key ${fingerprint} ${outsideValidity(expired, use.now)}`
    throw new Failure('signer_expired', `find signer: ${why}`, { hint: lineHint(expired) })
  }
  const [elsewhere] = known
  if (elsewhere !== undefined) {
    const why = `${elsewhere.principal}'s key ${fingerprint} is not allowed in namespace "${use.namespace}"`
    throw new Failure('signer_unknown', `find signer: ${why}`, { hint: lineHint(elsewhere) })
  }
  const { type } = openPublicKey(keyBlob)
  const line = publicLineOf({ type, blob: Buffer.from(keyBlob), comment: '' })
  throw new Failure('signer_unknown', `find signer: nobody here has the key ${fingerprint}`, {
    hint: `on the host: tarmac-agent signers add NAME '${line}'`,
  })
}

/** A line that lets this person open sessions and sign releases, and sign nothing else. Throws usage for a bad name. */
export function signerLine(name: string, key: PublicKey): string {
  if (!PRINCIPAL.test(name)) {
    throw new Failure('usage', `signer name ${quoted(name)}: not ${PRINCIPAL_RULE}`)
  }
  const comment = key.comment === '' ? '' : ` ${key.comment}`
  return `${name} namespaces="${SESSION_NAMESPACE},${RELEASE_NAMESPACE}" ${publicLineOf(key)}${comment}`
}

function parseLine(text: string, line: number): Signer {
  if (/[^\P{Cc}\t]/u.test(text)) throw unreadable('it holds control characters (is it saved with Windows line ends?)')
  const [, principal = '', rest = ''] = /^[ \t]*(\S+)[ \t]*(.*)$/su.exec(text) ?? []
  if (principal.includes(',')) throw unreadable('it names several principals: give each a line and a key of their own')
  if (!PRINCIPAL.test(principal)) throw unreadable(`principal ${quoted(principal)} is not ${PRINCIPAL_RULE}`)
  const { limits, key } = parseOptions(rest)
  return { principal, ...limits, key: parsePublicKey(key), line }
}

function parseOptions(text: string): { limits: Limits; key: string } {
  const limits: Limits = {}
  let key = text
  let separator = startsWithKey(text) ? ' ' : ','
  while (separator === ',') {
    const [option = '', keyword = '', value = '', next] = OPTION.exec(key) ?? []
    if (next === undefined) {
      throw unreadable(`${quoted(key.slice(0, 32))} is no option of the form name="value", and no key`)
    }
    const field = fieldOf(keyword.toLowerCase())
    if (field in limits) throw unreadable(`option ${quoted(keyword)} is there twice`)
    if (field === 'namespaces') limits.namespaces = parseNamespaces(value)
    else limits[field] = parseTimestamp(value)
    key = key.slice(option.length)
    separator = next
  }
  const { validAfter, validBefore } = limits
  if (validAfter !== undefined && validBefore !== undefined && validBefore <= validAfter) {
    throw unreadable('valid-before is not later than valid-after')
  }
  return { limits, key }
}

/** In base64 every key begins with AAAA: its first field is a length below 16 million. */
function startsWithKey(text: string): boolean {
  return /^[^\s"=,]+[ \t]+AAAA/.test(text)
}

function fieldOf(keyword: string): keyof Limits {
  if (keyword === 'namespaces') return 'namespaces'
  if (keyword === 'valid-after') return 'validAfter'
  if (keyword === 'valid-before') return 'validBefore'
  throw unreadable(`option ${quoted(keyword)} is not one of namespaces, valid-after, valid-before`)
}

function parseNamespaces(value: string): string[] {
  const names = value.split(',')
  const odd = names.find((name) => !NAMESPACE.test(name))
  if (odd !== undefined) throw unreadable(`namespace ${quoted(odd)} is not a plain name: patterns are not read`)
  return names
}

function parseTimestamp(value: string): Date {
  const [all, year, month, day, hour = '00', minute = '00', second = '00', zone] = TIMESTAMP.exec(value) ?? []
  const iso = `${year}-${month}-${day}T${hour}:${minute}:${second}.000Z`
  const utc = new Date(iso)
  // OpenSSH reads the 31st of February as the 3rd of March; here the file is wrong.
  if (all === undefined || Number.isNaN(utc.getTime()) || utc.toISOString() !== iso || utc.getTime() <= 0) {
    throw unreadable(`time ${quoted(value)} is not of the form YYYYMMDD[HHMM[SS]][Z]`)
  }
  return zone === 'Z' ? utc : new Date(utc.getTime() + standardOffsetMs(utc.getUTCFullYear()))
}

/**
 * How far local standard time is behind UTC. OpenSSH asks mktime(3) for a time without summer time, so a date in
 * July begins at one o'clock by the clock on the wall; we follow, or the two would disagree for an hour.
 * (Where the zone data call winter the exception, as for Dublin, they do.)
 */
function standardOffsetMs(year: number): number {
  const minutes = Math.max(new Date(year, 0, 1).getTimezoneOffset(), new Date(year, 6, 1).getTimezoneOffset())
  return minutes * 60_000
}

/** Words when the line does not count now. Whole seconds, as OpenSSH compares them; an invalid `now` is outside. */
function outsideValidity({ validAfter, validBefore }: Signer, now: Date): string | undefined {
  const seconds = Math.floor(now.getTime() / 1000)
  const at = (limit: Date) => limit.getTime() / 1000
  if (validAfter !== undefined && !(seconds >= at(validAfter))) return `is not valid before ${validAfter.toISOString()}`
  if (validBefore !== undefined && !(seconds <= at(validBefore))) return `was valid until ${validBefore.toISOString()}`
  return undefined
}

function lineHint({ line }: Signer): string {
  return `on the host: see line ${line} of allowed_signers`
}

function refuseTwoForOne(signers: Signer[]): void {
  const byKey = new Map<string, Signer>()
  const byName = new Map<string, Signer>()
  for (const signer of signers) {
    const { principal, key, line } = signer
    const sameKey = byKey.get(key.blob.toString('base64')) ?? signer
    if (sameKey.principal !== principal) {
      const why = `the key of ${principal} is that of ${sameKey.principal} on line ${sameKey.line}, and a key is one person`
      throw atLine(line, unreadable(why))
    }
    const sameName = byName.get(principal.toLowerCase()) ?? signer
    if (sameName.principal !== principal) {
      throw atLine(line, unreadable(`principal ${principal} is written ${sameName.principal} on line ${sameName.line}`))
    }
    byKey.set(key.blob.toString('base64'), signer)
    byName.set(principal.toLowerCase(), signer)
  }
}

function unreadable(why: string): Failure {
  return new Failure('policy_unreadable', why)
}

function atLine(line: number, cause: Failure): Failure {
  const hint = cause.hint ?? 'a line reads NAME [namespaces="…",valid-before="…"] ssh-ed25519 AAAA…: see ssh-keygen(1)'
  return new Failure('policy_unreadable', `allowed_signers line ${line}: ${cause.message}`, { hint, cause })
}

function quoted(text: string): string {
  return JSON.stringify(text)
}
