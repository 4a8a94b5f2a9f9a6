import { mkdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Failure } from '../../shared/failure.ts'
import type { AppName, ServiceName } from '../../shared/names.ts'
import { removeTree, writeWhole } from '../state/disk.ts'
import type { PrivateSockets, ServiceKey, ServicePort, UnitKey } from './init-system.ts'
import { readIfThere } from './systemd-files.ts'

// The sockets of a service whose traffic is handed over: one public socket that stays up through every switch, and per
// slot two private ones for probe and control. Texts are pure; `createPorts` puts them in place.

/** PID 1 reads it as root at every start, so the sandboxed app need not see it; empty after a boot, so then all is open. */
const RUN_DIR = '/run/tarmac'
const HEAD = '# Managed by tarmac: written anew by every push, so changes made here are lost.'

export function socketName({ app, service }: ServiceKey): string {
  return `tarmac-${app}-${service}.socket`
}

/** What the socket starts while nothing of the app runs: it does nothing, and so connections wait in the queue. */
export function holdName({ app, service }: ServiceKey): string {
  return `tarmac-${app}-${service}.service`
}

export function privateName({ app, service, slot }: UnitKey): string {
  return `tarmac-${app}-${service}@${slot}.socket`
}

export function privateSockets({ app, service, slot }: UnitKey): PrivateSockets {
  const path = join(RUN_DIR, app, `${service}@${slot}`)
  return { probe: `${path}.probe`, control: `${path}.control` }
}

export function holdFile({ app, service, slot }: UnitKey): string {
  return join(RUN_DIR, app, `${service}@${slot}.hold`)
}

/** Lines that a slot's unit needs to be given both sockets. */
export function socketLines(unit: UnitKey, { isPrivate }: { isPrivate: boolean }): { unit: string; service: string } {
  const sockets = isPrivate ? `${socketName(unit)} ${privateName(unit)}` : socketName(unit)
  return {
    // Requires: a start without the descriptor would only fail in a way nobody understands.
    unit: `Requires=${socketName(unit)}\nAfter=${socketName(unit)}`,
    service: `Sockets=${sockets}\nEnvironmentFile=-${holdFile(unit)}`,
  }
}

function socketText({ app, service, port }: ServicePort): string {
  return `${HEAD}
[Unit]
Description=${app} ${service}, port ${port}: stays open through every switch

[Socket]
# All addresses, IPv6 and IPv4; PID 1 binds, so a port below 1024 needs no capability.
ListenStream=${port}
FileDescriptorName=port-${port}
Service=${holdName({ app, service })}
# So that the socket can be opened again while a release still holds the one that was lost with a start limit.
ReusePort=yes
NoDelay=yes
# Traffic while nothing runs would otherwise fail the socket for ever (systemd issue 15633).
TriggerLimitIntervalSec=0

[Install]
WantedBy=sockets.target

[X-Tarmac]
App=${app}
Service=${service}
Port=${port}
`
}

function holdText({ app, service }: ServiceKey): string {
  return `${HEAD}
[Unit]
Description=${app} ${service}: while no release runs, connections wait
PartOf=${socketName({ app, service })}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
`
}

export function privateText(unit: UnitKey): string {
  const { probe, control } = privateSockets(unit)
  return `${HEAD}
[Unit]
Description=${unit.app} ${unit.service}, slot ${unit.slot}: private probe and control
StopWhenUnneeded=yes

[Socket]
# Two addresses of one unit keep their order: the first is the probe.
ListenStream=${probe}
ListenStream=${control}
FileDescriptorName=private
SocketMode=0600
DirectoryMode=0700
RemoveOnStop=yes
Service=tarmac-${unit.app}-${unit.service}@${unit.slot}.service
TriggerLimitIntervalSec=0
`
}

export interface PortParts {
  unitDir: string
  systemctl(args: string[], options?: { okExits?: number[] }): Promise<{ stdout: string }>
}

const OK_OR_NOTHING_TO_DO = [0, 1, 3, 4, 5]

export function createPorts({ unitDir, systemctl }: PortParts) {
  const fileOf = (unit: string) => join(unitDir, unit)
  const isActive = async (unit: string) =>
    (await systemctl(['is-active', unit], { okExits: OK_OR_NOTHING_TO_DO })).stdout.trim() === 'active'
  return {
    async openPort(port: ServicePort): Promise<void> {
      const socket = socketName(port)
      const text = socketText(port)
      const before = readIfThere(fileOf(socket))
      if (before !== undefined && !before.includes(`\nApp=${port.app}\nService=${port.service}\n`)) {
        throw new Failure('app_mismatch', `open port ${port.port}: ${fileOf(socket)} belongs to another app`, {
          hint: 'choose another name for the service',
        })
      }
      if (before === text && (await isActive(socket))) return
      await writeWhole(fileOf(holdName(port)), holdText(port), { mode: 0o644 })
      await writeWhole(fileOf(socket), text, { mode: 0o644 })
      await systemctl(['daemon-reload'])
      await systemctl(['reset-failed', socket, holdName(port)], { okExits: OK_OR_NOTHING_TO_DO })
      try {
        await systemctl(['restart', socket])
      } catch (cause) {
        throw new Failure(
          'program_failed',
          `open port ${port.port} of ${port.app} ${port.service}: systemd could not bind it`,
          {
            hint: `what has it now? ss -ltnp 'sport = :${port.port}'`,
            cause,
          },
        )
      }
      await systemctl(['enable', '--no-reload', '--quiet', socket])
    },
    async closePort(key: ServiceKey): Promise<void> {
      const socket = socketName(key)
      if (readIfThere(fileOf(socket)) === undefined) return
      await systemctl(['disable', '--no-reload', '--quiet', socket])
      await systemctl(['stop', socket, holdName(key)], { okExits: OK_OR_NOTHING_TO_DO })
      for (const unit of [socket, holdName(key)]) await removeTree(fileOf(unit))
      await systemctl(['daemon-reload'])
    },
    openPorts(app: AppName, units: string[]): ServicePort[] {
      return units.flatMap((name) => {
        const text = name.endsWith('.socket') && !name.includes('@') ? readIfThere(fileOf(name)) : undefined
        const [, owner, service, port] = /\n\[X-Tarmac\]\nApp=(.*)\nService=(.*)\nPort=(\d+)\n/.exec(text ?? '') ?? []
        return owner === app && service !== undefined
          ? [{ app, service: service as ServiceName, port: Number(port) }]
          : []
      })
    },
    async hold(unit: UnitKey): Promise<void> {
      await mkdir(dirname(holdFile(unit)), { recursive: true, mode: 0o700 })
      await writeWhole(holdFile(unit), 'TARMAC_HOLD=1\n', { mode: 0o600 })
    },
    unhold: (unit: UnitKey) => removeTree(holdFile(unit)),
    privateSockets,
  }
}
