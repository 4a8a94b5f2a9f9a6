import { mkdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Failure } from '../../shared/failure.ts'
import type { AppName, ServiceName } from '../../shared/names.ts'
import { writeWhole } from '../state/disk.ts'
import { removeTree } from '../state/remove.ts'
import type { ServiceKey, ServicePort, UnitFacts, UnitKey } from './init-system.ts'
import { readIfThere } from './systemd-files.ts'
import { givenUpFile, holdFile, holdName, holdText, socketName, socketText } from './systemd-socket-unit.ts'

export interface PortParts {
  unitDir: string
  systemctl(args: string[], options?: { okExits?: number[] }): Promise<{ stdout: string }>
}

const OK_OR_NOTHING_TO_DO = [0, 1, 3, 4, 5]

export function createPorts({ unitDir, systemctl }: PortParts) {
  const fileOf = (unit: string) => join(unitDir, unit)
  const isActive = async (unit: string) =>
    (await systemctl(['is-active', unit], { okExits: OK_OR_NOTHING_TO_DO })).stdout.trim() === 'active'
  return {
    async openPort(port: ServicePort): Promise<void> {
      const socket = socketName(port)
      const text = socketText(port)
      const before = readIfThere(fileOf(socket))
      if (before !== undefined && !before.includes(`\nApp=${port.app}\nService=${port.service}\n`)) {
        throw new Failure('app_mismatch', `open port ${port.port}: ${fileOf(socket)} belongs to another app`, {
          hint: 'choose another name for the service',
        })
      }
      if (before === text && (await isActive(socket))) return
      await writeWhole(fileOf(holdName(port)), holdText(port), { mode: 0o644 })
      await writeWhole(fileOf(socket), text, { mode: 0o644 })
      await systemctl(['daemon-reload'])
      await systemctl(['reset-failed', socket, holdName(port)], { okExits: OK_OR_NOTHING_TO_DO })
      try {
        // A restart would take the slots along that require the socket. One that systemd lost with a start limit is opened
        // again beside the slot that still has it; but systemd opens no socket whose own service, the hold, is active.
        if (before === text) await systemctl(['stop', holdName(port)], { okExits: OK_OR_NOTHING_TO_DO })
        await systemctl([before === text ? 'start' : 'restart', socket])
      } catch (cause) {
        throw new Failure(
          'program_failed',
          `open port ${port.port} of ${port.app} ${port.service}: systemd could not bind it`,
          {
            hint: `what has it now? ss -ltnp 'sport = :${port.port}'`,
            cause,
          },
        )
      }
      await systemctl(['enable', '--no-reload', '--quiet', socket])
    },
    async refusePort(key: ServiceKey): Promise<void> {
      if (readIfThere(fileOf(socketName(key))) === undefined) return
      await systemctl(['stop', socketName(key), holdName(key)], { okExits: OK_OR_NOTHING_TO_DO })
    },
    async closePort(key: ServiceKey): Promise<void> {
      const socket = socketName(key)
      if (readIfThere(fileOf(socket)) === undefined) return
      await systemctl(['disable', '--no-reload', '--quiet', socket])
      await systemctl(['stop', socket, holdName(key)], { okExits: OK_OR_NOTHING_TO_DO })
      for (const unit of [socket, holdName(key)]) await removeTree(fileOf(unit))
      await systemctl(['daemon-reload'])
    },
    openPorts(app: AppName, units: string[]): ServicePort[] {
      return units.flatMap((name) => {
        const text = name.endsWith('.socket') && !name.includes('@') ? readIfThere(fileOf(name)) : undefined
        const [, owner, service, port] = /\n\[X-Tarmac\]\nApp=(.*)\nService=(.*)\nPort=(\d+)\n/.exec(text ?? '') ?? []
        return owner === app && service !== undefined
          ? [{ app, service: service as ServiceName, port: Number(port) }]
          : []
      })
    },
    async hold(unit: UnitKey): Promise<void> {
      await mkdir(dirname(holdFile(unit)), { recursive: true, mode: 0o700 })
      await writeWhole(holdFile(unit), 'TARMAC_HOLD=1\n', { mode: 0o600 })
    },
    unhold: (unit: UnitKey) => removeTree(holdFile(unit)),
    /** What was known of a unit when the agent ended its loop: systemd forgets it with the stop. */
    async noteGivenUp(unit: UnitKey, facts: UnitFacts): Promise<void> {
      await mkdir(dirname(givenUpFile(unit)), { recursive: true, mode: 0o700 })
      const { respawns, lastExit } = facts
      await writeWhole(givenUpFile(unit), JSON.stringify({ respawns, lastExit }), { mode: 0o600 })
    },
    givenUp(unit: UnitKey): UnitFacts | undefined {
      const text = readIfThere(givenUpFile(unit))
      if (text === undefined) return undefined
      const { respawns, lastExit } = JSON.parse(text) as Pick<UnitFacts, 'respawns' | 'lastExit'>
      return { state: 'gave-up', pid: undefined, since: undefined, memoryBytes: undefined, respawns, lastExit }
    },
    forgetGivenUp: (unit: UnitKey) => removeTree(givenUpFile(unit)),
    async forget(unit: UnitKey): Promise<void> {
      for (const file of [holdFile(unit), givenUpFile(unit)]) await removeTree(file)
    },
  }
}
