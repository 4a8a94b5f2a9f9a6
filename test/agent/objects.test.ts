import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { existsSync, linkSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { layoutAt } from '../../agent/state/layout.ts'
import {
  bytesFreed,
  countOrphans,
  lookThrough,
  removeObjectsOf,
  removeOrphans,
} from '../../agent/state/object-sweep.ts'
import { linkObject, makeAppDirs, removeObjects, storeObject } from '../../agent/state/objects.ts'
import { surveyStore } from '../../agent/state/store-survey.ts'
import { Failure } from '../../shared/failure.ts'
import { isFile, normaliseManifest } from '../../shared/manifest.ts'
import { parseAppName, sha256 } from '../../shared/names.ts'
import { tempDir } from '../helpers/ssh.ts'

const APP = parseAppName('shop')
const NONE = { objects: 0, bytes: 0 }

function storeIn(t: TestContext) {
  const root = tempDir(t)
  const layout = layoutAt(root, join(root, 'etc'))
  makeAppDirs(layout, APP)
  const store = async (text: string, as: { sha256?: ReturnType<typeof sha256>; mode?: '0644' | '0755' } = {}) => {
    const digest = as.sha256 ?? sha256(text)
    const half = text.length >> 1
    async function* content() {
      yield Buffer.from(text.slice(0, half))
      yield Buffer.from(text.slice(half))
    }
    const object = { sha256: digest, size: text.length, content: content() }
    const path = await storeObject(layout, APP, object, as.mode ?? '0644')
    assert.ok(path !== undefined, 'it was there already')
    return path
  }
  const staging = () => readdirSync(layout.stagingDir(APP))
  return { layout, store, staging, release: join(root, 'release') }
}

function manifestOf(files: { path: string; text: string; mode?: '0644' | '0755' }[]) {
  return normaliseManifest({
    format: 1,
    app: 'shop',
    created: '2026-11-22T23:38:51Z',
    services: {
      web: {
        command: { exec: ['node'] },
        health: { intervalMs: 100, timeoutMs: 1000, settleMs: 0 },
        restart: { attempts: 1, withinMs: 1000, delayMs: 0 },
        stopTimeoutMs: 1000,
      },
    },
    shared: [],
    keep: { releases: 2, failed: 0 },
    files: files.map(({ path, text, mode = '0644' }) => ({ path, mode, size: text.length, sha256: sha256(text) })),
  })
}

test('an object lies under its digest, read-only, executable under a name of its own, and staging is empty', async (t) => {
  const { layout, store, staging } = storeIn(t)
  const plain = await store('hello')
  const tool = await store('hello', { mode: '0755' })
  assert.equal(plain, layout.object(APP, sha256('hello'), '0644'))
  assert.deepEqual([statSync(plain).mode & 0o7777, statSync(tool).mode & 0o7777], [0o444, 0o555])
  assert.notEqual(statSync(plain).ino, statSync(tool).ino)
  assert.deepEqual(staging(), [])
  assert.equal((await lookThrough(layout, APP)).bytes, 10)
})

test('bytes that are not those of the digest leave nothing, small or large, however far they came', async (t) => {
  const { layout, store, staging } = storeIn(t)
  for (const text of ['small', 'x'.repeat(3 * 1024 * 1024)]) {
    const digest = sha256('other')
    await assert.rejects(
      store(text, { sha256: digest }),
      (error) => error instanceof Failure && error.code === 'object_mismatch',
    )
    assert.ok(!existsSync(layout.object(APP, digest, '0644')))
  }
  async function* cut(): AsyncGenerator<Buffer> {
    yield Buffer.alloc(1024)
    throw new Error('the connection ended')
  }
  for (const size of [2048, 4 * 1024 * 1024])
    await assert.rejects(storeObject(layout, APP, { sha256: sha256('x'), size, content: cut() }, '0644'), /ended/)
  assert.deepEqual(staging(), [])
  assert.equal((await lookThrough(layout, APP)).bytes, 0)
})

test('a large object is whole', async (t) => {
  const { store } = storeIn(t)
  const text = 'abcdefgh'.repeat(400_000)
  const path = await store(text)
  assert.equal(createHash('sha256').update(readFileSync(path)).digest('hex'), sha256(text))
})

test('what is there in either mode is not missing, and is linked in the mode a release needs', async (t) => {
  const { layout, store, staging, release } = storeIn(t)
  const manifest = manifestOf([
    { path: 'a', text: 'one' },
    { path: 'b', text: 'one', mode: '0755' },
    { path: 'c', text: 'two' },
  ])
  await store('one')
  const { missing, lacking } = await surveyStore(layout, manifest)
  assert.deepEqual(missing, [sha256('two')])
  const lacks = lacking.objects.map(({ sha256, mode }) => [sha256, mode])
  assert.deepEqual(lacks, [
    [sha256('one'), '0755'],
    [sha256('two'), '0644'],
  ])
  mkdirSync(release)
  linkObject(layout, APP, { sha256: sha256('one'), mode: '0755', size: 3 }, join(release, 'b'))
  assert.equal(statSync(join(release, 'b')).mode & 0o7777, 0o555)
  assert.equal(statSync(layout.object(APP, sha256('one'), '0644')).mode & 0o7777, 0o444, 'the other one is as it was')
  assert.throws(
    () => linkObject(layout, APP, { sha256: sha256('two'), mode: '0644', size: 3 }, join(release, 'c')),
    (error) => error instanceof Failure && error.code === 'object_missing',
  )
  assert.deepEqual(staging(), [])
})

test('orphans go when they are old; a refusal takes back only what it brought', async (t) => {
  const { layout, store, release } = storeIn(t)
  const [used, idle, refused] = [await store('used'), await store('idle!'), await store('used too')]
  mkdirSync(release)
  for (const path of [used, refused]) linkSync(path, join(release, path.slice(-8)))
  removeObjects([refused])
  assert.ok(existsSync(refused), 'a release has it by now')
  const young = { graceMs: 3_600_000 }
  const looked = () => lookThrough(layout, APP)
  assert.partialDeepStrictEqual(
    [await countOrphans(await looked(), young), await removeOrphans(await looked(), young)],
    [NONE, NONE],
  )
  const old = { graceMs: 0 }
  const idleOne = { objects: 1, bytes: 5 }
  assert.partialDeepStrictEqual(
    [await countOrphans(await looked(), old), await removeOrphans(await looked(), old)],
    [idleOne, idleOne],
  )
  assert.deepEqual([existsSync(used), existsSync(idle)], [true, false])
  removeObjects([await store('brought')])
  assert.equal((await lookThrough(layout, APP)).bytes, 12)
  assert.partialDeepStrictEqual(await removeOrphans(await lookThrough(layout, parseAppName('nowhere')), old), NONE)
})

test('what lies among the objects and is none is neither counted nor removed', async (t) => {
  const { layout, store } = storeIn(t)
  const shard = dirname(await store('one'))
  const strays = [
    join(shard, 'notes.txt'),
    join(layout.objectsDir(APP), 'README'),
    join(layout.objectsDir(APP), 'lost+found'),
  ]
  for (const path of strays.slice(0, 2)) writeFileSync(path, 'kept')
  mkdirSync(join(strays[2] ?? '', 'x'), { recursive: true })
  assert.equal((await lookThrough(layout, APP)).bytes, 3)
  assert.partialDeepStrictEqual(await removeOrphans(await lookThrough(layout, APP), { graceMs: 0 }), {
    objects: 1,
    bytes: 3,
  })
  assert.deepEqual(
    strays.map((path) => existsSync(path)),
    [true, true, true],
  )
})

test('removing a release gives back what only it had, as was said before, whatever its contents are called in others', async (t) => {
  const { layout, store, release } = storeIn(t)
  const trees = [
    manifestOf([
      { path: 'a', text: 'in both' },
      { path: 'b', text: 'in both' },
      { path: 'c', text: 'old' },
    ]),
    manifestOf([
      { path: 'x', text: 'in both' },
      { path: 'y', text: 'new one' },
      { path: 'z', text: 'old', mode: '0755' },
    ]),
  ]
  for (const [index, { files }] of trees.entries()) {
    for (const entry of files) {
      if (!isFile(entry)) continue
      const text = ['in both', 'old', 'new one'].find((text) => sha256(text) === entry.sha256) ?? ''
      if (!existsSync(layout.object(APP, entry.sha256, entry.mode))) await store(text, { mode: entry.mode })
      mkdirSync(`${release}${index}`, { recursive: true })
      linkObject(layout, APP, entry, join(`${release}${index}`, entry.path))
    }
  }
  const [first = manifestOf([]), second = manifestOf([])] = trees
  assert.deepEqual(await bytesFreed(layout, APP, [first.files, second.files]), [3, 17])
  assert.deepEqual(await bytesFreed(layout, APP, [second.files]), [10])
  assert.partialDeepStrictEqual(await removeObjectsOf(layout, APP, first.files), NONE, 'its tree is still there')
  rmSync(`${release}0`, { recursive: true })
  assert.partialDeepStrictEqual(await removeObjectsOf(layout, APP, first.files), { objects: 1, bytes: 3 })
  assert.equal((await lookThrough(layout, APP)).bytes, 17)
})
