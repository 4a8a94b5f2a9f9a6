import { readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { parse as parseToml } from 'smol-toml'
import * as v from 'valibot'
import { Failure, isErrno, reasonOf } from '../shared/failure.ts'
import type { Manifest } from '../shared/manifest.ts'
import { type AppName, parseAppName, parseServiceName } from '../shared/names.ts'
import { type Host, hostsFrom } from './config.ts'
import { PROJECT_FILE } from './ignore.ts'
import { serviceSpec } from './process-type.ts'

// tarmac.toml: what a project is.

const DEFAULTS = {
  keepReleases: 10,
  keepFailed: 2,
} as const

const duration = v.string()
const patterns = v.optional(v.array(v.string()))

export const projectSchema = v.strictObject({
  app: v.pipe(v.string(), v.description('name of the app on its hosts: lower-case letters, digits and dashes')),
  version: v.optional(v.string()),
  shared: v.optional(
    v.pipe(v.array(v.string()), v.description('directories that outlive a release, linked into each')),
  ),
  build: v.optional(
    v.strictObject({
      command: v.optional(v.pipe(v.string(), v.description('run here by /bin/sh before packing'))),
      include: v.optional(v.pipe(v.array(v.string()), v.description('pack only what matches (.gitignore patterns)'))),
      exclude: patterns,
    }),
  ),
  services: v.record(
    v.string(),
    v.strictObject({
      command: v.pipe(
        v.union([v.string(), v.array(v.string())]),
        v.description('what runs, in the release directory; the port is in PORT'),
      ),
      port: v.optional(v.number()),
      switch: v.optional(
        v.pipe(
          v.picklist(['restart', 'slots']),
          v.description('slots (the default): the port is handed over without a gap; restart: stop, then start'),
        ),
      ),
      overlap: v.optional(
        v.pipe(v.boolean(), v.description('of a service without a port: the new one starts beside the old one')),
      ),
      stop_timeout: v.optional(duration),
      health: v.optional(
        v.strictObject({
          path: v.optional(v.string()),
          status: v.optional(v.number()),
          interval: v.optional(duration),
          timeout: v.optional(duration),
          settle: v.optional(duration),
        }),
      ),
    }),
  ),
  restart: v.optional(
    v.strictObject({ attempts: v.optional(v.number()), within: v.optional(duration), delay: v.optional(duration) }),
  ),
  keep: v.optional(v.strictObject({ releases: v.optional(v.number()), failed: v.optional(v.number()) })),
  limits: v.optional(v.strictObject({ memory: v.optional(v.string()), tasks: v.optional(v.number()) })),
  environments: v.optional(
    v.record(
      v.string(),
      v.strictObject({
        hosts: v.array(v.union([v.string(), v.strictObject({ url: v.string(), pin: v.optional(v.string()) })])),
      }),
    ),
  ),
})

export type ProjectToml = v.InferOutput<typeof projectSchema>

export interface Project {
  /** Where tarmac.toml lies: what is packed when nothing else is named. */
  dir: string
  app: AppName
  build: { command: string | undefined; include: string[] | undefined; exclude: string[] | undefined }
  environments: Record<string, Host[]>
  /** All of the manifest that the project file decides. */
  head: Pick<Manifest, 'app' | 'version' | 'services' | 'shared' | 'keep'>
}

/** Looks in `from` and upwards; undefined when there is none. */
export function findProjectFile(from: string): string | undefined {
  for (let dir = resolve(from); ; dir = dirname(dir)) {
    const file = join(dir, PROJECT_FILE)
    try {
      readFileSync(file)
      return file
    } catch (error) {
      if (!isErrno(error, 'ENOENT', 'ENOTDIR', 'EISDIR')) throw error
    }
    if (dirname(dir) === dir) return undefined
  }
}

export function readProject(file: string): Project {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (cause) {
    throw new Failure('config_missing', `read ${file}: ${reasonOf(cause)}`, {
      cause,
      hint: 'make one with: tarmac init',
    })
  }
  return parseProject(text, { name: file, dir: dirname(resolve(file)) })
}

export function parseProject(text: string, file: { name: string; dir: string }): Project {
  const toml = parseProjectToml(text, file.name)
  const services = Object.fromEntries(
    Object.entries(toml.services).map(([name, service]) => [
      parseServiceName(name),
      serviceSpec(toml, service, { where: `${file.name}: services.${name}`, dir: file.dir }),
    ]),
  )
  const app = parseAppName(toml.app)
  return {
    dir: file.dir,
    app,
    build: { command: toml.build?.command, include: toml.build?.include, exclude: toml.build?.exclude },
    environments: Object.fromEntries(
      Object.entries(toml.environments ?? {}).map(([name, { hosts }]) => [
        name,
        hostsFrom(hosts.map((host) => (typeof host === 'string' ? { url: host } : host))),
      ]),
    ),
    head: {
      app,
      ...(toml.version === undefined ? {} : { version: toml.version }),
      services,
      shared: toml.shared ?? [],
      keep: {
        releases: toml.keep?.releases ?? DEFAULTS.keepReleases,
        failed: toml.keep?.failed ?? DEFAULTS.keepFailed,
      },
    },
  }
}

function parseProjectToml(text: string, name: string): ProjectToml {
  let value: unknown
  try {
    value = parseToml(text)
  } catch (cause) {
    throw new Failure('config_invalid', `read ${name}: ${reasonOf(cause)}`, { cause })
  }
  const parsed = v.safeParse(projectSchema, value)
  if (!parsed.success) {
    const issue = parsed.issues[0]
    throw new Failure('config_invalid', `read ${name}: ${v.getDotPath(issue) ?? 'the whole'}: ${issue.message}`, {
      hint: 'an example: tarmac init',
    })
  }
  if (Object.keys(parsed.output.services).length > 0) return parsed.output
  throw new Failure('config_invalid', `read ${name}: services: none`, {
    hint: 'name what runs: [services.web] command = "node server.js"',
  })
}
