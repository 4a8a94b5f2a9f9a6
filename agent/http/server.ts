import type { Server as HttpServer } from 'node:http'
import { createServer, type Server } from 'node:https'
import type { Socket } from 'node:net'
import { createAdaptorServer } from '@hono/node-server'
import { Failure, isErrno } from '../../shared/failure.ts'
import type { Agent } from '../agent.ts'
import { DEFAULTS } from '../config.ts'
import type { TlsIdentity } from '../state/tls.ts'
import type { Metrics } from '../watch/metrics.ts'
import { routesOf } from './routes.ts'

export interface Listening {
  host: string
  port: number
  /** Takes no new connection; resolves when the last one has ended. */
  close(): Promise<void>
  /** Ends those that are left. */
  cut(): void
}

export async function listen(agent: Agent, tls: TlsIdentity, metrics: Metrics): Promise<Listening> {
  const server = createAdaptorServer({
    fetch: routesOf(agent, metrics).fetch,
    createServer,
    serverOptions: {
      key: tls.key,
      cert: tls.cert,
      // The exporter that ties a signature to its connection is safe from 1.3 on.
      minVersion: 'TLSv1.3',
      ALPNProtocols: ['http/1.1'],
      // 0: a long upload is no slow client. Idle sockets are cut by the timeout below.
      requestTimeout: 0,
      headersTimeout: DEFAULTS.headersTimeoutMs,
      keepAliveTimeout: DEFAULTS.keepAliveTimeoutMs,
      maxHeaderSize: DEFAULTS.maxHeaderBytes,
    },
  }) as Server
  server.maxConnections = DEFAULTS.maxConnections
  cutIdleUploads(server)
  return listening(
    server,
    agent.config.listen,
    'is another agent running? choose another address with --listen HOST:PORT or listen in agent.toml',
  )
}

/** Throws `config_invalid` with the hint when the address cannot be had. */
export async function listening(
  server: HttpServer,
  { host, port }: { host: string; port: number },
  hint: string,
): Promise<Listening> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(listenFailure(error, { where: `${host}:${port}`, hint })))
    server.listen(port, host, resolve)
  })
  const address = server.address()
  return {
    host,
    port: typeof address === 'object' && address !== null ? address.port : port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeIdleConnections()
      }),
    cut: () => server.closeAllConnections(),
  }
}

/** A client that stopped sending in the middle of a request has gone, and must not keep an app busy for ever. */
function cutIdleUploads(server: Server): void {
  server.on('request', (request) => {
    const socket: Socket = request.socket
    const cut = () => {
      if (!request.complete) socket.destroy()
    }
    socket.setTimeout(DEFAULTS.idleTimeoutMs, cut)
    // Or each of the requests of a long connection would be held to its end.
    request.once('close', () => socket.off('timeout', cut))
  })
}

function listenFailure(error: Error, { where, hint }: { where: string; hint: string }): Error {
  if (!isErrno(error, 'EADDRINUSE', 'EACCES', 'EADDRNOTAVAIL')) return error
  return new Failure('config_invalid', `listen ${where}: ${error.message}`, {
    hint,
    cause: error,
  })
}
