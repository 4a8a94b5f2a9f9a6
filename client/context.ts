import { Failure } from '../shared/failure.ts'
import { type AppName, parseAppName } from '../shared/names.ts'
import { SESSION_NAMESPACE } from '../shared/session.ts'
import { RELEASE_NAMESPACE } from '../shared/wire.ts'
import { type Host, hostsFrom, type Surroundings } from './config.ts'
import { type Connection, openConnection } from './connection.ts'
import { trustOnFirstUse } from './first-use.ts'
import { openPins } from './pins.ts'
import type { Print } from './print.ts'
import { findProjectFile, type Project, readProject } from './project.ts'
import { chooseKey, type Key, sign } from './ssh-keys.ts'

/** The flags that every command takes, as commander gives them. */
export interface GlobalOptions {
  key?: string
  env?: string
  host?: string[]
  app?: string
  config?: string
  json?: boolean
  quiet?: boolean
  verbose?: boolean
  color?: boolean
  yes?: boolean
}

/** What a command works with, built once in main.ts and passed by hand. */
export interface Context {
  readonly options: GlobalOptions
  readonly surroundings: Surroundings
  readonly print: Print
  readonly cwd: string
}

/** Runs a command and takes its exit code. */
export type Run = (work: (context: Context) => Promise<number>) => Promise<void>

/** The project, where there is one; `--config` or tarmac.toml here or above. */
export function projectOf({ options, cwd }: Context): Project | undefined {
  const file = options.config ?? findProjectFile(cwd)
  return file === undefined ? undefined : readProject(file)
}

/** For commands that can do without a project when they are told the host, and the app where one is meant. */
export function needProjectOrHost(context: Context): Project | undefined {
  return context.options.host?.length ? projectOf(context) : needProject(context)
}

export function needProject(context: Context): Project {
  const project = projectOf(context)
  if (project) return project
  throw new Failure('config_missing', `find tarmac.toml: there is none in ${context.cwd} or above it`, {
    hint: 'make one: tarmac init; or name one: --config FILE',
  })
}

/** The app asked about: `--app`, or the project's. */
export function appOf({ options }: Context, project: Project | undefined): AppName {
  if (options.app !== undefined) return parseAppName(options.app)
  if (project) return project.app
  throw new Failure('usage', 'which app? there is no tarmac.toml here', { hint: 'name it: --app NAME' })
}

/** `--host` over the environment. To change a host with several environments to choose from, one must be named. */
export function targetHosts({ options }: Context, project: Project | undefined, purpose: 'change' | 'read'): Host[] {
  if (options.host !== undefined && options.host.length > 0) {
    const known = Object.values(project?.environments ?? {}).flat()
    const asked = hostsFrom(options.host.map((url) => ({ url })))
    return asked.map((host) => ({ ...host, pin: known.find(({ url }) => url === host.url)?.pin }))
  }
  const environments = project?.environments ?? {}
  const names = Object.keys(environments)
  if (options.env !== undefined) {
    const hosts = environments[options.env]
    if (hosts && hosts.length > 0) return hosts
    throw new Failure(
      'config_invalid',
      `environment ${JSON.stringify(options.env)}: ${hosts ? 'has no hosts' : `is not in tarmac.toml, only ${names.join(', ') || 'none'}`}`,
    )
  }
  if (names.length > 1 && purpose === 'change') {
    throw new Failure('usage', `which environment? tarmac.toml has ${names.join(', ')}`, {
      hint: `name it: -e ${names[0]}`,
    })
  }
  const hosts = Object.values(environments).flat()
  if (hosts.length > 0) return hosts
  throw new Failure('config_missing', 'which host? no environment in tarmac.toml names one', {
    hint: 'name it: --host https://10.0.0.1:7433, or [environments.production] hosts = ["…"] in tarmac.toml',
  })
}

/** A key, chosen once per command, and the signatures it makes. */
export interface Signing {
  key: Key
  signRelease(text: string): Promise<string>
  signSession(statement: Buffer): Promise<string>
}

export async function openSigning({ options, surroundings, print }: Context): Promise<Signing> {
  const key = await chooseKey(surroundings, options.key)
  const parts = { surroundings, notify: (text: string) => print.note(text) }
  return {
    key,
    signRelease: (text) => sign(key, { namespace: RELEASE_NAMESPACE, data: Buffer.from(text) }, parts),
    signSession: (data) => sign(key, { namespace: SESSION_NAMESPACE, data }, parts),
  }
}

export async function connectTo(context: Context, host: Host, signing: Signing): Promise<Connection> {
  const pins = openPins(context.surroundings.configDir)
  return openConnection(host, {
    pinOf: async (asked, seen) => asked.pin ?? pins.of(asked.url) ?? trustOnFirstUse(context, asked, seen),
    signSession: signing.signSession,
  })
}

/** Connects, if that is not done already, does the work, and closes, whatever happens. */
export async function withConnection<T>(
  context: Context,
  host: Host,
  signing: Signing,
  work: (connection: Connection) => Promise<T>,
  opened?: Promise<Connection | undefined>,
): Promise<T> {
  const connection = (await opened) ?? (await connectTo(context, host, signing))
  try {
    return await work(connection)
  } finally {
    connection.close()
  }
}
