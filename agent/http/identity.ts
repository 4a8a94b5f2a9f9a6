import type { TLSSocket } from 'node:tls'
import { type Signer, signerOf } from '../../shared/allowed-signers.ts'
import { Failure, reasonOf } from '../../shared/failure.ts'
import {
  AUTHORIZATION_SCHEME,
  EXPORTER_BYTES,
  EXPORTER_LABEL,
  SESSION_NAMESPACE,
  sessionStatement,
} from '../../shared/session.ts'
import { fingerprintOf } from '../../shared/ssh-key.ts'
import { parseSignature, verifySignature } from '../../shared/sshsig.ts'
import type { Agent } from '../agent.ts'
import { readSigners } from '../state/signers.ts'

/** Who asks, proved for this connection. Roles per app come here later; today a known signer may deploy every app. */
export interface Identity {
  who: string
  /** Fingerprint of the key. */
  key: string
}

/**
 * The client signed what only the two ends of this TLS connection know, and our own pin: the signature is worth
 * nothing on another connection or to another agent, so there is nothing to replay or relay.
 */
export function identify(agent: Agent, socket: TLSSocket, authorization: string | undefined): Identity {
  if (authorization === undefined) {
    throw new Failure('authorization_missing', 'authorize request: it carries no Authorization header', {
      hint: `the client signs each connection: Authorization: ${AUTHORIZATION_SCHEME} <base64>`,
    })
  }
  const signature = parseAuthorization(authorization)
  const signer = signerOf(readSigners(agent.layout), signature.publicKey, {
    namespace: SESSION_NAMESPACE,
    now: new Date(),
  })
  const exporter = socket.exportKeyingMaterial(EXPORTER_BYTES, EXPORTER_LABEL, Buffer.alloc(0))
  try {
    verifySignature(signature, SESSION_NAMESPACE, sessionStatement(exporter, agent.pin))
  } catch (cause) {
    throw new Failure(
      'authorization_mismatch',
      `authorize ${signer.principal}: the signature is not over this connection: ${reasonOf(cause)}`,
      {
        hint: 'the key was not touched, or something between client and agent answers in its place',
        cause,
      },
    )
  }
  return { who: signer.principal, key: fingerprintOf(signature.publicKey) }
}

/** Of somebody who was let in a while ago: throws when these signers would not let them in now. */
export function refuseTakenOut({ who, key }: Identity, signers: readonly Signer[]): void {
  const blob = signers.find((signer) => fingerprintOf(signer.key.blob) === key)?.key.blob
  if (blob === undefined) {
    throw new Failure('signer_unknown', `authorize ${who}: the key ${key} was taken out of the signers meanwhile`)
  }
  signerOf(signers, blob, { namespace: SESSION_NAMESPACE, now: new Date() })
}

function parseAuthorization(header: string) {
  const [scheme, base64 = '', ...rest] = header.split(' ')
  const raw = Buffer.from(base64, 'base64')
  if (scheme !== AUTHORIZATION_SCHEME || rest.length > 0 || raw.length === 0 || raw.toString('base64') !== base64) {
    throw new Failure(
      'authorization_malformed',
      `authorize request: the Authorization header is not "${AUTHORIZATION_SCHEME} <base64>"`,
    )
  }
  try {
    return parseSignature(raw)
  } catch (cause) {
    // A key of a kind we do not take is told as such, with what to do; the rest is a damaged header.
    if (cause instanceof Failure && cause.code !== 'signature_malformed') throw cause
    throw new Failure('authorization_malformed', `authorize request: ${reasonOf(cause)}`, { cause })
  }
}
