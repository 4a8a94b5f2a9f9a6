import { Failure } from '../../shared/failure.ts'
import { type AppName, sha256 } from '../../shared/names.ts'
import {
  changedVariables,
  isSameVariables,
  type MaskedVariable,
  type VariableChange,
  type Variables,
} from '../../shared/variables.ts'
import type { Agent } from '../agent.ts'
import {
  addRevision,
  type Environment,
  environmentOfRelease,
  newestEnvironment,
  newestRevision,
  revisionOf,
} from '../state/env-revisions.ts'
import type { Layout } from '../state/layout.ts'
import { makeAppDirs } from '../state/objects.ts'
import { currentRelease, readHead } from '../state/release-store.ts'
import { servicesOf } from './unit.ts'

/** Enough to tell two values apart, too little to tell one from it. */
const DIGEST_CHARS = 8

/** The environment of what serves; before the first push, the one it will get. */
export function environmentNow(layout: Layout, app: AppName): Environment {
  const current = currentRelease(layout, app)
  return current === null ? newestEnvironment(layout, app) : environmentOfRelease(layout, app, current)
}

/**
 * Writes the revision that the change makes of the environment of now; undefined when it is so already. It is in force
 * for nobody yet. Throws `env_invalid` with nothing written.
 */
export async function revise(
  { layout }: Agent,
  app: AppName,
  { change, by }: { change: VariableChange; by: string },
): Promise<Environment | undefined> {
  refusePort(layout, app, change)
  const before = environmentNow(layout, app).variables
  const variables = changedVariables(before, change)
  if (isSameVariables(before, variables)) return undefined
  makeAppDirs(layout, app)
  return addRevision(layout, app, { by, variables })
}

/** After a rollback what serves has an older environment than a push would get: what is made of it may surprise. */
export function passedOverBy(layout: Layout, app: AppName, { revision }: Environment): string | undefined {
  const current = currentRelease(layout, app)
  const newest = newestRevision(layout, app)
  const base = current === null ? newest : revisionOf(layout, app, current)
  if (base === newest) return undefined
  return `revision ${revision} is made of ${base}, which serves since a rollback: what was new in ${newest} is not in it`
}

/** Sorted by name. A value is not in it, and cannot be told from it unless it can be guessed. */
export function masked(app: AppName, variables: Variables): MaskedVariable[] {
  return Object.entries(variables).map(([name, value]) => ({
    name,
    bytes: Buffer.byteLength(value),
    // With the names before it, so that two variables do not show that they hold the same, and no table made once helps.
    digest: sha256(`${app}\0${name}\0${value}`).slice(0, DIGEST_CHARS),
  }))
}

/** A service with a port is told it by us; another one may want a PORT for whatever it likes. */
function refusePort(layout: Layout, app: AppName, { set }: VariableChange): void {
  const current = currentRelease(layout, app)
  if (current === null || !set.some(({ name }) => name === 'PORT')) return
  const told = servicesOf(readHead(layout, app, current)).find(([, { port }]) => port !== undefined)
  if (told === undefined) return
  throw new Failure('env_invalid', `env "PORT": ${told[0]} is given its port ${told[1].port} by tarmac.toml`, {
    hint: 'change it there and push',
  })
}
