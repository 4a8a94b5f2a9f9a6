import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { isErrno } from '../../shared/failure.ts'
import type { InstalledUnit } from './init-system.ts'
import { parseUnitName, type UnitOwner, unitOwner } from './systemd-unit.ts'

// Which units of ours there are, by their files: what a boot would find.

export function unitsIn(unitDir: string): string[] {
  return readdirSync(unitDir).filter((name) => parseUnitName(name) !== undefined)
}

export function installedIn(unitDir: string, app: string): InstalledUnit[] {
  const units: InstalledUnit[] = []
  for (const name of unitsIn(unitDir)) {
    const owner = ownerOf(unitDir, name)
    if (owner?.app !== app) continue
    const { service, slot, release, envRevision } = owner
    units.push({ app: owner.app, service, slot, release, envRevision })
  }
  return units
}

export function ownerOf(unitDir: string, unit: string): UnitOwner | undefined {
  const text = readIfThere(join(unitDir, unit))
  return text === undefined ? undefined : unitOwner(text)
}

/** The same with the release that it had at that time, ms since 1970; undefined when that was an earlier one. */
export function ownerThen(unitDir: string, unit: string, atMs: number): InstalledUnit | undefined {
  const owner = ownerOf(unitDir, unit)
  if (owner === undefined) return undefined
  const { app, service, slot, release, envRevision } = owner
  // The file was written before the release that it names was started.
  const isEarlier = atMs < statSync(join(unitDir, unit)).mtimeMs
  return { app, service, slot, envRevision, release: isEarlier ? undefined : release }
}

// Synchronous: 3 KB of text, asked for within a signal, where the order of exits must stay.
export function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined
    throw error
  }
}
