import assert from 'node:assert/strict'
import { lstatSync, readdirSync, readlinkSync, rmSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import fc from 'fast-check'
import { pino } from 'pino'
import { assemble } from '../../agent/deploy/assemble.ts'
import { createOperations } from '../../agent/deploy/operations.ts'
import { alterTree, growTree, makeTree } from '../../agent/deploy/release-tree.ts'
import { renewSpare, SPARE_MIN_FILES } from '../../agent/deploy/spare.ts'
import { layoutAt } from '../../agent/state/layout.ts'
import { quarantine } from '../../agent/state/object-check.ts'
import { makeAppDirs, storeObject } from '../../agent/state/objects.ts'
import { sparesOn } from '../../agent/state/spares.ts'
import { isFile, parseManifest } from '../../shared/manifest.ts'
import { sha256 } from '../../shared/names.ts'
import { APP, fileEntry, type Json, manifestOf } from '../helpers/raw-release.ts'
import { tempDir } from '../helpers/ssh.ts'

const FILES = SPARE_MIN_FILES + 10
const TEXTS = ['one', 'two', 'three'] as const

async function storeIn(t: TestContext) {
  const root = tempDir(t)
  const layout = layoutAt(root, join(root, 'etc'))
  makeAppDirs(layout, APP)
  const store = async (text: string, mode: '0644' | '0755') => {
    async function* content() {
      yield Buffer.from(text)
    }
    await storeObject(layout, APP, { sha256: sha256(text), size: text.length, content: content() }, mode)
  }
  for (const text of TEXTS) for (const mode of ['0644', '0755'] as const) await store(text, mode)
  return { root, layout, store }
}

function signedOf(files: Json[], over: Json = {}) {
  const sorted = files.toSorted((a, b) => Buffer.compare(Buffer.from(String(a.path)), Buffer.from(String(b.path))))
  return parseManifest(JSON.stringify(manifestOf(sorted, over)))
}

/** Each path with what it is: of a file the inode, so that two trees of the same links are equal. */
function ground(dir: string, at = ''): string[] {
  return readdirSync(join(dir, at)).flatMap((name) => {
    const path = at === '' ? name : `${at}/${name}`
    const stats = lstatSync(join(dir, path))
    if (stats.isDirectory()) return [`${path}/ ${stats.mode.toString(8)}`, ...ground(dir, path)]
    return stats.isSymbolicLink() ? [`${path} → ${readlinkSync(join(dir, path))}`] : [`${path} ${stats.ino}`]
  })
}

const part = fc.constantFrom('a', 'b', 'ab', 'c')
const path = fc.array(part, { minLength: 1, maxLength: 4 }).map((parts) => parts.join('/'))
const made = fc.oneof(
  fc.record({ text: fc.constantFrom(...TEXTS), mode: fc.constantFrom('0644', '0755') }),
  fc.constant({ dir: true }),
  fc.constantFrom('nowhere', 'no/where').map((link) => ({ link })),
)
/** A tree in which nothing is in the way of anything else. */
const tree = fc.array(fc.tuple(path, made), { maxLength: 12 }).map((wanted) => {
  const files: Json[] = []
  for (const [path, what] of wanted) {
    const paths = files.map((entry) => String(entry.path))
    if (paths.some((other) => other === path || other.startsWith(`${path}/`) || path.startsWith(`${other}/`))) continue
    files.push('text' in what ? fileEntry(path, what.text, { mode: what.mode }) : { path, ...what })
  }
  return files
})
const shared = fc.subarray(['uploads', 'var/data'])

test('a tree that was altered is the one that would have been made of nothing', { timeout: 120_000 }, async (t) => {
  const { root, layout } = await storeIn(t)
  const [altered, fresh] = [join(root, 'altered'), join(root, 'fresh')]
  await fc.assert(
    fc.asyncProperty(tree, shared, tree, shared, async (before, sharedBefore, after, sharedAfter) => {
      for (const dir of [altered, fresh]) rmSync(dir, { recursive: true, force: true })
      const [from, to] = [signedOf(before, { shared: sharedBefore }), signedOf(after, { shared: sharedAfter })]
      await makeTree(layout, from, altered)
      await alterTree(layout, altered, { from, to })
      await makeTree(layout, to, fresh)
      assert.deepEqual(ground(altered), ground(fresh))
    }),
    { numRuns: 300 },
  )
})

test('a tree that was made while its contents came is the one that would have been made afterwards', async (t) => {
  const { root, layout } = await storeIn(t)
  const [grown, fresh] = [join(root, 'grown'), join(root, 'fresh')]
  const digests = TEXTS.map((text) => sha256(text))
  await fc.assert(
    // Not all of them come: some are in the store already.
    fc.asyncProperty(tree, shared, fc.shuffledSubarray(digests), async (files, shared, came) => {
      for (const dir of [grown, fresh]) rmSync(dir, { recursive: true, force: true })
      const release = signedOf(files, { shared })
      const growing = await growTree(layout, release, grown)
      for (const digest of came) growing.stored(digest)
      await growing.finish()
      await makeTree(layout, release, fresh)
      assert.deepEqual(ground(grown), ground(fresh))
    }),
    { numRuns: 200 },
  )
})

test('the tree that runs is copied while nobody waits; the next release takes the copy', async (t) => {
  const { root, layout, store } = await storeIn(t)
  const operations = createOperations()
  const reserve = { bytes: 1, inodes: 1 }
  const config = { layout, reserve } as unknown as Parameters<typeof renewSpare>[0]['config']
  const agent = { config, layout, log: pino({ level: 'silent' }), operations }
  const files = Array.from({ length: FILES }, (_, n) => fileEntry(`dir${n % 50}/${n}`, TEXTS[n % 3] ?? ''))
  const release = (second: number, some: Json[]) =>
    signedOf(some, { created: `2026-11-22T00:00:0${second}Z`, shared: ['uploads'] })
  const becomesCurrent = (id: string) => {
    rmSync(layout.currentLink(APP), { force: true })
    symlinkSync(`releases/${id}`, layout.currentLink(APP))
  }
  const staged = () => readdirSync(layout.stagingDir(APP))

  const first = release(1, files)
  await assemble(layout, { signed: first, signatures: ['signature'] })
  await renewSpare(agent, APP)
  assert.deepEqual(staged(), [], 'nothing runs yet')
  becomesCurrent(first.id)
  await renewSpare(agent, APP)
  assert.deepEqual(sparesOn(layout, APP), [first.id])
  await renewSpare(agent, APP)
  assert.deepEqual(staged(), [`${first.id}.spare`], 'it is there')

  const spareInode = lstatSync(layout.treeIn(layout.spare(APP, first.id))).ino
  const second = release(2, [
    ...files.slice(3),
    fileEntry('new', 'three'),
    fileEntry('dir0/0', 'two', { mode: '0755' }),
  ])
  await assemble(layout, { signed: second, signatures: ['signature'] })
  assert.equal(lstatSync(layout.treeDir(APP, second.id)).ino, spareInode, 'it was made of the spare one')
  await makeTree(layout, second, join(root, 'fresh'))
  assert.deepEqual(ground(layout.treeDir(APP, second.id)), ground(join(root, 'fresh')))
  assert.equal(ground(layout.treeDir(APP, first.id)).length, FILES + 51, 'and the first is what it was')
  assert.deepEqual(staged(), [])

  becomesCurrent(second.id)
  await renewSpare(agent, APP)
  const [entry] = second.manifest.files.filter(isFile)
  assert.ok(entry)
  quarantine(layout, APP, entry)
  assert.deepEqual(sparesOn(layout, APP), [], 'it has a content that was damaged')
  await store('two', '0755')
  for (const text of TEXTS) await store(text, '0644')
  await renewSpare(agent, APP)
  assert.deepEqual(staged(), [`${second.id}.spare`], 'a new one, and nothing left of the other')

  becomesCurrent(first.id)
  const { end } = operations.begin({ app: APP, kind: 'push', who: 'ann' })
  await assert.rejects(renewSpare(agent, APP))
  assert.deepEqual(sparesOn(layout, APP), [second.id], 'a change goes first')
  end()
  await renewSpare(agent, APP)
  assert.deepEqual(staged(), [`${first.id}.spare`])
  reserve.bytes = 2 ** 60
  await renewSpare(agent, APP)
  assert.deepEqual(staged(), [], 'a disk that is low has no room for what is spare')
})
