import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls'
import { EXPORTER_BYTES, EXPORTER_LABEL, SESSION_NAMESPACE, sessionStatement } from '../../shared/session.ts'
import type { HandKey } from './ssh.ts'

// A client without manners: it speaks TLS and then whatever bytes it likes. Nothing is checked here, so that all that
// is refused was refused by the agent.

export interface RawAnswer {
  status: number
  headers: Record<string, string>
  body: string
  /** Of the refusal in the body. */
  code: string | undefined
  /** Of an answer in lines. */
  lines: Record<string, unknown>[]
}

export interface RawRequest {
  method?: string
  target: string
  /** In this order and spelling, as often as they stand here. Host and Authorization come before them. */
  headers?: [string, string][]
  /** `null`: none is sent. */
  host?: string | null
  authorization?: string | null
  /** Sent with its length; an iterable in chunks. */
  body?: Uint8Array | AsyncIterable<Uint8Array>
}

export interface RawConnection {
  socket: TLSSocket
  /** What only the two ends of this connection know. */
  exporter: Buffer
  /** The header a client with this key would send here; `pin` and `exporter` for those that lie. */
  authorization(key: HandKey, lie?: { pin?: string; exporter?: Buffer; namespace?: string }): string
  /** One request, one answer; rejects when the connection ends before the answer does. */
  request(request: RawRequest): Promise<RawAnswer>
  /** Any bytes. */
  write(bytes: string | Uint8Array): void
  answer(): Promise<RawAnswer>
  /** Resolves when the other side has closed. */
  closed: Promise<void>
  close(): void
}

export function rawConnect(
  agent: { url: string; pin: string },
  options: ConnectionOptions = {},
): Promise<RawConnection> {
  const { hostname, port } = new URL(agent.url)
  return new Promise((resolve, reject) => {
    const socket = connect({ host: hostname, port: Number(port), rejectUnauthorized: false, ...options })
    socket.once('error', reject)
    socket.once('secureConnect', () => resolve(connectionOver(socket, agent.pin)))
  })
}

/** Opens, asks as `key` (or as nobody), and closes. */
export async function rawRequest(
  agent: { url: string; pin: string },
  key: HandKey | undefined,
  request: RawRequest,
): Promise<RawAnswer> {
  const connection = await rawConnect(agent)
  try {
    const authorization = key === undefined ? null : connection.authorization(key)
    return await connection.request({ authorization, ...request })
  } finally {
    connection.close()
  }
}

function connectionOver(socket: TLSSocket, pin: string): RawConnection {
  const exporter = socket.exportKeyingMaterial(EXPORTER_BYTES, EXPORTER_LABEL, Buffer.alloc(0))
  const reader = readerOf(socket)
  const write = (bytes: string | Uint8Array) => void socket.write(bytes)
  return {
    socket,
    exporter,
    authorization: (key, lie = {}) => authorizationOf(key, { exporter, pin, ...lie }),
    async request(request) {
      const { method = 'GET', target, headers = [], body, host = 'agent', authorization = null } = request
      const length: [string, string][] =
        body === undefined
          ? []
          : [body instanceof Uint8Array ? ['Content-Length', String(body.length)] : ['Transfer-Encoding', 'chunked']]
      const first: [string, string | null][] = [
        ['Host', host],
        ['Authorization', authorization],
      ]
      const sent = [...first.filter(([, value]) => value !== null), ...length, ...headers]
      write(`${method} ${target} HTTP/1.1\r\n${sent.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`)
      // Not waited for: a refusal may come before all is sent, and then the rest has no reader.
      if (body instanceof Uint8Array) write(body)
      else if (body !== undefined) sendChunks(socket, body).catch((error: Error) => socket.destroy(error))
      return answerFrom(reader, method)
    },
    write,
    answer: () => answerFrom(reader, 'GET'),
    closed: new Promise((resolve) => {
      socket.once('close', () => resolve())
    }),
    close: () => socket.destroy(),
  }
}

export function authorizationOf(key: HandKey, over: { exporter: Buffer; pin: string; namespace?: string }): string {
  const { exporter, pin, namespace = SESSION_NAMESPACE } = over
  return `SSHSIG ${key.sign({ namespace, message: sessionStatement(exporter, pin) }).toString('base64')}`
}

async function sendChunks(socket: TLSSocket, body: AsyncIterable<Uint8Array>): Promise<void> {
  for await (const chunk of body) {
    if (socket.destroyed) return
    socket.write(`${chunk.length.toString(16)}\r\n`)
    socket.write(chunk)
    if (!socket.write('\r\n') && !socket.destroyed) {
      await new Promise<void>((resolve) => {
        socket.once('drain', resolve)
        socket.once('close', () => resolve())
      })
    }
  }
  socket.write('0\r\n\r\n')
}

interface Reader {
  until(mark: string): Promise<string>
  exactly(bytes: number): Promise<Buffer>
  rest(): Promise<Buffer>
}

function readerOf(socket: TLSSocket): Reader {
  let held = Buffer.alloc(0)
  let ended: Error | undefined
  let wake = () => {}
  socket.on('data', (chunk: Buffer) => {
    held = Buffer.concat([held, chunk])
    wake()
  })
  const end = (error?: Error) => {
    ended ??= error ?? new Error('the agent closed the connection')
    wake()
  }
  socket.on('error', end)
  socket.on('end', () => end())
  socket.on('close', () => end())
  const more = () =>
    new Promise<void>((resolve) => {
      wake = resolve
      if (ended) resolve()
    })
  const take = (bytes: number) => {
    const taken = held.subarray(0, bytes)
    held = held.subarray(bytes)
    return taken
  }
  return {
    async until(mark) {
      for (;;) {
        const at = held.indexOf(mark)
        if (at >= 0) return take(at + mark.length).toString('latin1')
        if (ended) throw ended
        await more()
      }
    },
    async exactly(bytes) {
      while (held.length < bytes) {
        if (ended) throw ended
        await more()
      }
      return take(bytes)
    },
    async rest() {
      while (!ended) await more()
      return take(held.length)
    },
  }
}

async function answerFrom(reader: Reader, method: string): Promise<RawAnswer> {
  const [statusLine = '', ...fields] = (await reader.until('\r\n\r\n')).trimEnd().split('\r\n')
  const status = Number(statusLine.split(' ')[1])
  if (status === 100) return answerFrom(reader, method)
  const headers = Object.fromEntries(
    fields.map((field) => [
      field.slice(0, field.indexOf(':')).toLowerCase(),
      field.slice(field.indexOf(':') + 1).trim(),
    ]),
  )
  const body = method === 'HEAD' || status === 204 ? '' : (await bodyFrom(reader, headers)).toString()
  return { status, headers, body, code: codeIn(body), lines: linesIn(body) }
}

async function bodyFrom(reader: Reader, headers: Record<string, string>): Promise<Buffer> {
  const length = headers['content-length']
  if (length !== undefined) return reader.exactly(Number(length))
  if (headers['transfer-encoding'] !== 'chunked') return reader.rest()
  const parts: Buffer[] = []
  for (;;) {
    const size = Number.parseInt(await reader.until('\r\n'), 16)
    parts.push(await reader.exactly(size))
    await reader.until('\r\n')
    if (size === 0) return Buffer.concat(parts)
  }
}

function codeIn(body: string): string | undefined {
  try {
    const { code } = JSON.parse(body) as { code?: unknown }
    return typeof code === 'string' ? code : undefined
  } catch {
    // Lines, or no JSON at all.
    return undefined
  }
}

function linesIn(body: string): Record<string, unknown>[] {
  try {
    const lines = body.split('\n').filter((line) => line !== '')
    return lines.map((line) => JSON.parse(line) as Record<string, unknown>)
  } catch {
    return []
  }
}
