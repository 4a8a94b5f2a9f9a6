import { parse as parseShell } from 'shell-quote'
import { parseBytes, parseDurationMs } from '../shared/duration.ts'
import { Failure } from '../shared/failure.ts'
import type { Command, ServiceSpec } from '../shared/manifest.ts'
import { refuseLauncher } from './launcher.ts'
import type { ProjectToml } from './project.ts'

// A service of tarmac.toml as the manifest says it: every default written out, each with its reason.

const DEFAULTS = {
  /** A gate asks often enough that a push does not feel slow, and seldom enough that no log fills. */
  interval: '250ms',
  /** Longer than a big Node app takes to boot on a small host. */
  timeout: '60s',
  /** Most broken releases die within a second or two of their start. */
  settle: '3s',
  attempts: 5,
  within: '30s',
  delay: '1s',
  /** What hands its port over may answer a request of 30 s to its end, and lingers 6 s for its idle connections. */
  stopTimeout: '36s',
  /** While the old one stops nobody answers: short. */
  restartStopTimeout: '10s',
} as const

/** Throws `config_invalid`. */
export function serviceSpec(
  toml: ProjectToml,
  service: ProjectToml['services'][string],
  { where, dir }: { where: string; dir: string },
): ServiceSpec {
  const { health = {} } = service
  const { restart = {}, limits } = toml
  const ms = (text: string, what: string) => parseDurationMs(text, `${where}: ${what}`)
  const { stopTimeout, restartStopTimeout } = DEFAULTS
  const change = changeOf(service, where)
  const command = parseCommand(service.command, where)
  if (change.switch === 'slots') refuseLauncher(command, { where, dir })
  return {
    command,
    ...(service.port === undefined ? {} : { port: service.port }),
    ...change,
    health: {
      ...(health.path === undefined ? {} : { path: health.path }),
      ...(health.status === undefined ? {} : { status: health.status }),
      intervalMs: ms(health.interval ?? DEFAULTS.interval, 'health.interval'),
      timeoutMs: ms(health.timeout ?? DEFAULTS.timeout, 'health.timeout'),
      settleMs: ms(health.settle ?? DEFAULTS.settle, 'health.settle'),
    },
    restart: {
      attempts: restart.attempts ?? DEFAULTS.attempts,
      withinMs: ms(restart.within ?? DEFAULTS.within, 'restart.within'),
      delayMs: ms(restart.delay ?? DEFAULTS.delay, 'restart.delay'),
    },
    stopTimeoutMs: ms(
      service.stop_timeout ?? (change.switch === 'slots' ? stopTimeout : restartStopTimeout),
      'stop_timeout',
    ),
    ...(limits === undefined
      ? {}
      : {
          limits: {
            ...(limits.memory === undefined
              ? {}
              : { memoryBytes: parseBytes(limits.memory, `${where}: limits.memory`) }),
            ...(limits.tasks === undefined ? {} : { tasks: limits.tasks }),
          },
        }),
  }
}

/** How the service takes over from the one before. Throws `config_invalid` for what would have no effect. */
function changeOf(
  { port, switch: asked, overlap }: ProjectToml['services'][string],
  where: string,
): Pick<ServiceSpec, 'switch' | 'overlap'> {
  if (port !== undefined) {
    if (overlap === undefined) return { switch: asked ?? 'slots' }
    throw new Failure('config_invalid', `${where}: overlap: it has a port, which hands over by itself`, {
      hint: 'overlap is for services without a port',
    })
  }
  if (asked !== 'slots') return overlap === undefined ? {} : { overlap }
  throw new Failure('config_invalid', `${where}: switch: it has no port to hand over`, {
    hint: 'for a worker: overlap = true starts the new one before the old one has stopped',
  })
}

/**
 * Plain words are run as they are; anything a shell would act on (`&&`, `$X`, `*`, a leading NAME=value) goes to a
 * shell, as whoever wrote it expects.
 */
function parseCommand(command: string | string[], where: string): Command {
  if (Array.isArray(command)) {
    if (command.length === 0 || command[0] === '') throw new Failure('config_invalid', `${where}: command: is empty`)
    return { exec: command }
  }
  const parts = parseShell(command, (name) => ({ op: `$${name}` }))
  const words = parts.filter((part) => typeof part === 'string')
  if (words.length === 0) throw new Failure('config_invalid', `${where}: command: is empty`)
  if (words.length < parts.length || /[`~]/.test(command) || /^[A-Za-z_][A-Za-z0-9_]*=/.test(words[0] ?? ''))
    return { shell: command.trim() }
  return { exec: words }
}
