import { join } from 'node:path'
import type { PrivateSockets, ServiceKey, ServicePort, UnitKey } from './init-system.ts'

// The sockets of a service whose traffic is handed over: one public socket that stays up through every switch, and per
// slot two private ones for probe and control. Pure.

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

export function givenUpFile({ app, service, slot }: UnitKey): string {
  return join(RUN_DIR, app, `${service}@${slot}.gave-up`)
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

export function socketText({ app, service, port }: ServicePort): string {
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

export function holdText({ app, service }: ServiceKey): string {
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
