// How a request is tied to its connection: the client signs what only the two ends of it know.

export const AUTHORIZATION_SCHEME = 'SSHSIG'
export const SESSION_NAMESPACE = 'tarmac-session'
/** TLS 1.3 exporter (RFC 8446 section 7.5) that ties a session signature to this connection and no other. */
export const EXPORTER_LABEL = 'EXPORTER-tarmac-session'
export const EXPORTER_BYTES = 32

/** What a session signature is over: the connection's exporter value, then the agent's pin as ASCII. */
export function sessionStatement(exporter: Uint8Array, pin: string): Buffer {
  return Buffer.concat([exporter, Buffer.from(pin, 'ascii')])
}
