import assert from 'node:assert/strict'
import { availableParallelism } from 'node:os'
import { type TestContext, test } from 'node:test'
import { cutOff, KINDS, type Kind, type Mode, placesOf, quickProject } from '../helpers/fault-changes.ts'
import { builtPrograms, makeWorld, type Programs } from '../helpers/world.ts'

// The agent is ended by SIGKILL at every place where something has just become lasting, in every kind of change; then it
// is started again, and all invariants are checked. `npm run test:faults` takes each place every time that it is reached;
// `npm test` takes each place in one change, the last time, and every tenth in the others; where a switch stops and
// starts, only in those changes that take another way there, and of what they write alike every tenth.

const isWhole = process.env.TARMAC_FAULTS === 'all'
const MODES: Mode[] = ['slots', 'restart']
const EACH_NTH = isWhole ? 1 : 10
const OTHER_WAYS = ['push', 'failing push']
/** An exit of what the last agent left is recorded by who sees it first. */
const SOMETIMES = new Set(['ledger.recordExit'])
/** Most of a cell is waiting for processes. */
const CONCURRENCY = availableParallelism() + 1

interface Column {
  mode: Mode
  kind: Kind
  row: Map<string, { held: number; broken: number }>
}

test('an agent killed at any place of any change leaves a host in order', { concurrency: CONCURRENCY }, async (t) => {
  const programs = await builtPrograms(t)
  const columns = MODES.flatMap((mode) =>
    KINDS.filter(({ name }) => isWhole || mode === 'slots' || OTHER_WAYS.includes(name)).map(
      (kind): Column => ({ mode, kind, row: new Map() }),
    ),
  )
  const taken = new Set<string>()
  const began = Date.now()
  await Promise.all(
    columns.map((column) =>
      t.test(`${column.kind.name}, switch = "${column.mode}"`, (t) => fill(t, { programs, column, taken })),
    ),
  )
  for (const mode of MODES) {
    for (const line of table(columns.filter((column) => column.mode === mode))) t.diagnostic(line)
  }
  const cells = columns.flatMap(({ row }) => [...row.values()])
  const held = cells.reduce((sum, cell) => sum + cell.held, 0)
  const broken = cells.reduce((sum, cell) => sum + cell.broken, 0)
  t.diagnostic(
    `${held + broken} kills, ${broken} of them left something broken; ${Math.round((Date.now() - began) / 1000)} s`,
  )
})

async function fill(
  t: TestContext,
  { programs, column, taken }: { programs: Programs; column: Column; taken: Set<string> },
): Promise<void> {
  const { mode, kind, row } = column
  const world = await makeWorld(t, { faults: true, programs })
  quickProject(world, mode)
  // As many as are kept, so that each further push prunes.
  for (const version of ['1', '2', '3']) {
    world.version(version)
    const { exit, stderr } = await world.tarmac('push')
    assert.equal(exit, 0, stderr)
  }
  const wrong: string[] = []
  const orphans = new Set<string>()
  const places = [...(await placesOf(world, kind))]
  for (const [index, [point, times]] of places.entries()) {
    const cell = { held: 0, broken: 0 }
    row.set(point, cell)
    // What is written is written alike, whatever becomes of the processes.
    const place = /^(init|step)/.test(point) ? `${mode} ${point}` : point
    if (index % EACH_NTH !== 0 && taken.has(place)) continue
    taken.add(place)
    for (let nth = isWhole ? 1 : times; nth <= times; nth++) {
      const broken = await cutOff(world, kind, { point, nth, orphans })
      // How often a place is reached varies; that it is reached at all does not.
      if (broken === undefined) continue
      if (broken.length === 0) cell.held++
      else {
        cell.broken++
        wrong.push(`${point} ${nth}: ${broken.join('; ')}`)
      }
    }
    if (isWhole && cell.held + cell.broken === 0 && !SOMETIMES.has(point))
      wrong.push(`${point}: not reached in ${times} tries`)
  }
  assert.deepEqual(wrong, [])
}

/**
 * Places down, changes across: ✓ and how many times one was taken and all held, ✗ and how many times it did not; a dot
 * where the change does not come by, a dash where it was not cut off in this run.
 */
function table(columns: Column[]): string[] {
  const points = [...new Set(columns.flatMap(({ row }) => [...row.keys()]))].sort()
  const width = Math.max(...points.map((point) => point.length))
  const cellOf = (row: Column['row'], point: string) => {
    const cell = row.get(point)
    if (cell === undefined) return '·'
    if (cell.held + cell.broken === 0) return '-'
    return cell.broken > 0 ? `✗${cell.broken}` : `✓${cell.held}`
  }
  const head = columns.map(({ kind }) => kind.name)
  return [
    `${`switch = "${columns[0]?.mode}"`.padEnd(width)}  ${head.join('  ')}`,
    ...points.map((point) => {
      const cells = columns.map(({ kind, row }) => cellOf(row, point).padEnd(kind.name.length))
      return `${point.padEnd(width)}  ${cells.join('  ')}`
    }),
  ]
}
