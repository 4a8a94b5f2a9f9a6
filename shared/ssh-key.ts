import { createHash, createPublicKey, type JsonWebKeyInput, type KeyObject } from 'node:crypto'
import { Failure } from './failure.ts'
import { canonicalBase64, MalformedError, SshReader } from './ssh-wire.ts'

// RSA is left out: it brings two hash names and a padding to be wrong about, and everyone can make an ed25519 key.
// The sk- types are FIDO keys (OpenSSH's PROTOCOL.u2f): their signatures say whether someone touched the device.
const KEY_TYPES = {
  'ssh-ed25519': { curve: 'ed25519', fido: false },
  'ecdsa-sha2-nistp256': { curve: 'nistp256', fido: false },
  'sk-ssh-ed25519@openssh.com': { curve: 'ed25519', fido: true },
  'sk-ecdsa-sha2-nistp256@openssh.com': { curve: 'nistp256', fido: true },
} as const

const ED25519_BYTES = 32
const P256_COORDINATE_BYTES = 32
/** SEC 1: a point whose two coordinates follow. The compressed forms never occur in SSH (RFC 5656 section 3.1). */
const UNCOMPRESSED_POINT = 4
/** About ten times the longest line of a FIDO key. */
const MAX_LINE_CHARS = 4096

export type KeyType = keyof typeof KEY_TYPES

/** `blob` is the key in SSH's wire form: what stands in base64 in a .pub file, and what names the key. */
export interface PublicKey {
  type: KeyType
  blob: Buffer
  comment: string
}

/** A key opened for verifying. */
export interface VerifyingKey {
  type: KeyType
  curve: 'ed25519' | 'nistp256'
  key: KeyObject
  /** Only FIDO keys have one, such as `ssh:`. It is part of what the device signs. */
  application: Buffer | undefined
}

/**
 * Reads one line of a .pub file: `ssh-ed25519 AAAA… comment`. The line is never quoted in a message, since it may
 * be a private key pasted by mistake. Throws key_unsupported.
 */
export function parsePublicKey(line: string): PublicKey {
  const fields = line.length > MAX_LINE_CHARS ? null : /^(\S+)[ \t]+(\S+)(?:[ \t]+(\P{Cc}*))?$/u.exec(line.trim())
  const [, outerType = '', base64 = '', comment = ''] = fields ?? []
  if (fields === null) throw unusable('it is not one line of the form `type base64 comment`')
  if (!isKeyType(outerType)) throw unsupportedType(outerType)
  const blob = canonicalBase64(base64)
  if (blob === undefined) throw unusable('its base64 is damaged or not canonical')
  try {
    const { type } = openPublicKey(blob)
    if (type !== outerType) throw new MalformedError(`it says ${outerType} outside and ${type} inside`)
    return { type, blob, comment: comment.trim() }
  } catch (error) {
    if (error instanceof MalformedError) throw unusable(error.message, error)
    throw error
  }
}

/** Throws key_unsupported for a type that is not ours and MalformedError for a blob that is no key of its type. */
export function openPublicKey(blob: Uint8Array): VerifyingKey {
  const reader = new SshReader(blob)
  const type = reader.name()
  if (!isKeyType(type)) throw unsupportedType(type)
  const { curve, fido } = KEY_TYPES[type]
  const key = curve === 'ed25519' ? ed25519Key(reader) : p256Key(reader)
  const application = fido ? reader.string() : undefined
  reader.end()
  return { type, curve, key, application }
}

/** The line of a .pub file, without a comment. */
export function publicLineOf(key: PublicKey): string {
  return `${key.type} ${key.blob.toString('base64')}`
}

/** `SHA256:…` as `ssh-keygen -l` prints it: base64 without padding. */
export function fingerprintOf(blob: Uint8Array): string {
  return `SHA256:${createHash('sha256').update(blob).digest('base64').replace(/=+$/, '')}`
}

function isKeyType(text: string): text is KeyType {
  return Object.hasOwn(KEY_TYPES, text)
}

function ed25519Key(reader: SshReader): KeyObject {
  const point = reader.string()
  if (point.length !== ED25519_BYTES) throw new MalformedError(`an ed25519 point has ${point.length} bytes, not 32`)
  return importKey({ kty: 'OKP', crv: 'Ed25519', x: point.toString('base64url') })
}

function p256Key(reader: SshReader): KeyObject {
  const curve = reader.name()
  if (curve !== 'nistp256') throw new MalformedError(`a P-256 key names the curve ${JSON.stringify(curve)}`)
  const point = reader.string()
  if (point.length !== 1 + 2 * P256_COORDINATE_BYTES || point[0] !== UNCOMPRESSED_POINT) {
    throw new MalformedError('a P-256 point is not in uncompressed form')
  }
  const x = point.subarray(1, 1 + P256_COORDINATE_BYTES).toString('base64url')
  const y = point.subarray(1 + P256_COORDINATE_BYTES).toString('base64url')
  return importKey({ kty: 'EC', crv: 'P-256', x, y })
}

function importKey(jwk: JsonWebKeyInput['key']): KeyObject {
  try {
    return createPublicKey({ key: jwk, format: 'jwk' })
  } catch (cause) {
    // Lengths were checked, so what is left for OpenSSL to say is that the point lies off the curve.
    throw new MalformedError('the point is not on its curve', { cause })
  }
}

function unsupportedType(type: string): Failure {
  // Only what has the form of a type is quoted: anything else may be a piece of a private key.
  const shown = /^[a-z][a-z0-9.@-]{0,63}$/.test(type) ? `type ${JSON.stringify(type)}` : 'what stands for its type'
  return unusable(`${shown} is not one of ${Object.keys(KEY_TYPES).join(', ')}`)
}

function unusable(why: string, cause?: unknown): Failure {
  return new Failure('key_unsupported', `public key: ${why}`, { hint: 'make one with `ssh-keygen -t ed25519`', cause })
}
