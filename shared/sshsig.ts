import { createHash, verify } from 'node:crypto'
import { Failure } from './failure.ts'
import { fingerprintOf, openPublicKey, type VerifyingKey } from './ssh-key.ts'
import { canonicalBase64, MalformedError, SshReader, sshString, uint32 } from './ssh-wire.ts'

// Signatures as `ssh-keygen -Y sign` makes them: OpenSSH's PROTOCOL.sshsig, for FIDO keys with PROTOCOL.u2f.

const MAGIC = Buffer.from('SSHSIG')
const VERSION = 1
/** About ten times a FIDO signature, and small enough for an HTTP header of Node's 16 KiB in base64. */
const MAX_SIGNATURE_BYTES = 4096
/** The same in base64, with a line end every few characters at worst. */
const MAX_ARMOR_CHARS = 2 * MAX_SIGNATURE_BYTES
const ARMOR = /^-----BEGIN SSH SIGNATURE-----\r?\n((?:[A-Za-z0-9+/=]+\r?\n)+)-----END SSH SIGNATURE-----(?:\r?\n)?$/
/** The width ssh-keygen uses. */
const ARMOR_COLUMNS = 70
const USER_PRESENT = 0x01

/** Read, not yet verified. */
export interface SshSignature {
  /** The signer's claim, as a wire blob of a supported type: look it up among the known ones, never trust it. */
  publicKey: Buffer
  namespace: string
  hash: 'sha256' | 'sha512'
  /** Both curves: 64 bytes. For P-256, r and s of 32 bytes each. */
  value: Buffer
  /** What a FIDO device adds to what it signs; undefined for other keys. */
  device: { flags: number; counter: number } | undefined
}

/**
 * Reads a signature: a string is armored, bytes are raw. All structure is checked here, down to the curve point.
 * Throws signature_malformed, key_unsupported, or signature_mismatch when key and signature are of different types.
 */
export function parseSignature(armoredOrRaw: string | Uint8Array): SshSignature {
  const raw = typeof armoredOrRaw === 'string' ? rawOf(armoredOrRaw) : armoredOrRaw
  if (raw.length > MAX_SIGNATURE_BYTES) throw malformed(`${raw.length} bytes, at most ${MAX_SIGNATURE_BYTES} are read`)
  try {
    return readSignature(new SshReader(raw))
  } catch (error) {
    if (error instanceof MalformedError) throw malformed(error.message, error)
    throw error
  }
}

/** The bytes inside the armor, whose lines may be of any width and end in CRLF. Throws signature_malformed. */
export function rawOf(armored: string): Buffer {
  if (armored.length > MAX_ARMOR_CHARS) {
    throw malformed(`${armored.length} characters, at most ${MAX_ARMOR_CHARS} are read`)
  }
  const armor = ARMOR.exec(armored)
  if (armor === null) throw malformed('it is not one -----BEGIN SSH SIGNATURE----- block')
  const raw = canonicalBase64((armor[1] ?? '').replace(/\r?\n/g, ''))
  if (raw === undefined) throw malformed('its base64 is damaged or not canonical')
  return raw
}

/** The text ssh-keygen writes for these bytes. */
export function armorOf(raw: Uint8Array): string {
  const base64 = Buffer.from(raw).toString('base64')
  const lines = base64.match(new RegExp(`.{1,${ARMOR_COLUMNS}}`, 'g')) ?? []
  return ['-----BEGIN SSH SIGNATURE-----', ...lines, '-----END SSH SIGNATURE-----', ''].join('\n')
}

/** Returns when the key in the signature made it, over this message in this namespace. Throws signature_mismatch. */
export function verifySignature(signature: SshSignature, namespace: string, message: Uint8Array): void {
  const mismatch = (why: string) =>
    new Failure('signature_mismatch', `signature of key ${fingerprintOf(signature.publicKey)}: ${why}`)
  if (signature.namespace !== namespace) {
    throw mismatch(`made for namespace ${JSON.stringify(signature.namespace)}, not ${JSON.stringify(namespace)}`)
  }
  // ssh-keygen does not look at this flag: a device told not to wait for a touch would sign for whoever
  // got into its owner's machine.
  if (signature.device !== undefined && (signature.device.flags & USER_PRESENT) === 0) {
    throw mismatch('made by a FIDO device that nobody touched')
  }
  const key = openPublicKey(signature.publicKey)
  const statement = signedBytes(namespace, signature.hash, message)
  const signed = signature.device === undefined ? statement : deviceBytes(key, signature.device, statement)
  const isGenuine =
    key.curve === 'ed25519'
      ? verify(null, signed, key.key, signature.value)
      : verify('sha256', signed, { key: key.key, dsaEncoding: 'ieee-p1363' }, signature.value)
  if (!isGenuine) throw mismatch('it does not fit the message')
}

/** What the key signs: the message's digest together with the namespace, so that no signature serves two purposes. */
export function signedBytes(namespace: string, hash: 'sha256' | 'sha512', message: Uint8Array): Buffer {
  const digest = createHash(hash).update(message).digest()
  return Buffer.concat([MAGIC, sshString(namespace), sshString(''), sshString(hash), sshString(digest)])
}

function readSignature(reader: SshReader): SshSignature {
  if (!reader.take(MAGIC.length).equals(MAGIC)) throw new MalformedError('it does not begin with SSHSIG')
  const version = reader.uint32()
  if (version !== VERSION) throw new MalformedError(`version ${version}, not ${VERSION}`)
  const blob = reader.string()
  const namespace = reader.name()
  if (reader.string().length > 0) throw new MalformedError('the reserved field is not empty')
  const hash = reader.name()
  if (hash !== 'sha256' && hash !== 'sha512') throw new MalformedError(`hash ${JSON.stringify(hash)} is unknown`)
  const inner = reader.string()
  reader.end()
  const key = openPublicKey(blob)
  // A copy, so that a signature kept does not keep the request buffer it was read from.
  return { publicKey: Buffer.from(blob), namespace, hash, ...readValue(key, inner) }
}

function readValue(key: VerifyingKey, inner: Buffer): Pick<SshSignature, 'value' | 'device'> {
  const reader = new SshReader(inner)
  const type = reader.name()
  if (type !== key.type) {
    throw new Failure(
      'signature_mismatch',
      `signature: a ${JSON.stringify(type)} signature by a key of type ${key.type}`,
    )
  }
  const value = key.curve === 'ed25519' ? ed25519Value(reader.string()) : p256Value(reader.string())
  const device = key.application === undefined ? undefined : { flags: reader.byte(), counter: reader.uint32() }
  reader.end()
  return { value, device }
}

function ed25519Value(bytes: Buffer): Buffer {
  if (bytes.length !== 64) throw new MalformedError(`an ed25519 signature has ${bytes.length} bytes, not 64`)
  return Buffer.from(bytes)
}

function p256Value(bytes: Buffer): Buffer {
  const reader = new SshReader(bytes)
  const value = Buffer.concat([reader.mpint(32), reader.mpint(32)])
  reader.end()
  return value
}

/** PROTOCOL.u2f: a FIDO device signs digests, with its flags and its counter between them. */
function deviceBytes(key: VerifyingKey, device: { flags: number; counter: number }, statement: Buffer): Buffer {
  const sha256 = (data: Uint8Array) => createHash('sha256').update(data).digest()
  return Buffer.concat([
    sha256(key.application ?? Buffer.alloc(0)),
    Buffer.from([device.flags]),
    uint32(device.counter),
    sha256(statement),
  ])
}

function malformed(why: string, cause?: unknown): Failure {
  return new Failure('signature_malformed', `signature: ${why}`, {
    hint: 'make one with `ssh-keygen -Y sign`',
    cause,
  })
}
