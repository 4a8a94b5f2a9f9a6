import { execFile } from 'node:child_process'
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { promisify } from 'node:util'
import { parseProject } from '../../client/project.ts'

const EXAMPLES = join(import.meta.dirname, '../../docs/examples')
/** `npm ci` and `next build` with a cold cache on a busy machine. */
const BUILD_TIMEOUT_MS = 5 * 60_000

/** A documented example, built, in a directory of its own, at a port of its own. */
export interface Example {
  name: string
  dir: string
  port: number
  /** Handed over by our preload; anything else takes its descriptor itself. */
  isNode: boolean
  /** Writes its tarmac.toml, with what a push is to have otherwise: a command, lines for the gate. */
  configure(otherwise?: { command?: string[]; health?: string }): Promise<void>
}

/**
 * What a reader of docs/servers.md would have: the example as it is there, built by its own command. Later pushes do
 * not build again. Removed after the test.
 */
export async function exampleOf(t: TestContext, name: string, place: { port: number; url: string }): Promise<Example> {
  const dir = await mkdtemp(join(tmpdir(), `tarmac-example-${name}-`))
  t.after(() => rm(dir, { recursive: true, force: true }))
  await cp(join(EXAMPLES, name), dir, { recursive: true })
  const text = await readFile(join(dir, 'tarmac.toml'), 'utf8')
  const { build, head } = parseProject(text, { name: `${name}/tarmac.toml`, dir })
  if (build.command !== undefined) {
    const env = { ...process.env, NEXT_TELEMETRY_DISABLED: '1' }
    await promisify(execFile)('/bin/sh', ['-c', build.command], { cwd: dir, env, timeout: BUILD_TIMEOUT_MS })
  }
  const [service] = Object.values(head.services)
  const run = service?.command
  const example: Example = {
    name,
    dir,
    port: place.port,
    isNode: run !== undefined && 'exec' in run && run.exec[0] === 'node',
    async configure({ command, health = '' } = {}) {
      const built = text.replace(/(\[build\]\n)command = .*\n/, '$1')
      const moved = built.replace('port = 3000', `port = ${place.port}`)
      const told =
        command === undefined ? moved : moved.replace(/^command = .*$/m, `command = ${JSON.stringify(command)}`)
      const gated = told.replace(/^\[services\.web\.health\]$/m, `$&\n${health}`)
      // Releases that crash are to be done with in a moment.
      const limits = '[restart]\nattempts = 2\nwithin = "10s"\ndelay = "100ms"\n'
      await writeFile(
        join(dir, 'tarmac.toml'),
        `${gated}\n${limits}\n[environments.production]\nhosts = ["${place.url}"]\n`,
      )
    },
  }
  await example.configure()
  return example
}
