import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { availableParallelism, cpus, release, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import { run } from './programs.ts'

// A file a measure, written over by the next run: git keeps the older ones.

const RESULTS = join(import.meta.dirname, 'results')

export interface Machine {
  cores: number
  cpu: string
  memoryBytes: number
  kernel: string
  fileSystem: string
  node: string
}

/** With the date, the machine and the load that others put on it. Gives where it lies. */
export async function writeResult(name: string, result: object, file = join(RESULTS, `${name}.json`)): Promise<string> {
  mkdirSync(dirname(file), { recursive: true })
  const head = { date: new Date().toISOString(), machine: await machine(), loadAverage: loadAverage() }
  writeFileSync(file, `${JSON.stringify({ ...head, ...result }, null, 1)}\n`)
  return file
}

/** What the last run wrote there, if any. */
export function readResult<T>(name: string, file = join(RESULTS, `${name}.json`)): T | undefined {
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as T) : undefined
}

export function writePlot(name: string, svg: string, file = join(RESULTS, `${name}.svg`)): string {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, svg)
  return file
}

async function machine(): Promise<Machine> {
  const { stdout } = await run(['stat', '-f', '-c', '%T', '/var/tmp'])
  return {
    cores: availableParallelism(),
    cpu: cpus()[0]?.model ?? '?',
    memoryBytes: totalmem(),
    kernel: release(),
    fileSystem: stdout.trim(),
    node: process.version,
  }
}

/** The load of others makes every figure worse: told, so that nobody wonders. */
export function loadAverage(): string {
  return readFileSync('/proc/loadavg', 'utf8').split(' ').slice(0, 3).join(' ')
}
