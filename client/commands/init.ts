import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { Failure } from '../../shared/failure.ts'
import { parseHostUrl } from '../config.ts'
import type { Context } from '../context.ts'
import { PROJECT_FILE } from '../ignore.ts'
import { runnable } from '../launcher.ts'
import { parseProject } from '../project.ts'
import { askText } from '../prompt.ts'

/** Writes tarmac.toml for the project found here; asks only where the project does not say, and somebody can answer. */
export async function init(context: Context, options: { force?: boolean }): Promise<number> {
  const { cwd, print } = context
  const file = join(cwd, PROJECT_FILE)
  if (existsSync(file) && !options.force) {
    throw new Failure('usage', `init: ${file} is there already`, { hint: 'write it anew: tarmac init --force' })
  }
  const found = findProject(cwd)
  const command = found.command ?? (await ask(context, 'What starts the app?', 'node server.js'))
  const host =
    context.options.host?.[0] ?? (await ask(context, 'Where does its agent listen?', 'https://10.0.0.1:7433'))
  const text = projectText({
    app: context.options.app ?? found.app,
    command,
    port: found.port,
    host: parseHostUrl(host),
  })
  parseProject(text, { name: PROJECT_FILE, dir: cwd })
  writeFileSync(file, text)
  if (print.json) print.value({ file })
  else print.line(`${file} was written; look it over, then: tarmac push`)
  return 0
}

interface Found {
  app: string
  command: string | undefined
  port: number
}

function findProject(dir: string): Found {
  const app = appName(basename(dir))
  const initial = { app, command: undefined, port: 3000 }
  if (!existsSync(join(dir, 'package.json'))) return initial
  const json = JSON.parse(readFileSync(join(dir, 'package.json'), 'utf8')) as {
    name?: string
    main?: string
    scripts?: Record<string, string>
    dependencies?: Record<string, string>
  }
  const named = json.name === undefined ? app : appName(json.name.replace(/^@[^/]*\//, ''))
  if (json.dependencies?.next !== undefined)
    return { ...initial, app: named, command: 'node node_modules/next/dist/bin/next start' }
  // What npm start would run, since npm itself passes neither signals nor sockets on to it.
  const start = json.scripts?.start
  const entry = ['server.js', 'index.js', 'app.js', 'dist/server.js', 'dist/index.js', json.main ?? ''].find(
    (name) => name !== '' && existsSync(join(dir, name)),
  )
  return {
    ...initial,
    app: named,
    command: start === undefined ? (entry === undefined ? undefined : `node ${entry}`) : runnable(start, dir),
  }
}

function appName(text: string): string {
  const name = text
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^[^a-z]+|-+$/g, '')
    .slice(0, 31)
  return name === '' ? 'app' : name
}

async function ask({ print, options, surroundings }: Context, message: string, initial: string): Promise<string> {
  if (!print.isInteractive || process.stdin.isTTY !== true || options.yes || surroundings.isCi) return initial
  return askText({ message, initial })
}

function projectText({
  app,
  command,
  port,
  host,
}: {
  app: string
  command: string
  port: number
  host: string
}): string {
  return `app = ${JSON.stringify(app)}

[services.web]
command = ${JSON.stringify(command)}   # run in the release directory; it finds its port in PORT
port = ${port}

# [services.web.health]
# path = "/health"      # asked after each start; without it the service must stay up for a while

[environments.production]
hosts = [${JSON.stringify(host)}]
`
}
