import assert from 'node:assert/strict'
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { type TestContext, test } from 'node:test'
import {
  addRevision,
  bindRevision,
  environmentOfRelease,
  highestRevision,
  newestEnvironment,
  newestRevision,
  pruneRevisions,
  revisionOf,
  setNewestRevision,
} from '../../agent/state/env-revisions.ts'
import { layoutAt } from '../../agent/state/layout.ts'
import { makeAppDirs } from '../../agent/state/objects.ts'
import { Failure } from '../../shared/failure.ts'
import { parseAppName, parseReleaseId } from '../../shared/names.ts'
import { tempDir } from '../helpers/ssh.ts'

const APP = parseAppName('shop')
const A = parseReleaseId('20261122T233851Z-0000000a')
const B = parseReleaseId('20261122T233851Z-0000000b')

function appDirs(t: TestContext) {
  const root = tempDir(t)
  const layout = layoutAt(root, root)
  makeAppDirs(layout, APP)
  const release = (id: typeof A) => mkdirSync(layout.releaseDir(APP, id))
  const current = (id: typeof A) => {
    rmSync(layout.currentLink(APP), { force: true })
    symlinkSync(`releases/${id}`, layout.currentLink(APP))
  }
  const add = (DATABASE: string) => addRevision(layout, APP, { by: 'ann', variables: { DATABASE } })
  const files = () => readdirSync(layout.envDir(APP)).sort()
  return { layout, release, current, add, files }
}

test('a revision comes back as it was written, and its file is for the agent alone', async (t) => {
  const { layout } = appDirs(t)
  assert.deepEqual(newestEnvironment(layout, APP), { revision: 0, at: null, by: null, variables: {} })
  const variables = Object.fromEntries([
    ['__proto__', 'own'],
    ['constructor', 'x'],
    ['NASTY', '\n"\\\'$%\x01\u2028🎉'],
    ['EMPTY', ''],
  ])
  const made = await addRevision(layout, APP, { by: 'ann', variables })
  await setNewestRevision(layout, APP, made.revision)
  assert.deepEqual(newestEnvironment(layout, APP), made)
  assert.deepEqual(Object.entries(newestEnvironment(layout, APP).variables), Object.entries(variables))
  assert.equal(statSync(layout.envRevision(APP, 1)).mode & 0o777, 0o600)
})

test('a release keeps the revision it was healthy with; one that never was gets the newest', async (t) => {
  const { layout, release, current, add } = appDirs(t)
  for (const id of [A, B]) release(id)
  await add('one')
  await bindRevision(layout, APP, A, 1)
  await setNewestRevision(layout, APP, 1)
  await add('two')
  assert.equal(newestRevision(layout, APP), 1, 'written is not yet in force')
  await setNewestRevision(layout, APP, 2)
  assert.equal(environmentOfRelease(layout, APP, A).variables.DATABASE, 'one')
  assert.equal(environmentOfRelease(layout, APP, B).variables.DATABASE, 'two')
  assert.equal((await add('three')).revision, 3)
  // Killed after the link of the release and before the other.
  current(B)
  await bindRevision(layout, APP, B, 3)
  assert.deepEqual([newestRevision(layout, APP), highestRevision(layout, APP)], [3, 3])
})

test('pruning leaves what a release on the disk, the next push or the next number needs, and nothing else', async (t) => {
  const { layout, release, current, add, files } = appDirs(t)
  for (const id of [A, B]) release(id)
  current(B)
  for (const text of ['1', '2', '3', '4', '5', '6']) await add(text)
  await bindRevision(layout, APP, A, 2)
  await bindRevision(layout, APP, B, 4)
  await setNewestRevision(layout, APP, 5)
  writeFileSync(layout.envRevision(APP, 1).replace(/1$/, 'web@a.env'), '')
  await pruneRevisions(layout, APP)
  assert.deepEqual(files(), ['2', A, B, '4', '5', '6', 'newest', 'web@a.env'].sort())
  rmSync(layout.releaseDir(APP, A), { recursive: true })
  await pruneRevisions(layout, APP)
  assert.deepEqual(files(), [B, '4', '5', '6', 'newest', 'web@a.env'].sort())
  assert.equal((await add('7')).revision, 7)
  assert.equal(revisionOf(layout, APP, B), 4)
})

test('a revision that is gone or damaged is a failure that quotes nothing of it, and no empty environment', async (t) => {
  const { layout, release, add } = appDirs(t)
  release(A)
  await add('s3cr3t')
  await bindRevision(layout, APP, A, 1)
  const whole = readFileSync(layout.envRevision(APP, 1), 'utf8')
  const damages = [whole.slice(0, -3), whole.replace('"s3cr3t"', '["s3cr3t"]'), '"s3cr3t"', 'null', undefined]
  for (const text of damages) {
    if (text === undefined) rmSync(layout.envRevision(APP, 1))
    else writeFileSync(layout.envRevision(APP, 1), text)
    assert.throws(
      () => environmentOfRelease(layout, APP, A),
      (error) => error instanceof Failure && error.code === 'env_invalid' && !error.message.includes('s3cr3t'),
      text,
    )
  }
  rmSync(layout.releaseEnvLink(APP, A))
  symlinkSync('/etc/passwd', layout.releaseEnvLink(APP, A))
  assert.throws(() => revisionOf(layout, APP, A), /names no revision/)
})
