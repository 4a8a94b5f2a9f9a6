import { createClient } from 'dbus-native'
import { Failure, reasonOf } from '../../shared/failure.ts'

// systemd over D-Bus: facts in one round trip, and every change of a service within milliseconds. Its API:
// org.freedesktop.systemd1(5).

const BUS_ADDRESS = 'unix:path=/run/dbus/system_bus_socket'
const SYSTEMD = 'org.freedesktop.systemd1'
const MANAGER_PATH = '/org/freedesktop/systemd1'
const UNIT_PATH = `${MANAGER_PATH}/unit/`
const MANAGER = `${SYSTEMD}.Manager`
const PROPERTIES = 'org.freedesktop.DBus.Properties'
/** An answer takes 1 ms; a daemon-reload, during which systemd answers nobody, takes up to seconds on a full host. */
const CALL_TIMEOUT_MS = 20_000
/** A restarted dbus-daemon is back in well under a second. */
const RECONNECT = { minDelay: 100, maxDelay: 2000 }
const RULES = [
  ...['Unit', 'Service'].map(
    (kind) =>
      `type='signal',sender='${SYSTEMD}',interface='${PROPERTIES}',member='PropertiesChanged',` +
      `arg0='${SYSTEMD}.${kind}',path_namespace='${MANAGER_PATH}/unit'`,
  ),
  // systemd leaves the bus and comes back when it re-executes itself; who subscribed must do so again.
  `type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='${SYSTEMD}'`,
]

/** D-Bus values as they came: 64-bit numbers are bigint. */
export type Properties = Record<string, unknown>

export interface BusListener {
  /** Changed properties of a unit's Unit or Service interface, in the order systemd sent them. */
  onChange: (unit: string, changed: Properties) => void
  /** Signals may have been missed: the bus or systemd went away and is back. */
  onGap: () => void
}

export interface SystemdBus {
  /** Major version of the running systemd. */
  version: number
  /** All properties of a unit at one moment; a unit that does not exist has LoadState "not-found". */
  properties: (unit: string) => Promise<Properties>
  close: () => Promise<void>
}

/** Throws `init_unsupported` when there is no system bus or no systemd on it. */
export async function connectSystemd(listener: BusListener): Promise<SystemdBus> {
  const bus = createClient({ busAddress: BUS_ADDRESS, reconnect: RECONNECT, timeout: CALL_TIMEOUT_MS })
  // Without a listener a lost connection would end the process. It is dialled again, and calls under way have failed.
  bus.connection.on('error', () => {})
  const call = (path: string, member: string, args: { iface: string; signature?: string; body?: unknown[] }) => {
    const { iface, ...rest } = args
    return bus.invoke({ destination: SYSTEMD, path, interface: iface, member, ...rest })
  }
  const subscribe = () =>
    call(MANAGER_PATH, 'Subscribe', { iface: MANAGER }).catch((error) => {
      if (!reasonOf(error).includes('AlreadySubscribed') && !String(error.dbusName).includes('AlreadySubscribed'))
        throw error
    })
  const resume = () => {
    // When this fails the bus or systemd is gone once more, and its return brings us here again.
    subscribe().then(listener.onGap, () => {})
  }
  bus.connection.on('message', ({ member, path, body }) => {
    if (member === 'NameOwnerChanged' && body?.[2] !== '') resume()
    if (member !== 'PropertiesChanged' || !path?.startsWith(UNIT_PATH)) return
    listener.onChange(unitOfPath(path), parseProperties(body?.[1]))
  })
  bus.on('reconnected', resume)
  bus.on('reconnectError', () => bus.connection.stream.destroy())
  try {
    for (const rule of RULES) await bus.addMatch(rule)
    await subscribe()
    const answer = await call(MANAGER_PATH, 'Get', { iface: PROPERTIES, signature: 'ss', body: [MANAGER, 'Version'] })
    return {
      version: Number.parseInt(String(answer), 10),
      // An empty interface name means all of them: one answer, so Unit and Service tell of the same moment.
      properties: async (unit) => {
        try {
          return parseProperties(
            await call(pathOfUnit(unit), 'GetAll', { iface: PROPERTIES, signature: 's', body: [''] }),
          )
        } catch (cause) {
          throw new Failure('program_failed', `ask systemd about ${unit}: ${reasonOf(cause)}`, { cause })
        }
      },
      close: () => bus.close(),
    }
  } catch (cause) {
    await bus.close()
    throw new Failure('init_unsupported', `connect to systemd by ${BUS_ADDRESS}: ${reasonOf(cause)}`, {
      hint: 'without systemd: tarmac-agent run --init embedded',
      cause,
    })
  }
}

// systemd writes every byte of a unit name but letters and digits as _xx, a digit in front too.
function pathOfUnit(name: string): string {
  const escaped = name.replace(/[^A-Za-z0-9]/g, (char) => `_${char.charCodeAt(0).toString(16).padStart(2, '0')}`)
  return `${UNIT_PATH}${escaped}`
}

function unitOfPath(path: string): string {
  return path
    .slice(UNIT_PATH.length)
    .replace(/_([0-9a-f]{2})/g, (_, hex) => String.fromCharCode(Number.parseInt(hex, 16)))
}

function parseProperties(value: unknown): Properties {
  return typeof value === 'object' && value !== null ? (value as Properties) : {}
}
