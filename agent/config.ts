import { readFileSync, statSync } from 'node:fs'
import { isIPv4 } from 'node:net'
import { join, resolve } from 'node:path'
import { parse as parseToml } from 'smol-toml'
import * as v from 'valibot'
import { parseDurationMs } from '../shared/duration.ts'
import { Failure, isErrno, reasonOf } from '../shared/failure.ts'
import { DEFAULT_PORT } from '../shared/wire.ts'
import { type Layout, layoutAt } from './state/layout.ts'

// Every default of the agent, each with its reason. Nothing else reads the environment or agent.toml.

export const DEFAULTS = {
  /** All addresses: the point of the agent is to be reached. Who may ask is decided by keys, not by addresses. */
  listen: `0.0.0.0:${DEFAULT_PORT}`,
  root: '/var/lib/tarmac',
  etc: '/etc/tarmac',
  /** What must stay free after a push: a logging burst or an apt upgrade must find room. Less on small disks. */
  reserveBytes: 1024 ** 3,
  reserveFraction: 0.05,
  reserveInodes: 10_000,
  /** Free space in relation to the reserve at which `status` says low. */
  lowFactor: 3,
  /** A key that must be touched needs a moment between connecting and the first request. */
  headersTimeoutMs: 60_000,
  /** A client that sends nothing for so long has gone. */
  idleTimeoutMs: 20_000,
  /** A modem line. Below it for a whole window, an upload is not worth keeping its app busy. */
  minBytesPerSecond: 4 * 1024,
  rateWindowMs: 60_000,
  /** Longer than a client takes to read a big tree between two requests on its one connection. */
  keepAliveTimeoutMs: 120_000,
  /** A handful of people and their CI. */
  maxConnections: 64,
  maxHeaderBytes: 8 * 1024,
  /** Long enough for a first cron job, a first full cache; what breaks later was rarely the switch's doing. */
  probation: '10m',
  /** Five unasked exits within ten minutes: a deploy, a killed process or two, and one crash are no loop. */
  loopExits: 5,
  loopWithin: '10m',
  /** How often the disk is looked at, and what should have been heard of at once: 0.01 % of a core with 20 services. */
  roundsMs: 300_000,
  /** How long a stopping agent waits for a change in flight. */
  shutdownMs: 30_000,
  /** And then for answers under way to be read. */
  farewellMs: 500,
} as const

const schema = v.strictObject({
  listen: v.optional(v.string()),
  init: v.optional(v.picklist(['systemd', 'upstart', 'embedded'])),
  disk: v.optional(
    v.strictObject({
      reserve_bytes: v.optional(v.pipe(v.number(), v.safeInteger(), v.minValue(0))),
      reserve_inodes: v.optional(v.pipe(v.number(), v.safeInteger(), v.minValue(0))),
    }),
  ),
  watch: v.optional(
    v.strictObject({
      probation: v.optional(v.string()),
      // One exit is a crash and no loop.
      exits: v.optional(v.pipe(v.number(), v.safeInteger(), v.minValue(2))),
      within: v.optional(v.string()),
    }),
  ),
  notify: v.optional(v.strictObject({ webhook: v.string() })),
  metrics: v.optional(v.strictObject({ listen: v.string() })),
})

export interface Config {
  listen: { host: string; port: number }
  init: 'systemd' | 'upstart' | 'embedded'
  reserve: { bytes: number | undefined; inodes: number }
  /** When a crash loop is one, and how long after a switch it leads back. */
  watch: { probationMs: number; exits: number; withinMs: number }
  /** Where what went wrong is told; whoever knows this address can write there, so it is never logged. */
  webhook: URL | undefined
  /** Where metrics are told to whoever asks, and so always an address of this host alone. */
  metrics: { host: string; port: number } | undefined
  layout: Layout
  /** Where a test writes at which point the agent is to end: see fault.ts. */
  faultFile: string | undefined
}

export interface Overrides {
  root?: string | undefined
  listen?: string | undefined
  init?: string | undefined
}

export function layoutFor(root: string | undefined): Layout {
  return root === undefined
    ? layoutAt(DEFAULTS.root, DEFAULTS.etc)
    : layoutAt(resolve(root), join(resolve(root), 'etc'))
}

/** Flags over file over defaults. Throws `config_invalid` naming the file and the key. */
export function readConfig(overrides: Overrides): Config {
  const layout = layoutFor(overrides.root)
  const file = readFileConfig(layout)
  const init = overrides.init ?? file.init ?? detectInit()
  if (init !== 'systemd' && init !== 'embedded' && init !== 'upstart') {
    throw new Failure('usage', `--init ${JSON.stringify(init)}: is none of systemd, upstart, embedded`)
  }
  return {
    listen: parseListen(overrides.listen ?? file.listen ?? DEFAULTS.listen),
    init,
    reserve: { bytes: file.disk?.reserve_bytes, inodes: file.disk?.reserve_inodes ?? DEFAULTS.reserveInodes },
    watch: watchOf(file.watch, `read ${layout.configFile}: watch`),
    webhook: file.notify && parseWebhook(file.notify.webhook, `read ${layout.configFile}: notify.webhook`),
    metrics: file.metrics && parseLoopback(file.metrics.listen, `read ${layout.configFile}: metrics.listen`),
    layout,
    faultFile: process.env.TARMAC_FAULT_FILE,
  }
}

function watchOf(watch: v.InferOutput<typeof schema>['watch'], what: string): Config['watch'] {
  return {
    probationMs: parseDurationMs(watch?.probation ?? DEFAULTS.probation, `${what}.probation`),
    exits: watch?.exits ?? DEFAULTS.loopExits,
    withinMs: parseDurationMs(watch?.within ?? DEFAULTS.loopWithin, `${what}.within`),
  }
}

/** What is told names hosts, apps and people: in the clear it goes to this host alone. The address is not quoted. */
function parseWebhook(text: string, what: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined
  const isLocal = url !== undefined && ['127.0.0.1', '[::1]', 'localhost'].includes(url.hostname)
  if (url === undefined || !(url.protocol === 'https:' || (url.protocol === 'http:' && isLocal))) {
    throw new Failure('config_invalid', `${what}: it is no https:// address`, {
      hint: 'http:// goes to a relay on 127.0.0.1 only',
    })
  }
  if (url.username === '' && url.password === '') return url
  throw new Failure('config_invalid', `${what}: it holds a password, which is not sent`, {
    hint: 'most services take a token in the path',
  })
}

/** An address in numbers: what a name such as localhost leads to is for others to say. */
function parseLoopback(text: string, what: string): { host: string; port: number } {
  const { host, port } = parseListen(text)
  if (host === '::1' || (isIPv4(host) && host.startsWith('127.'))) return { host, port }
  throw new Failure('config_invalid', `${what}: ${JSON.stringify(text)} is no loopback address`, {
    hint: 'nobody is asked who they are there: "127.0.0.1:9433" or "[::1]:9433"; from elsewhere signers ask for /v1/metrics',
  })
}

function readFileConfig(layout: Layout): v.InferOutput<typeof schema> {
  let text: string
  try {
    refuseWritableByOthers(layout.configFile)
    text = readFileSync(layout.configFile, 'utf8')
  } catch (error) {
    if (!isErrno(error, 'ENOENT')) throw error
    throw new Failure('config_missing', `read ${layout.configFile}: there is none`, {
      hint: 'make one with: tarmac-agent init',
      cause: error,
    })
  }
  let value: unknown
  try {
    value = parseToml(text)
  } catch (cause) {
    throw new Failure('config_invalid', `read ${layout.configFile}: ${reasonOf(cause)}`, { cause })
  }
  const parsed = v.safeParse(schema, value)
  if (parsed.success) return parsed.output
  const issue = parsed.issues[0]
  throw new Failure('config_invalid', `read ${layout.configFile}: ${v.getDotPath(issue) ?? ''}: ${issue.message}`)
}

/** A configuration that others may write is theirs, not ours. Throws `config_invalid`; ENOENT passes through. */
export function refuseWritableByOthers(file: string): void {
  const { mode, uid } = statSync(file)
  const own = process.getuid?.() ?? uid
  if (uid !== own && uid !== 0) {
    throw new Failure('config_invalid', `read ${file}: it belongs to user ${uid}, not to the agent's ${own}`, {
      hint: `chown ${own} ${file}`,
    })
  }
  if (mode & 0o022) {
    throw new Failure('config_invalid', `read ${file}: others may write it (mode ${(mode & 0o777).toString(8)})`, {
      hint: `chmod go-w ${file}`,
    })
  }
}

export function parseListen(text: string): { host: string; port: number } {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})$/.exec(text)
  const host = match?.[1] ?? match?.[2]
  const port = Number(match?.[3])
  if (host !== undefined && port <= 65_535) return { host, port }
  throw new Failure('config_invalid', `listen ${JSON.stringify(text)}: is not HOST:PORT`, {
    hint: `for example 0.0.0.0:${DEFAULT_PORT} or [::]:${DEFAULT_PORT}`,
  })
}

/** systemd says of itself that it runs by this directory: sd_booted(3). */
function detectInit(): 'systemd' | 'embedded' {
  try {
    return statSync('/run/systemd/system').isDirectory() ? 'systemd' : 'embedded'
  } catch {
    // No such directory is the answer, not a fault.
    return 'embedded'
  }
}
