// `npm test`: makes the machine ready, runs every test file, system tests last, and prints one summary.
//
//   npm test                                        everything
//   npm test -- test/shared test/agent/a.test.ts    only these folders and files
//   npm test -- --test-name-pattern='never half'    only tests with this in their title
//
// CI=true or TARMAC_CI=1: a system test that was skipped is a failure.
import { globSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { run } from 'node:test'
import { spec } from 'node:test/reporters'
import { parseArgs } from 'node:util'
import { makeReady } from './helpers/machine.ts'

const ROOT = join(import.meta.dirname, '..')
/** Each boots a machine, and mostly waits for it. */
const SYSTEM = /^test\/system\//
/** Loads the whole of this machine, and says what was lost: nothing may run beside it. */
const ALONE = /^test\/system\/switches\./
const SYSTEM_CONCURRENCY = 2
/**
 * A file that takes longer hangs; the slowest one, with several boots, takes a few minutes. The thousand kills and
 * the full disks of `npm run test:faults` take half an hour each on a busy machine.
 */
const FILE_TIMEOUT_MS = (process.env.TARMAC_FAULTS === 'all' ? 60 : 15) * 60_000
/** Tests wait for processes more than they compute, so two at once pay even on one core. */
const MIN_CONCURRENCY = 2

type Event = { type: string; data: EventData }
interface EventData {
  name?: string
  file?: string
  skip?: boolean | string
  nesting?: number
  message?: string
  counts?: Record<string, number>
  duration_ms?: number
}
interface Skipped {
  file: string
  title: string
  reason: string
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { 'test-name-pattern': { type: 'string', multiple: true, default: [] } },
  })
  const files = chosenFiles(positionals)
  // Client and agent are started over a thousand times from source: a third of what test/flow computed was compiling them.
  const cache = mkdtempSync(join(tmpdir(), 'tarmac-compiled-'))
  process.on('exit', () => rmSync(cache, { recursive: true, force: true }))
  process.env.NODE_COMPILE_CACHE = cache
  const reporter = new spec()
  reporter.pipe(process.stdout)
  await pipeline(Readable.from(events(files, values['test-name-pattern'])), reporter, { end: true })
}

/** Test files below the folders, or the files, that were named; all when none was. Relative to the checkout, sorted. */
function chosenFiles(wanted: string[]): string[] {
  const all = globSync('test/**/*.test.ts', { cwd: ROOT, exclude: ['test/fixtures/**'] }).sort()
  if (wanted.length === 0) return all
  const chosen = wanted.flatMap((name) => {
    const path = relative(ROOT, join(process.cwd(), name))
    if (statSync(join(ROOT, path), { throwIfNoEntry: false })?.isFile()) return [path]
    const below = all.filter((file) => file.startsWith(`${path}/`) || path === '')
    if (below.length === 0) throw new Error(`npm test ${name}: no test file there`)
    return below
  })
  return [...new Set(chosen)]
}

/** The events of all files as of one run: what the runner says at its end is held back and added up. */
async function* events(files: string[], testNamePatterns: string[]): AsyncGenerator<Event> {
  const system = files.filter((file) => SYSTEM.test(file))
  const others = files.filter((file) => !SYSTEM.test(file))
  const totals: Record<string, number> = {}
  const skipped: Skipped[] = []
  const started = performance.now()
  const notReady = makeReady({ systemTests: system.length > 0 })

  const phases = [{ files: others, concurrency: Math.max(MIN_CONCURRENCY, availableParallelism()) }]
  if (notReady === undefined) {
    phases.push({ files: system.filter((file) => !ALONE.test(file)), concurrency: SYSTEM_CONCURRENCY })
    phases.push({ files: system.filter((file) => ALONE.test(file)), concurrency: 1 })
  }
  for (const phase of phases.filter((phase) => phase.files.length > 0)) {
    const stream: AsyncIterable<Event> = run({
      files: phase.files.map((file) => join(ROOT, file)),
      concurrency: phase.concurrency,
      timeout: FILE_TIMEOUT_MS,
      ...(testNamePatterns.length > 0 ? { testNamePatterns } : {}),
    })
    for await (const event of stream) {
      const { type, data } = event
      if (type === 'test:summary' && data.file === undefined) {
        for (const [what, count] of Object.entries(data.counts ?? {})) totals[what] = (totals[what] ?? 0) + count
      } else if (!isClosingLine(event)) {
        if (type === 'test:pass' && data.skip) skipped.push(skippedOf(data))
        yield event
      }
    }
  }
  if (notReady !== undefined) {
    for (const file of system) {
      skipped.push({ file, title: 'the whole file', reason: notReady })
      totals.skipped = (totals.skipped ?? 0) + 1
      totals.tests = (totals.tests ?? 0) + 1
    }
  }
  yield* closing({ totals, skipped, ms: performance.now() - started })
}

/** `tests 12`, `duration_ms 5.1` and their like: the only diagnostics that belong to no file. */
function isClosingLine({ type, data }: Event): boolean {
  return (
    type === 'test:diagnostic' &&
    data.nesting === 0 &&
    /^(tests|suites|pass|fail|cancelled|skipped|todo|duration_ms) \d/.test(data.message ?? '')
  )
}

function skippedOf({ file, name, skip }: EventData): Skipped {
  return {
    file: file === undefined ? '?' : relative(ROOT, file),
    title: name ?? '?',
    reason: typeof skip === 'string' ? skip : 'no reason given',
  }
}

function* closing(end: { totals: Record<string, number>; skipped: Skipped[]; ms: number }): Generator<Event> {
  const { totals, skipped } = end
  for (const { file, title, reason } of skipped) yield line(`skipped: ${file}: ${title}: ${reason}`)
  const skippedSystem = skipped.filter(({ file }) => SYSTEM.test(file))
  const inCi = process.env.CI === 'true' || process.env.TARMAC_CI === '1'
  if (inCi && skippedSystem.length > 0) {
    process.exitCode = 1
    yield line(`failed: in CI no system test may be skipped, and ${skippedSystem.length} of them were`)
  }
  if ((totals.failed ?? 0) + (totals.cancelled ?? 0) > 0) process.exitCode = 1
  for (const [word, key] of Object.entries(SUMMARY)) yield line(`${word} ${totals[key] ?? 0}`)
  yield line(`duration_ms ${end.ms.toFixed(0)}`)
}

/** The runner's words → its counts' names. */
const SUMMARY = {
  tests: 'tests',
  suites: 'suites',
  pass: 'passed',
  fail: 'failed',
  cancelled: 'cancelled',
  skipped: 'skipped',
  todo: 'todo',
} as const

function line(message: string): Event {
  return { type: 'test:diagnostic', data: { nesting: 0, message } }
}

await main()
