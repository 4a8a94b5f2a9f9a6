import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { test } from 'node:test'
import { run } from '../../agent/run.ts'
import { asFailure, nameOfTrouble, troubleWords } from '../../agent/state/trouble.ts'
import { Failure } from '../../shared/failure.ts'

const ROOT = import.meta.dirname

function thrownBy(work: () => unknown): unknown {
  try {
    work()
  } catch (error) {
    return error
  }
  throw new Error('it did not throw')
}

test('a full disk is told with what is free there, and each kind of trouble has a code of its own', () => {
  const codes = { ENOSPC: 'disk_full', EDQUOT: 'disk_full', EROFS: 'disk_read_only', EIO: 'disk_failing' }
  for (const [name, code] of Object.entries({ ...codes, EMFILE: 'files_exhausted', ENFILE: 'files_exhausted' })) {
    const error = Object.assign(new Error(`${name}: said so, open '${ROOT}/not/there/file'`), {
      code: name,
      path: `${ROOT}/not/there/file`,
    })
    const failure = asFailure('push shop', error, '/')
    assert.equal(failure?.code, code)
    assert.equal(failure?.exit, 3)
    assert.match(failure?.message ?? '', new RegExp(`^push shop: .*${name}: said so`))
    if (code === 'disk_full') assert.match(failure?.message ?? '', new RegExp(` and \\d+ inodes are free at ${ROOT}: `))
  }
})

test('trouble is known by its errno, by the words of a program, and by the code of SQLite', async () => {
  assert.equal(nameOfTrouble(thrownBy(() => writeFileSync('/dev/full', 'x'))), 'ENOSPC')
  const said = await run(['cp', '/etc/passwd', '/dev/full'], { timeoutMs: 10_000 }).catch((error: unknown) => error)
  assert.equal(asFailure('copy it', said, '/')?.code, 'disk_full')
  const db = new DatabaseSync(':memory:')
  db.exec('CREATE TABLE t (x TEXT) STRICT; PRAGMA max_page_count = 2')
  const full = thrownBy(() => db.prepare('INSERT INTO t VALUES (?)').run('x'.repeat(100_000)))
  assert.equal(asFailure('note it', full, '/')?.code, 'disk_full')
  db.exec('PRAGMA query_only = 1')
  assert.equal(nameOfTrouble(thrownBy(() => db.exec("INSERT INTO t VALUES ('x')"))), 'EROFS')
  db.close()
})

test('what is no trouble of the machine stays what it is', () => {
  const failure = new Failure('object_missing', 'ENOSPC is in its words alone')
  assert.equal(asFailure('x', failure, '/'), failure)
  assert.equal(asFailure('x', new TypeError('a bug'), '/'), undefined)
  assert.equal(
    asFailure(
      'x',
      thrownBy(() => readFileSync('/nowhere')),
      '/',
    ),
    undefined,
  )
  assert.equal(troubleWords(new Error('a bug'), '/'), 'a bug')
})
