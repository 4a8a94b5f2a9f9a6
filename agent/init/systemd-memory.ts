import { readFile } from 'node:fs/promises'
import { isErrno } from '../../shared/failure.ts'
import type { UnitFacts } from './init-system.ts'

/** Without the memory controller systemd says "not set"; the kernel knows at least about the main process. */
export async function withMemory(facts: UnitFacts): Promise<UnitFacts> {
  if (facts.pid === undefined || facts.memoryBytes !== undefined) return facts
  try {
    const [, kilobytes] = /^VmRSS:\s+(\d+) kB$/m.exec(await readFile(`/proc/${facts.pid}/status`, 'utf8')) ?? []
    return kilobytes === undefined ? facts : { ...facts, memoryBytes: Number(kilobytes) * 1024 }
  } catch (error) {
    // It has ended in the meantime.
    if (isErrno(error, 'ENOENT', 'ESRCH')) return facts
    throw error
  }
}
