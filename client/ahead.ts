import { setImmediate as turn } from 'node:timers/promises'
import { Failure } from '../shared/failure.ts'
import type { AppName, Sha256 } from '../shared/names.ts'
import { type KnownAnswer, ROOM_PER_OBJECT } from '../shared/wire.ts'
import * as api from './api.ts'
import type { Host } from './config.ts'
import type { Connection } from './connection.ts'
import { type Context, connectTo, type Signing } from './context.ts'
import { openPins } from './pins.ts'
import { openReferences, type Reference } from './references.ts'

// The first host of a push is asked what runs there before the files are looked at, so that it looks through its own
// meanwhile. Its answer is passed over: asked again afterwards, it answers at once, and what is true then.

/** The agent closes a connection on which nothing came for 120 s. */
const CONNECTION_MS = 100_000
/** An agent that was not there so long ago is tried anew: it may have been restarting. */
const UNREACHABLE_MS = 2_000
/** Until the question is on its way; then this process has no time for it. */
const TURNS_TO_SEND = 4
/** Until it is known that the agent has closed the connection, while this process had no time for it. */
const TURNS_TO_HEAR = 2

export interface Ahead {
  /**
   * Gives the connection away: whoever takes it closes it. Undefined for another host, or when it is of no use any more.
   * Throws why it could not be opened.
   */
  take(host: Host): Promise<Connection | undefined>
  /** What it was asked on this connection with; undefined for another one. */
  askedOn(connection: Connection): { kept: Reference | undefined } | undefined
  /** Does nothing once the connection was taken. */
  close(): void
}

/**
 * Connects to the host and asks. Never throws: why it failed is told to who takes the connection. Undefined for a host
 * that is not trusted yet, since then a person is asked.
 */
export async function askAhead(
  context: Context,
  { host, app, signing }: { host: Host; app: AppName; signing: Signing },
): Promise<Ahead | undefined> {
  if (!isTrusted(context, host)) return undefined
  const opening = connectTo(context, host, signing)
  let failure: unknown
  const connection = await opening.catch((error: unknown) => {
    failure = error
  })
  const endedAt = performance.now()
  const kept = connection ? keptOf(context, connection, app) : undefined
  const asked = connection && api.known(connection, app, { reference: kept?.digest, again: false }).catch(() => {})
  await untilSent()
  let isTaken = false
  return {
    async take(other) {
      if (other.url !== host.url || isTaken) return undefined
      const age = performance.now() - endedAt
      // One that said no would say it again, and a person would be asked again.
      const mayBeBack = failure instanceof Failure && failure.code === 'agent_unreachable' && age > UNREACHABLE_MS
      if (!connection) return mayBeBack ? undefined : opening
      await asked
      await turns(TURNS_TO_HEAR)
      if (age > CONNECTION_MS || !connection.isOpen) return undefined
      isTaken = true
      return connection
    },
    askedOn: (other) => (other === connection ? { kept } : undefined),
    close() {
      if (!isTaken) connection?.close()
    },
  }
}

/** Lets go out what was just asked. */
export const untilSent = (): Promise<void> => turns(TURNS_TO_SEND)

async function turns(count: number): Promise<void> {
  for (let left = count; left > 0; left--) await turn()
}

/** Whatever is wrong with the list is told where the connection is opened. */
function isTrusted({ surroundings }: Context, host: Host): boolean {
  try {
    return (host.pin ?? openPins(surroundings.configDir).of(host.url)) !== undefined
  } catch {
    return false
  }
}

/** Four megabytes, read and hashed. */
export function keptOf({ surroundings }: Context, { pin }: Connection, app: AppName): Reference | undefined {
  return openReferences(surroundings.cacheDir).of(pin, app)
}

/** A no comes before all of it is sent, but after some of it: so near to the end of a disk the question is worth it. */
const AMPLE = 2

/** Where nothing is, there is nothing to ask but whether it fits. */
export function hasAmpleRoom(known: KnownAnswer | undefined, sizes: ReadonlyMap<Sha256, number>): boolean {
  if (!known?.empty) return false
  let bytes = 0
  for (const size of sizes.values()) bytes += size + ROOM_PER_OBJECT
  return known.roomBytes > AMPLE * bytes
}
