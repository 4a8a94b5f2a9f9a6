import { setImmediate as turn } from 'node:timers/promises'
import type { AppName } from '../shared/names.ts'
import type { KnownAnswer } from '../shared/wire.ts'
import * as api from './api.ts'
import type { Host } from './config.ts'
import type { Connection } from './connection.ts'
import { type Context, connectTo, type Signing } from './context.ts'
import { openPins } from './pins.ts'
import { openReferences, type Reference } from './references.ts'

// The first host of a push is asked what runs there before the files are looked at: it looks through its own meanwhile.

/** What is older may have changed since, and to ask again takes little beside that. */
const FRESH_MS = 2_000
/** The agent closes a connection on which nothing came for 120 s. */
const CONNECTION_MS = 60_000
/** Until the question is on its way; then this process has no time for it. */
const TURNS_TO_SEND = 4

/** What a host says of an app, and what was pushed to it last from here. */
export interface Known extends KnownAnswer {
  kept: Reference | undefined
}

export interface Ahead {
  /** Gives the connection away: whoever takes it closes it. Undefined for another host, or when it is closed or soon will be. */
  take(host: Host): Promise<Connection> | undefined
  /** What was answered on that connection, if it is fresh. */
  known(connection: Connection): Promise<Known | undefined>
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
  const isTrusted = (host.pin ?? openPins(context.surroundings.configDir).of(host.url)) !== undefined
  if (!isTrusted) return undefined
  const opening = connectTo(context, host, signing)
  const opened = await opening.catch(() => undefined)
  const askedAt = performance.now()
  // A host that was busy then need not be now.
  const asked = opened && askKnown(context, opened, app).catch(() => undefined)
  for (let left = TURNS_TO_SEND; left > 0; left--) await turn()
  const age = () => performance.now() - askedAt
  let isTaken = false
  return {
    take(other) {
      if (other.url !== host.url || isTaken || age() > CONNECTION_MS || opened?.isOpen === false) return undefined
      isTaken = true
      return opening
    },
    async known(connection) {
      return connection === opened && age() < FRESH_MS ? asked : undefined
    },
    close() {
      if (!isTaken) opened?.close()
    },
  }
}

/** What runs there, and whether what was pushed from here last may be built on. */
export async function askKnown(context: Context, connection: Connection, app: AppName): Promise<Known> {
  const kept = openReferences(context.surroundings.cacheDir).of(connection.pin, app)
  return { ...(await api.known(connection, app, { reference: kept?.digest })), kept }
}
