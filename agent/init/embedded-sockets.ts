import { mkdirSync, rmSync } from 'node:fs'
import * as net from 'node:net'
import { join } from 'node:path'
import { Failure } from '../../shared/failure.ts'
import { listenOn } from '../run.ts'
import type { Handover, PrivateSockets, ServiceKey, ServicePort, UnitKey } from './init-system.ts'

// The agent holds the listening sockets of its services and passes the descriptors to each process it starts, as
// systemd does with a socket unit. It never accepts: connections wait until a service does.

/** What Node's cluster uses to bind without listening; libuv begins to accept as soon as it listens itself. */
interface BoundHandle {
  fd: number
  close(): void
}
type Bind = (address: string | null, port: number, family: number) => BoundHandle | number

/** sockaddr_un(7): 108 bytes with the NUL. */
const MAX_SOCKET_PATH_BYTES = 107
const IPV4 = 4
const IPV6 = 6
const PIPE = -1

export interface Inherited {
  /** Descriptors as they are in the agent; a process finds them from 3 on, in this order. */
  fds: number[]
  /** LISTEN_FDNAMES of sd_listen_fds(3). */
  names: string[]
}

export function createSockets(dir: string) {
  const ports = new Map<string, { port: number; handle: BoundHandle }>()
  const privates = new Map<string, BoundHandle[]>()
  const held = new Set<string>()
  const keyOf = ({ app, service }: ServiceKey) => `${app}/${service}`
  const slotOf = ({ app, service, slot }: UnitKey) => `${app}/${service}@${slot}`

  function privateSockets(unit: UnitKey): PrivateSockets {
    const path = join(dir, `${unit.app}-${unit.service}@${unit.slot}`)
    return { probe: `${path}.probe`, control: `${path}.control` }
  }

  function closePort(service: ServiceKey): void {
    ports.get(keyOf(service))?.handle.close()
    ports.delete(keyOf(service))
  }

  return {
    privateSockets,
    closePort,
    async openPort(wanted: ServicePort): Promise<void> {
      const there = ports.get(keyOf(wanted))
      if (there?.port === wanted.port) return
      closePort(wanted)
      await refuseTaken(wanted.port)
      ports.set(keyOf(wanted), { port: wanted.port, handle: await openAll(wanted.port) })
    },
    openPorts: (app: string): ServicePort[] =>
      [...ports].flatMap(([key, { port }]) => {
        const [owner = '', service = ''] = key.split('/')
        return owner === app ? [{ app: owner, service, port } as ServicePort] : []
      }),
    hold: (unit: UnitKey) => void held.add(slotOf(unit)),
    unhold: (unit: UnitKey) => void held.delete(slotOf(unit)),
    isHeld: (unit: UnitKey) => held.has(slotOf(unit)),
    /** What a process of the unit inherits: the public socket, and for our preload the private ones, made anew. */
    async inheritedBy(unit: UnitKey, handover: Handover): Promise<Inherited> {
      if (handover.rehearsalPort !== undefined) {
        for (const handle of privates.get(slotOf(unit)) ?? []) handle.close()
        const handle = await listeningAt('127.0.0.1', handover.rehearsalPort, IPV4)
        privates.set(slotOf(unit), [handle])
        return { fds: [handle.fd], names: [`port-${handover.port}`] }
      }
      const open = ports.get(keyOf(unit))
      if (open === undefined)
        throw new Failure('program_failed', `start ${slotOf(unit)}: its port ${handover.port} is not open`)
      const inherited: Inherited = { fds: [open.handle.fd], names: [`port-${open.port}`] }
      if (handover.style === 'inherited') return inherited
      const { probe, control } = privateSockets(unit)
      for (const handle of privates.get(slotOf(unit)) ?? []) handle.close()
      mkdirSync(dir, { recursive: true, mode: 0o700 })
      const handles = [probe, control].map(bindPath)
      privates.set(slotOf(unit), handles)
      return {
        fds: [...inherited.fds, ...handles.map(({ fd }) => fd)],
        names: [...inherited.names, 'private', 'private'],
      }
    },
    close(): void {
      for (const { handle } of ports.values()) handle.close()
      for (const handle of [...privates.values()].flat()) handle.close()
    },
  }
}

/** libuv tells that a port is taken only when it listens, which is left to the services: so this is tried first. */
function refuseTaken(port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const server = net.createServer()
    server.once('error', (cause) =>
      reject(
        new Failure('program_failed', `open port ${port}: ${cause.message}`, {
          hint: `what has it now? ss -ltnp 'sport = :${port}'`,
          cause,
        }),
      ),
    )
    server.listen(port, () => server.close(() => resolve()))
  })
}

/** All addresses, IPv6 and IPv4 at once; a kernel without IPv6 gets IPv4 alone. */
async function openAll(port: number): Promise<BoundHandle> {
  return listeningAt('::', port, IPV6).catch(() => listeningAt('0.0.0.0', port, IPV4))
}

/** As init hands them over: connections wait from now on, and a server that only accepts finds a socket that listens. */
async function listeningAt(address: string, port: number, family: number): Promise<BoundHandle> {
  const handle = bind(address, port, family)
  if (typeof handle === 'number') {
    throw new Failure('program_failed', `open port ${port}: it cannot be bound (error ${handle})`, {
      hint: `what has it now? ss -ltnp 'sport = :${port}'`,
    })
  }
  await listenOn(handle.fd)
  return handle
}

function bindPath(path: string): BoundHandle {
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH_BYTES) {
    throw new Failure(
      'config_invalid',
      `open ${path}: longer than the ${MAX_SOCKET_PATH_BYTES} bytes of a socket's path`,
      {
        hint: 'choose a shorter --root',
      },
    )
  }
  rmSync(path, { force: true })
  const handle = bind(path, PIPE, PIPE)
  if (typeof handle !== 'number') return handle
  throw new Failure('program_failed', `open ${path}: it cannot be bound (error ${handle})`)
}

function bind(address: string, port: number, family: number): BoundHandle | number {
  const { _createServerHandle: createServerHandle } = net as unknown as { _createServerHandle: Bind }
  return createServerHandle(address, port, family)
}
