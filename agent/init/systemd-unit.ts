import { join } from 'node:path'
import { Failure } from '../../shared/failure.ts'
import type { Command } from '../../shared/manifest.ts'
import { isReleaseId, parseAppName, parseServiceName, type ReleaseId, SLOTS, type Slot } from '../../shared/names.ts'
import type { UnitKey, UnitSpec } from './init-system.ts'
import { execText, pathText, plainText } from './systemd-escape.ts'
import { socketLines } from './systemd-socket-unit.ts'

// The text of one slot's unit file. Pure. A whole file of its own for each slot, not a template: writing the idle slot
// cannot change the one that serves.

/** The oldest systemd whose directives are used here: Ubuntu 22.04. */
export const OLDEST_SYSTEMD = 249
const OWNER_SECTION = '[X-Tarmac]'
const UNIT_NAME = /^tarmac-([a-z0-9-]+)@([ab])\.service$/

/**
 * `tarmac-<app>-<service>@<slot>.service`. Both names may hold dashes, so two pairs can give one name: the file says
 * whose it is (`unitOwner`), and nobody else may touch it.
 */
export function unitName({ app, service, slot }: UnitKey): string {
  return `tarmac-${app}-${service}@${slot}.service`
}

/** What the name alone tells; undefined when it is no name of ours. */
export function parseUnitName(name: string): { appAndService: string; slot: Slot } | undefined {
  const [, appAndService, letter] = UNIT_NAME.exec(name) ?? []
  const slot = SLOTS.find((each) => each === letter)
  return appAndService === undefined || slot === undefined ? undefined : { appAndService, slot }
}

export interface UnitOwner extends UnitKey {
  release: ReleaseId | undefined
  envFile: string | undefined
  envRevision: number
}

/** Whose unit a file is, by its own words; undefined when tarmac did not write it. */
export function unitOwner(text: string): UnitOwner | undefined {
  const [, section] = text.split(`\n${OWNER_SECTION}\n`)
  if (section === undefined) return undefined
  const [own = ''] = section.split('\n[')
  const pairs = own
    .split('\n')
    .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)] as const)
  const fields = new Map(pairs)
  const slot = SLOTS.find((each) => each === fields.get('Slot'))
  if (slot === undefined) return undefined
  const release = fields.get('Release')
  try {
    const app = parseAppName(fields.get('App'))
    const service = parseServiceName(fields.get('Service'))
    const envFile = fields.get('EnvFile')?.replaceAll('%%', '%')
    // Units of an agent that knew no revisions have none.
    const envRevision = Number(fields.get('EnvRevision') ?? 0)
    return { app, service, slot, release: isReleaseId(release) ? release : undefined, envFile, envRevision }
  } catch (error) {
    // A name that is none of ours: somebody else's file, or edited beyond recognition. Either way not ours to touch.
    if (error instanceof Failure) return undefined
    throw error
  }
}

/** Throws `command_refused` or `config_invalid` when systemd could not run exactly what the spec says. */
export function unitText(unit: UnitSpec, { systemdVersion }: { systemdVersion: number }): string {
  const { app, service, slot, release, handover } = unit
  const sockets = handover && socketLines(unit, handover)
  return `# Managed by tarmac: written anew by every push, so changes made here are lost.
[Unit]
Description=${app} ${service}, slot ${slot}, release ${release}
After=network-online.target
Wants=network-online.target
${startLimit(unit)}${sockets === undefined ? '' : `\n${sockets.unit}`}

[Service]
${process(unit)}${sockets === undefined ? '' : `\n${sockets.service}`}

${logging(unit)}

${limits(unit, systemdVersion)}

${SANDBOX}
${files(unit)}

[Install]
WantedBy=multi-user.target

${OWNER_SECTION}
App=${app}
Service=${service}
Slot=${slot}
Release=${release}
EnvFile=${plainText(unit.envFile)}
EnvRevision=${unit.envRevision}
`
}

// The respawn limit stands here and not in the agent, so that it holds without the agent and after a reboot.
function startLimit({ spec: { restart } }: UnitSpec): string {
  return `StartLimitIntervalSec=${span(restart.withinMs)}
StartLimitBurst=${restart.attempts}`
}

/** For an admin to read: whole seconds as such. */
function span(ms: number): string {
  return ms % 1000 === 0 ? `${ms / 1000}s` : `${ms}ms`
}

function process({ spec, account, treeDir, envFile }: UnitSpec): string {
  // exec: the process itself gets SIGTERM and sees to its children. A shell dies at once and "mixed" would then SIGKILL
  // the app it started: there every process is asked.
  const killMode = 'exec' in spec.command ? 'mixed' : 'control-group'
  // Type=exec: a start fails when the program cannot be run at all; "simple" would say it is fine.
  return `Type=exec
ExecStart=${execText(argvOf(spec.command, treeDir))}
WorkingDirectory=${plainText(treeDir)}
User=${account.user}
Group=${account.user}
UMask=0027
EnvironmentFile=${plainText(envFile)}
Restart=always
RestartSec=${span(spec.restart.delayMs)}
KillMode=${killMode}
TimeoutStopSec=${span(spec.stopTimeoutMs)}
# 128 + SIGTERM: how Next.js and others end when they were asked to
SuccessExitStatus=143`
}

// A relative program is one of the release; systemd would look for it in its own list of directories only.
function argvOf(command: Command, treeDir: string): string[] {
  if ('shell' in command) return ['/bin/sh', '-c', command.shell]
  const [program = '', ...args] = command.exec
  return [program.includes('/') && !program.startsWith('/') ? join(treeDir, program) : program, ...args]
}

function logging({ app, service, slot, release }: UnitSpec): string {
  return `SyslogIdentifier=tarmac-${app}-${service}
LogExtraFields=RELEASE=${release} TARMAC_APP=${app} TARMAC_SERVICE=${service} TARMAC_SLOT=${slot}`
}

function limits({ spec }: UnitSpec, systemdVersion: number): string {
  const { memoryBytes, tasks } = spec.limits ?? {}
  return [
    'OOMPolicy=stop',
    ...(memoryBytes === undefined ? [] : [`MemoryMax=${memoryBytes}`]),
    ...(tasks === undefined ? [] : [`TasksMax=${tasks}`]),
    // From 254 on systemd adds MEMORY_PRESSURE_* to the environment by itself; ours is whole.
    ...(systemdVersion >= 254 ? ['MemoryPressureWatch=skip'] : []),
  ].join('\n')
}

// Exposure 1.2 by systemd-analyze security, with all of Node's features working. Not here, because they break Node:
// MemoryDenyWriteExecute (V8 compiles at run time) and ProcSubset=pid (os.cpus() would be empty). @setuid stays allowed:
// gunicorn's workers set the user they are already, and do not start when even that is denied. Any other is denied
// by the kernel, with no capability to do it.
const SANDBOX = `NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
DevicePolicy=closed
PrivateUsers=yes
PrivateIPC=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallFilter=@setuid
SystemCallErrorNumber=EPERM`

// Nothing of any app is visible but this release and, at their own paths, the directories this app may write.
function files({ appsDir, treeDir, writableDirs }: UnitSpec): string {
  return [
    'InaccessiblePaths=-/etc/tarmac -/run/tarmac',
    `TemporaryFileSystem=${pathText(appsDir)}:ro`,
    `BindReadOnlyPaths=${pathText(treeDir)}`,
    ...writableDirs.map((path) => `BindPaths=${pathText(path)}`),
  ].join('\n')
}
