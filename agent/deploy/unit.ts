import { basename } from 'node:path'
import { Failure } from '../../shared/failure.ts'
import type { Command, Manifest, ServiceSpec } from '../../shared/manifest.ts'
import type { ReleaseId, ServiceName, Slot } from '../../shared/names.ts'
import { LAUNCHERS } from '../../shared/service-spec.ts'
import type { Variables } from '../../shared/variables.ts'
import type { Account, UnitSpec } from '../init/init-system.ts'
import type { Environment } from '../state/env-revisions.ts'
import type { Layout } from '../state/layout.ts'
import type { ReleaseHead } from '../state/release-store.ts'

/** What each service of a release needs to run in a slot. Pure. */
export function unitsOf(
  { id, manifest }: { id: ReleaseId; manifest: ReleaseHead },
  place: { layout: Layout; account: Account; slot: Slot; env: Environment },
): UnitSpec[] {
  const { layout, account, slot, env } = place
  const { app } = manifest
  return servicesOf(manifest).map(([service, spec]) => ({
    app,
    service,
    slot,
    release: id,
    spec,
    account,
    treeDir: layout.treeDir(app, id),
    appsDir: layout.appsDir,
    handover: handoverOf(spec),
    env: withOurs(env.variables, { app, service, id, spec, preloadFile: layout.preloadFile }),
    envFile: layout.slotEnv(app, service, slot),
    envRevision: env.revision,
    writableDirs: manifest.shared.map((path) => layout.sharedPath(app, path)),
  }))
}

export function servicesOf(manifest: Pick<Manifest, 'services'>): [ServiceName, ServiceSpec][] {
  return Object.entries(manifest.services) as [ServiceName, ServiceSpec][]
}

/**
 * How a service that hands traffic over gets its socket: a Node program by our preload, any other is taken to speak
 * LISTEN_FDS itself. Undefined when it opens its port by itself, or has none.
 */
export function handoverOf(spec: ServiceSpec): NonNullable<UnitSpec['handover']> | undefined {
  if (spec.switch !== 'slots' || spec.port === undefined) return undefined
  return { port: spec.port, style: isNode(spec.command) ? 'preload' : 'inherited' }
}

/**
 * `node …`, also by its path, through `env`, in a line for a shell, or as one of the project's own `node_modules/.bin`.
 * What is taken for Node wrongly only finds a variable that it has no use for.
 */
function isNode(command: Command): boolean {
  if ('shell' in command) return /(?:^|[\s;&|(/])(?:node|nodejs)\s/.test(command.shell)
  const [program = '', ...args] = command.exec
  const first = basename(program) === 'env' ? (args.find((arg) => !/^-|=/.test(arg)) ?? '') : program
  return /^(?:node|nodejs)$/.test(basename(first)) || first.includes('node_modules/.bin/')
}

/** Throws `command_refused` for a service that could never be handed its socket. */
export function refuseLaunchers(manifest: Manifest): void {
  for (const [service, spec] of servicesOf(manifest)) {
    if (handoverOf(spec) === undefined) continue
    const words = 'exec' in spec.command ? [basename(spec.command.exec[0] ?? '')] : spec.command.shell.split(/\s+/)
    const launcher = words.find((word) => LAUNCHERS.includes(basename(word)))
    if (launcher === undefined) continue
    throw new Failure(
      'command_refused',
      `push ${manifest.app}: ${service} is started by ${launcher}, which cannot pass its socket on`,
      {
        hint: 'write what it starts instead: command = "node server.js", or "node node_modules/next/dist/bin/next start"',
      },
    )
  }
}

/** The app's own variables, and over them those that every service finds. */
function withOurs(
  variables: Variables,
  of: { app: string; service: string; id: ReleaseId; spec: ServiceSpec; preloadFile: string },
): Record<string, string> {
  const preload = handoverOf(of.spec)?.style === 'preload' ? `--require ${JSON.stringify(of.preloadFile)}` : undefined
  const own = Object.hasOwn(variables, 'NODE_OPTIONS') ? variables.NODE_OPTIONS : undefined
  return {
    ...variables,
    TARMAC_APP: of.app,
    TARMAC_SERVICE: of.service,
    TARMAC_RELEASE: of.id,
    ...(of.spec.port === undefined ? {} : { PORT: String(of.spec.port) }),
    // Ours first: it must have wrapped `listen` before a tracer of the app's own does.
    ...(preload === undefined ? {} : { NODE_OPTIONS: own === undefined ? preload : `${preload} ${own}` }),
  }
}
