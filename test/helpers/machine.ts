import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'

/**
 * What the tests start, and the Debian and Ubuntu package that has it. By its path where it must be the machine's own:
 * a unit has no other PATH.
 */
const NEEDED: Record<string, string> = {
  'ssh-keygen': 'openssh-client',
  zstd: 'zstd',
  tar: 'tar',
  ps: 'procps',
}
const NEEDED_BY_SYSTEM_TESTS: Record<string, string> = {
  systemctl: 'systemd',
  'systemd-nspawn': 'systemd-container',
  'dbus-daemon': 'dbus',
  ip: 'iproute2',
  nsenter: 'util-linux',
  'mkfs.ext4': 'e2fsprogs',
  wrk: 'wrk',
  // What docs/examples are built with, and served by.
  go: 'golang-go',
  cargo: 'cargo',
  '/usr/bin/python3': 'python3',
  '/usr/bin/gunicorn': 'gunicorn',
  '/usr/lib/python3/dist-packages/uvicorn': 'python3-uvicorn',
  '/usr/bin/puma': 'puma',
}
/** A mirror may be slow; past this it is away. */
const APT_TIMEOUT_MS = 5 * 60_000

/**
 * Installs what is missing where it may: as root, with apt-get; says so in one line on stdout. Gives the reason why
 * system tests cannot run here, undefined when they can.
 */
export function makeReady(wanted: { systemTests: boolean }): string | undefined {
  const missing = missingOf(wanted.systemTests ? { ...NEEDED, ...NEEDED_BY_SYSTEM_TESTS } : NEEDED)
  if (missing.length > 0) {
    const packages = missing.map(([, name]) => name).join(' ')
    const hindrance = isRoot() ? (found('apt-get') ? installed(missing) : 'there is no apt-get') : 'this is not root'
    console.log(
      hindrance === undefined
        ? `npm test: installed what the tests start: ${packages}`
        : `npm test: please install ${packages} (${hindrance}); tests that need them fail or are skipped`,
    )
  }
  if (!wanted.systemTests) return undefined
  const reason = whyNoSystemTests()
  if (reason !== undefined) console.log(`npm test: system tests are skipped: ${reason}`)
  return reason
}

/** Why no init system can be booted in a container here; undefined when one can. */
export function whyNoSystemTests(): string | undefined {
  if (process.platform !== 'linux') return `they boot systemd, and this is ${process.platform}`
  if (!isRoot()) return 'they boot systemd in a container, which takes root'
  const missing = missingOf(NEEDED_BY_SYSTEM_TESTS)
  if (missing.length > 0) return `not installed: ${missing.map(([program]) => program).join(', ')}`
  const mount = spawnSync('unshare', ['--mount', '--pid', '--fork', 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt'], {
    encoding: 'utf8',
  })
  if (mount.status !== 0)
    return `namespaces or mounts are not allowed here: ${(mount.stderr ?? '').trim().split('\n')[0]}`
  return undefined
}

function missingOf(needed: Record<string, string>): [program: string, name: string][] {
  return Object.entries(needed).filter(([program]) => !found(program))
}

function found(program: string): boolean {
  if (program.startsWith('/')) return existsSync(program)
  const dirs = [...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/sbin'] // a user's PATH may lack the last two
  return dirs.some((dir) => existsSync(`${dir}/${program}`))
}

function isRoot(): boolean {
  return process.getuid?.() === 0
}

/** Undefined when it worked, else why not. */
function installed(missing: [program: string, name: string][]): string | undefined {
  for (const args of [
    ['update'],
    ['install', '--yes', '--no-install-recommends', ...missing.map(([, name]) => name)],
  ]) {
    const { status, stderr, error } = spawnSync('apt-get', ['--quiet', ...args], {
      env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
      stdio: ['ignore', 'ignore', 'pipe'],
      encoding: 'utf8',
      timeout: APT_TIMEOUT_MS,
    })
    if (status !== 0) {
      const said = (error?.message ?? stderr).trim().split('\n').at(-1) ?? ''
      return `apt-get ${args[0]}: ${said.replace(/\w+:\/\/\S+/g, '<mirror>')}`
    }
  }
  return undefined
}
