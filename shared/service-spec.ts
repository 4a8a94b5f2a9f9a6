import * as v from 'valibot'

// What a release says of each of its services, and the limits of each value.

/** `exec` is run as it is; `shell` goes to /bin/sh -c. */
export type Command = { exec: string[] } | { shell: string }

/**
 * Programs that are Node themselves, and Node closes inherited descriptors in its children: what they start gets none, so
 * they can start no service that hands its port over.
 */
export const LAUNCHERS: readonly string[] = ['npm', 'npx', 'yarn', 'pnpm', 'cross-env', 'bunx']

export interface ServiceSpec {
  command: Command
  port?: number
  /** `restart` (also when absent): stop the old one, then start the new one. `slots`: hand the port over without a gap. */
  switch?: 'restart' | 'slots'
  /** Of a service without a port: the new one starts beside the old one. Absent: after the old one has stopped. */
  overlap?: boolean
  health: { path?: string; status?: number; intervalMs: number; timeoutMs: number; settleMs: number }
  /** The respawn limit: at most `attempts` starts within `withinMs`, `delayMs` apart. */
  restart: { attempts: number; withinMs: number; delayMs: number }
  /** SIGTERM to SIGKILL. */
  stopTimeoutMs: number
  limits?: { memoryBytes?: number; tasks?: number }
}

const LINE = v.pipe(v.string(), v.regex(/^[^\p{Cc}\p{Co}\p{Cs}\uFFFE\uFFFF]*$/u, 'has control characters'))
export const shortLine = v.pipe(LINE, v.minLength(1), v.maxLength(200))
// systemd refuses an argument of 128 KiB or more; a command that long is a mistake anyway.
const argument = v.pipe(LINE, v.maxLength(16_384))
export const whole = (min: number, max: number) => v.pipe(v.number(), v.safeInteger(), v.minValue(min), v.maxValue(max))
const DAY_MS = 86_400_000

export const serviceSchema = v.strictObject({
  command: v.union([
    v.strictObject({
      exec: v.pipe(
        v.array(argument),
        v.minLength(1),
        v.maxLength(1000),
        v.check(([program]) => program !== '', 'names no program'),
      ),
    }),
    v.strictObject({ shell: v.pipe(argument, v.minLength(1)) }),
  ]),
  port: v.optional(whole(1, 65_535)),
  switch: v.optional(v.picklist(['restart', 'slots'])),
  overlap: v.optional(v.boolean()),
  health: v.strictObject({
    path: v.optional(
      v.pipe(v.string(), v.regex(/^\/[\x21-\x7e]*$/, 'must begin with "/" and hold no blanks'), v.maxLength(1000)),
    ),
    status: v.optional(whole(200, 599)),
    intervalMs: whole(50, 60_000),
    timeoutMs: whole(1000, 3_600_000),
    settleMs: whole(0, 3_600_000),
  }),
  restart: v.strictObject({ attempts: whole(1, 1000), withinMs: whole(1000, DAY_MS), delayMs: whole(0, 3_600_000) }),
  stopTimeoutMs: whole(1000, 3_600_000),
  limits: v.optional(
    v.strictObject({
      memoryBytes: v.optional(whole(16 * 1024 * 1024, 2 ** 50)),
      tasks: v.optional(whole(8, 1_000_000)),
    }),
  ),
})

/** The same with its keys in the one order of a manifest. */
export function orderedService(spec: ServiceSpec): ServiceSpec {
  const { health, restart, limits } = spec
  return {
    command: 'exec' in spec.command ? { exec: spec.command.exec } : { shell: spec.command.shell },
    ...(spec.port === undefined ? {} : { port: spec.port }),
    ...(spec.switch === undefined ? {} : { switch: spec.switch }),
    ...(spec.overlap === undefined ? {} : { overlap: spec.overlap }),
    health: {
      ...(health.path === undefined ? {} : { path: health.path }),
      ...(health.status === undefined ? {} : { status: health.status }),
      intervalMs: health.intervalMs,
      timeoutMs: health.timeoutMs,
      settleMs: health.settleMs,
    },
    restart: { attempts: restart.attempts, withinMs: restart.withinMs, delayMs: restart.delayMs },
    stopTimeoutMs: spec.stopTimeoutMs,
    ...(limits === undefined
      ? {}
      : {
          limits: {
            ...(limits.memoryBytes === undefined ? {} : { memoryBytes: limits.memoryBytes }),
            ...(limits.tasks === undefined ? {} : { tasks: limits.tasks }),
          },
        }),
  }
}
