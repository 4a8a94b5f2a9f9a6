import { join } from 'node:path'
import type { Handover, PrivateSockets, ServiceKey, ServicePort, UnitKey } from './init-system.ts'

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

/** Lines that a slot's unit needs to be given its sockets. */
export function socketLines(unit: UnitKey, handover: Handover): { unit: string; service: string } {
  if (handover.rehearsalPort !== undefined) {
    const name = privateName(unit)
    return { unit: `Requires=${name}\nAfter=${name}`, service: `Sockets=${name}` }
  }
  const sockets = handover.style === 'preload' ? `${socketName(unit)} ${privateName(unit)}` : socketName(unit)
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

/** The socket unit of one slot alone; undefined for one that needs none. */
export function slotSocketText(unit: UnitKey, { port, style, rehearsalPort }: Handover): string | undefined {
  if (rehearsalPort !== undefined) {
    return slotText(unit, {
      what: 'where a release shows that it is well before it takes traffic',
      lines: `# By the name of the public socket, in whose place it stands.
ListenStream=127.0.0.1:${rehearsalPort}
FileDescriptorName=port-${port}`,
    })
  }
  if (style !== 'preload') return undefined
  const { probe, control } = privateSockets(unit)
  return slotText(unit, {
    what: 'private probe and control',
    lines: `# Two addresses of one unit keep their order: the first is the probe.
ListenStream=${probe}
ListenStream=${control}
FileDescriptorName=private
SocketMode=0600
DirectoryMode=0700
RemoveOnStop=yes`,
  })
}

function slotText({ app, service, slot }: UnitKey, { what, lines }: { what: string; lines: string }): string {
  return `${HEAD}
[Unit]
Description=${app} ${service}, slot ${slot}: ${what}
StopWhenUnneeded=yes

[Socket]
${lines}
Service=tarmac-${app}-${service}@${slot}.service
TriggerLimitIntervalSec=0
`
}
