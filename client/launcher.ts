import { existsSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import * as v from 'valibot'
import { Failure } from '../shared/failure.ts'
import type { Command } from '../shared/manifest.ts'
import { LAUNCHERS } from '../shared/service-spec.ts'

const RUN_WORDS = ['run', 'run-script', 'exec']

const packageSchema = v.looseObject({ scripts: v.optional(v.record(v.string(), v.string())) })

/**
 * Throws `command_refused` for a service that hands its port over and is started by npm or its like, with the command
 * to write instead, when the project says what that is.
 */
export function refuseLauncher(command: Command, { dir, where }: { dir: string; where: string }): void {
  if (!('exec' in command)) return
  const [launcher = '', ...words] = command.exec
  if (!LAUNCHERS.includes(basename(launcher))) return
  const instead = startedBy(basename(launcher), words, dir)
  throw new Failure('command_refused', `${where}: command: ${launcher} cannot pass on the socket of the service`, {
    hint:
      instead === undefined
        ? 'write what it starts: command = "node server.js"; or choose switch = "restart"'
        : `write what it starts: command = ${JSON.stringify(instead)}; or choose switch = "restart"`,
  })
}

function startedBy(launcher: string, words: readonly string[], dir: string): string | undefined {
  const own = words.filter((word) => !/^[A-Za-z_]\w*=/.test(word))
  if (launcher === 'cross-env') return own.length === 0 ? undefined : runnable(own.join(' '), dir)
  if (launcher === 'npx' || launcher === 'bunx') return own.length === 0 ? undefined : runnable(own.join(' '), dir)
  const [first = '', second = ''] = own
  const script = scriptsOf(dir)[RUN_WORDS.includes(first) ? second : first]
  return script === undefined ? undefined : runnable(script, dir)
}

/** A script finds the programs of the packages by their names; a unit does not. */
export function runnable(script: string, dir: string): string {
  const [program = '', ...args] = script.trim().split(/\s+/)
  if (program === 'next') return ['node node_modules/next/dist/bin/next', ...args].join(' ')
  const bin = join('node_modules', '.bin', program)
  return program !== 'node' && existsSync(join(dir, bin)) ? [bin, ...args].join(' ') : script.trim()
}

function scriptsOf(dir: string): Record<string, string> {
  try {
    return v.parse(packageSchema, JSON.parse(readFileSync(join(dir, 'package.json'), 'utf8'))).scripts ?? {}
  } catch {
    // None, or none that can be read: then nobody knows what it would have started.
    return {}
  }
}
