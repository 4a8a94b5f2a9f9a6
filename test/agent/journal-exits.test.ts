import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type JournalEntry, runsThatEnded } from '../../agent/init/journal-exits.ts'

// Entries as systemd 252 wrote them, in its order.

const STOPPING = 'de5b426a63be47a7b6ac3eaac82e2f6f'
const EXITED = '98e322203f7a4ed290d09fe03c09fe15'
const DEACTIVATED = '7ad2d189f7e94e70a38c781354912448'
const OUT_OF_MEMORY = 'fe6faa94e7774663a0da52717891d8ef'
const UNIT = 'tarmac-shop-web@a.service'
const MICROS = 1_795_535_868_817_820

function entry(run: string, MESSAGE_ID: string, more: JournalEntry = {}): JournalEntry {
  return { MESSAGE_ID, UNIT, INVOCATION_ID: run, _SOURCE_REALTIME_TIMESTAMP: String(MICROS), ...more }
}
const exited = (run: string, code: string, status: string) =>
  entry(run, EXITED, { EXIT_CODE: code, EXIT_STATUS: status })
const told = (entries: JournalEntry[]) =>
  runsThatEnded(entries).map(({ run, exit: { code, signal, oom } }) => [run, code, signal, oom])

test('a run that ended badly, by a signal, or well, ended once, with its time', () => {
  const entries = [exited('1', 'exited', '3'), exited('2', 'killed', '9'), exited('3', 'dumped', '11')]
  assert.deepEqual(told([...entries, entry('4', DEACTIVATED)]), [
    ['1', 3, null, false],
    ['2', null, 'SIGKILL', false],
    ['3', null, 'SIGSEGV', false],
    ['4', 0, null, false],
  ])
  const [first] = runsThatEnded(entries)
  assert.deepEqual([first?.unit, first?.exit.at], [UNIT, new Date(MICROS / 1000).toISOString()])
})

test('what was told to stop is no exit, however it ended; a stop that came after the exit changes nothing', () => {
  const stopped = [entry('1', STOPPING), exited('1', 'exited', '1')]
  const stoppedWell = [entry('2', STOPPING), entry('2', DEACTIVATED)]
  const stoppedLater = [exited('3', 'exited', '1'), entry('3', STOPPING)]
  assert.deepEqual(told([...stopped, ...stoppedWell, ...stoppedLater]), [['3', 1, null, false]])
})

test('the kernel may say that it was the memory before or after the exit', () => {
  const before = [entry('1', OUT_OF_MEMORY), exited('1', 'killed', '9')]
  const after = [exited('2', 'killed', '9'), entry('2', OUT_OF_MEMORY)]
  assert.deepEqual(told([...before, ...after, exited('3', 'killed', '9')]), [
    ['1', null, 'SIGKILL', true],
    ['2', null, 'SIGKILL', true],
    ['3', null, 'SIGKILL', false],
  ])
})

test('an entry that names no unit or no run is passed over', () => {
  assert.deepEqual(told([{ MESSAGE_ID: EXITED, UNIT }, { MESSAGE_ID: EXITED, INVOCATION_ID: '1' }, {}]), [])
})
