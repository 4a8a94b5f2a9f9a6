import { createHash } from 'node:crypto'
import { type TLSSocket, connect as tlsConnect } from 'node:tls'
import type { Dispatcher } from 'undici'
import { Failure, failureFrom, reasonOf } from '../shared/failure.ts'
import { AUTHORIZATION_SCHEME, EXPORTER_BYTES, EXPORTER_LABEL, sessionStatement } from '../shared/session.ts'
import { rawOf } from '../shared/sshsig.ts'
import type { Host } from './config.ts'
import type * as Http from './http.ts'

/** A host in the same building answers in milliseconds; one that needs longer than this is not there. */
const CONNECT_TIMEOUT_MS = 10_000
/** The agent sends a line at least every 4 s while it works. */
const SILENCE_TIMEOUT_MS = 60_000
/** Between two requests of one command a big tree may be read. */
const KEEP_ALIVE_MS = 110_000

export interface Trust {
  /** The pin to expect, or what to do when none is known: ask a person, or throw `pin_unknown`. */
  pinOf(host: Host, seen: string): Promise<string>
  /** Signs the session statement; gives the armored signature. */
  signSession(statement: Buffer): Promise<string>
}

/** One authenticated connection: a command opens one per host, and closes it. */
export interface Connection {
  readonly host: Host
  readonly pin: string
  /** From here to there and back, by the quicker of two exchanges: what this process does besides can hold up one. */
  readonly roundTripMs: number
  /** As far as is known here. */
  readonly isOpen: boolean
  /** Throws the agent's own refusal, or `connection_lost`. */
  request(
    method: 'GET' | 'POST',
    path: string,
    body?: Dispatcher.DispatchOptions['body'],
    headers?: Record<string, string>,
  ): Promise<Dispatcher.ResponseData>
  close(): void
}

/** Opens the connection, checks the pin before the first byte of HTTP, and signs what only the two ends know. */
export async function openConnection(host: Host, trust: Trust): Promise<Connection> {
  const { socket, roundTripMs } = await openSocket(host)
  try {
    const pin = pinOf(socket)
    const expected = await trust.pinOf(host, pin)
    if (expected !== pin) {
      throw new Failure(
        'pin_mismatch',
        `connect ${host.url}: the agent there has the key ${pin}, not the trusted ${expected}`,
        {
          hint: `was the agent set up anew? compare with what tarmac-agent init prints on the host, then: tarmac trust ${host.url} --pin PIN`,
        },
      )
    }
    const exporter = socket.exportKeyingMaterial(EXPORTER_BYTES, EXPORTER_LABEL, Buffer.alloc(0))
    // What takes longest to load is loaded while another program signs.
    const [armored, http] = await Promise.all([trust.signSession(sessionStatement(exporter, pin)), import('./http.ts')])
    const authorization = `${AUTHORIZATION_SCHEME} ${rawOf(armored).toString('base64')}`
    return overSocket(host, { socket, roundTripMs, pin, authorization, http })
  } catch (error) {
    socket.destroy()
    throw error
  }
}

function overSocket(
  host: Host,
  parts: { socket: TLSSocket; roundTripMs: number; pin: string; authorization: string; http: typeof Http },
): Connection {
  const { socket, roundTripMs, pin, authorization, http } = parts
  let used = false
  const client = new http.Client(host.url, {
    // Uploads over HTTP/2 were 200 times slower at 50 ms round trip.
    allowH2: false,
    pipelining: 1,
    // A hung agent must not hang the client. It does not run while a request is still being sent.
    headersTimeout: SILENCE_TIMEOUT_MS,
    bodyTimeout: SILENCE_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
    keepAliveMaxTimeout: KEEP_ALIVE_MS,
    connect: (_options, callback) => {
      // The signature is worth nothing on another connection: there is no second one.
      const first = !used
      used = true
      // Later, not now: undici misses a socket that it is given before its own connect() has returned, and waits.
      setImmediate(() =>
        first ? callback(null, socket) : callback(lost(host, 'the agent closed the connection'), null),
      )
    },
  })
  return {
    host,
    pin,
    roundTripMs,
    get isOpen() {
      return socket.readable && socket.writable
    },
    async request(method, path, body, headers) {
      const answer = await http
        .request(client, {
          method,
          path,
          headers: { authorization, ...headers },
          ...(body === undefined ? {} : { body }),
        })
        .catch((cause) => {
          throw cause instanceof Failure ? cause : lost(host, reasonOf(cause), cause)
        })
      if (answer.statusCode === 200) return answer
      const text = await answer.body.text().catch(() => '')
      throw failureFrom(parsed(text, answer.statusCode))
    },
    close() {
      // The client knows nothing of a socket that no request was sent over.
      socket.destroy()
      client.destroy().catch(() => {})
    },
  }
}

function parsed(text: string, status: number): unknown {
  try {
    return JSON.parse(text)
  } catch {
    // Something that is no agent answered; its status is all there is to say.
    return { message: `answered ${status} with ${text.length} bytes that are no JSON` }
  }
}

export function lost(host: Host, why: string, cause?: unknown): Failure {
  return new Failure('connection_lost', `talk to ${host.url}: ${why}`, {
    hint: 'what was begun goes on without you; see how it ended: tarmac deploys',
    cause,
  })
}

function openSocket(host: Host): Promise<{ socket: TLSSocket; roundTripMs: number }> {
  const { hostname, port } = new URL(host.url)
  const bare = hostname.replace(/^\[|\]$/g, '')
  return new Promise((resolve, reject) => {
    const socket = tlsConnect({
      host: bare,
      port: Number(port === '' ? 443 : port),
      minVersion: 'TLSv1.3',
      ALPNProtocols: ['http/1.1'],
      // The pin decides, not a name or a date. With `false` checkServerIdentity is never called: we compare ourselves.
      rejectUnauthorized: false,
      // Nor does any authority: to read those of NODE_EXTRA_CA_CERTS takes 6 ms.
      ca: [],
    })
    const timer = setTimeout(
      () => socket.destroy(new Error(`no answer within ${CONNECT_TIMEOUT_MS / 1000} s`)),
      CONNECT_TIMEOUT_MS,
    )
    const fail = (cause: Error) => {
      clearTimeout(timer)
      reject(unreachable(host, cause))
    }
    socket.once('error', fail)
    let began = performance.now()
    let roundTripMs = Number.POSITIVE_INFINITY
    const exchanged = () => {
      roundTripMs = Math.min(roundTripMs, performance.now() - began)
      began = performance.now()
    }
    // Of a name; an address needs none.
    socket.once('lookup', () => {
      began = performance.now()
    })
    socket.once('connect', exchanged)
    socket.once('secureConnect', () => {
      exchanged()
      clearTimeout(timer)
      socket.off('error', fail)
      // While a person touches a key nobody else listens: a reset then shows at the first request.
      socket.on('error', () => {})
      resolve({ socket: socket.setNoDelay(true), roundTripMs })
    })
  })
}

function unreachable(host: Host, cause: Error): Failure {
  const reason = cause.message === '' && 'code' in cause ? String(cause.code) : cause.message
  return new Failure('agent_unreachable', `connect ${host.url}: ${reason}`, {
    hint: 'is the agent running? on the host: systemctl status tarmac-agent',
    cause,
  })
}

function pinOf(socket: TLSSocket): string {
  const certificate = socket.getPeerX509Certificate()
  if (!certificate) throw new Failure('pin_mismatch', 'connect: the other side showed no certificate')
  const spki = certificate.publicKey.export({ type: 'spki', format: 'der' })
  return `sha256//${createHash('sha256').update(spki).digest('base64')}`
}
