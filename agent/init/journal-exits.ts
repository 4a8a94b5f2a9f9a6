import { constants } from 'node:os'
import type { ExitFact } from '../../shared/wire.ts'
import { run, runLines } from '../run.ts'
import type { PastExit, PastExits } from './init-system.ts'
import { syncJournal } from './journal.ts'
import { ownerThen, unitsIn } from './systemd-files.ts'

// Exits as PID 1 wrote them into the journal, for the time when nobody listened on the bus. Each run of a process has
// one invocation ID, which stands in all that PID 1 says about it.

/** systemd's sd-messages.h. The last two come when a process ended badly, and when it ended well. */
const MESSAGES = {
  stopping: 'de5b426a63be47a7b6ac3eaac82e2f6f',
  outOfMemory: 'fe6faa94e7774663a0da52717891d8ef',
  exited: '98e322203f7a4ed290d09fe03c09fe15',
  deactivated: '7ad2d189f7e94e70a38c781354912448',
} as const
const FIELDS = ['MESSAGE_ID', 'UNIT', 'INVOCATION_ID', 'EXIT_CODE', 'EXIT_STATUS', '_SOURCE_REALTIME_TIMESTAMP']
const CURSOR_TIMEOUT_MS = 30_000

/** Throws `program_failed`. */
export async function exitsInJournal(unitDir: string, place: string | null): Promise<PastExits> {
  await syncJournal()
  // Asked first: what comes meanwhile is then read twice, and known by its run, instead of never.
  const now = await endOfJournal()
  const units = unitsIn(unitDir)
  if (place === null || units.length === 0) return { exits: [], place: now }
  const entries: JournalEntry[] = []
  for await (const line of runLines(argvOf(units, place), new AbortController().signal)) {
    entries.push(JSON.parse(line) as JournalEntry)
  }
  const exits = runsThatEnded(entries).flatMap(({ unit, ...ended }): PastExit[] => {
    const owner = ownerThen(unitDir, unit, Date.parse(ended.exit.at))
    return owner === undefined ? [] : [{ ...owner, ...ended }]
  })
  return { exits, place: now }
}

function argvOf(units: string[], place: string): string[] {
  return [
    'journalctl',
    '--output=json',
    '--no-pager',
    '--quiet',
    `--output-fields=${FIELDS.join(',')}`,
    // Not --after-cursor: with matches it passes over one entry too many (seen on systemd 252, whose journalctl does not
    // look whether the first match is the entry of the cursor). One that is read twice is known by its run.
    `--cursor=${place}`,
    // Every process may write the other fields; this one journald sets by itself.
    '_PID=1',
    ...units.map((unit) => `UNIT=${unit}`),
    ...Object.values(MESSAGES).map((id) => `MESSAGE_ID=${id}`),
  ]
}

async function endOfJournal(): Promise<string> {
  const argv = ['journalctl', '--no-pager', '--quiet', '--lines=0', '--show-cursor']
  const { stdout } = await run(argv, { timeoutMs: CURSOR_TIMEOUT_MS })
  return /^-- cursor: (\S+)$/m.exec(stdout)?.[1] ?? ''
}

/** An entry of `journalctl -o json`, as far as it is read here. */
export type JournalEntry = Partial<Record<string, unknown>>

interface Ended {
  unit: string
  run: string
  exit: ExitFact
}

/** Pure: the runs that ended without being told to, in the order in which they did. */
export function runsThatEnded(entries: readonly JournalEntry[]): Ended[] {
  const asked = new Set<string>()
  const killedForMemory = new Set<string>()
  const ended = new Map<string, Ended>()
  for (const entry of entries) {
    const { MESSAGE_ID, UNIT, INVOCATION_ID: id } = entry
    if (typeof UNIT !== 'string' || typeof id !== 'string') continue
    if (MESSAGE_ID === MESSAGES.stopping) asked.add(id)
    else if (MESSAGE_ID === MESSAGES.outOfMemory) killedForMemory.add(id)
    else if (!asked.has(id) && !ended.has(id)) ended.set(id, { unit: UNIT, run: id, exit: exitOf(entry) })
  }
  // The kernel's word about the memory may come after the exit.
  return [...ended.values()].map((one) => ({ ...one, exit: { ...one.exit, oom: killedForMemory.has(one.run) } }))
}

function exitOf({ EXIT_CODE, EXIT_STATUS, _SOURCE_REALTIME_TIMESTAMP, __REALTIME_TIMESTAMP }: JournalEntry): ExitFact {
  const micros = Number(_SOURCE_REALTIME_TIMESTAMP ?? __REALTIME_TIMESTAMP)
  const about = { oom: false, at: new Date(micros / 1000).toISOString() }
  // With no code it was a good end, of which systemd writes no more.
  if (EXIT_CODE === undefined) return { code: 0, signal: null, ...about }
  if (EXIT_CODE === 'exited') return { code: Number(EXIT_STATUS), signal: null, ...about }
  const known = Object.entries(constants.signals).find(([, value]) => value === Number(EXIT_STATUS))
  return { code: null, signal: known?.[0] ?? `SIG${String(EXIT_STATUS)}`, ...about }
}
