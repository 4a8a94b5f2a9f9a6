import assert from 'node:assert/strict'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { mendTree } from '../../agent/deploy/mend.ts'
import { layoutAt } from '../../agent/state/layout.ts'
import { isIntact, isRight, lookAt, removeDamaged, seal } from '../../agent/state/object-check.ts'
import { linkObject, makeAppDirs, storeObject } from '../../agent/state/objects.ts'
import { surveyStore } from '../../agent/state/store-survey.ts'
import { isErrno } from '../../shared/failure.ts'
import { isFile, type Mode, normaliseManifest } from '../../shared/manifest.ts'
import { parseAppName, parseReleaseId, sha256 } from '../../shared/names.ts'
import { fileEntry, manifestOf } from '../helpers/raw-release.ts'
import { tempDir } from '../helpers/ssh.ts'

const APP = parseAppName('shop')
const ID = parseReleaseId('20261122T233851Z-0000000a')

function storeIn(t: TestContext) {
  const root = tempDir(t)
  const layout = layoutAt(root, join(root, 'etc'))
  makeAppDirs(layout, APP)
  const store = async (text: string, mode: Mode = '0644') => {
    async function* content() {
      yield Buffer.from(text)
    }
    const path = layout.object(APP, sha256(text), mode)
    await storeObject(layout, APP, { sha256: sha256(text), size: text.length, content: content() }, mode)
    return { path, content: { sha256: sha256(text), size: text.length } }
  }
  return {
    root,
    layout,
    store,
    aside: () => (existsSync(layout.damagedDir(APP)) ? readdirSync(layout.damagedDir(APP)) : []),
  }
}

/** As whoever may write to a file that is read-only does it; its times are those of the writing. */
function overwrite(path: string, text: string): void {
  const { mode } = statSync(path)
  chmodSync(path, 0o644)
  writeFileSync(path, text, { flag: 'r+' })
  chmodSync(path, mode)
}

test('what was written to since it was stored is found by a look; touched alone, it is read and believed again', async (t) => {
  const { store, root } = storeIn(t)
  const { path, content } = await store('hello')
  assert.equal(lookAt(path, content), 'sealed')
  assert.ok(Math.abs(lstatSync(path).mtimeMs - Date.now()) < 60_000, 'web servers go by this time')
  linkSync(path, join(root, 'link'))
  assert.equal(lookAt(join(root, 'link'), content), 'sealed', 'a link more says nothing')
  for (const at of [0, 1_700_000_000.25, Date.now() / 1000]) {
    utimesSync(path, at, at)
    assert.equal(lookAt(path, content), 'unsealed')
    assert.equal(await isIntact(path, content), true)
    assert.equal(lookAt(path, content), 'sealed')
    assert.equal(Math.floor(lstatSync(path).mtimeMs / 1000), Math.floor(at))
  }
  copyFileSync(path, join(root, 'copy'))
  assert.equal(lookAt(join(root, 'copy'), content), 'unsealed')
  overwrite(path, 'jello')
  assert.equal(lookAt(path, content), 'unsealed')
  assert.equal(await isIntact(path, content), false)
  seal(path, content.sha256)
  assert.deepEqual(
    [await isIntact(path, content), await isRight(path, content)],
    [true, false],
    'a rotten disk leaves the time',
  )
  overwrite(path, 'longer')
  assert.equal(lookAt(path, content), 'wrong')
  rmSync(path)
  symlinkSync(join(root, 'copy'), path)
  assert.equal(lookAt(path, content), 'wrong', 'no link is followed')
  rmSync(path)
  assert.equal(lookAt(path, content), 'absent')
})

test('a damaged object is missing again, lies aside as long as a release has it, and what comes again is another file', async (t) => {
  const { layout, store, aside, root } = storeIn(t)
  const [bad, tool, good] = [await store('bad'), await store('tool', '0755'), await store('good')]
  const files = ['bad', 'good'].map((text) => fileEntry(text, text))
  const manifest = normaliseManifest(manifestOf([...files, fileEntry('tool', 'tool', { mode: '0755' })]))
  const damagedNow = async () => (await surveyStore(layout, manifest)).damaged.sort()
  assert.deepEqual(await damagedNow(), [])
  linkSync(bad.path, join(root, 'in-a-release'))
  overwrite(bad.path, 'BAD')
  overwrite(tool.path, 'TOOL!')
  assert.deepEqual(await damagedNow(), [sha256('bad'), sha256('tool')].sort())
  assert.deepEqual((await surveyStore(layout, manifest)).missing.sort(), [sha256('bad'), sha256('tool')].sort())
  assert.deepEqual(await damagedNow(), [])
  assert.deepEqual(aside().sort(), [sha256('bad'), `${sha256('tool')}.x`].sort())
  await store('bad')
  assert.deepEqual([readFileSync(bad.path, 'utf8'), readFileSync(join(root, 'in-a-release'), 'utf8')], ['bad', 'BAD'])
  removeDamaged(layout, APP)
  assert.deepEqual(aside(), [sha256('bad')], 'the tool is in no release')
  rmSync(join(root, 'in-a-release'))
  removeDamaged(layout, APP)
  assert.deepEqual([aside(), existsSync(good.path)], [[], true])
})

test('a release that was edited on the host is mended of the objects there are, and says what it lacks', async (t) => {
  const { layout, store } = storeIn(t)
  const texts = ['app', 'conf', 'doc', 'lib/a', 'lib/b']
  const files = texts.map((text) => fileEntry(text, text))
  const manifest = normaliseManifest(
    manifestOf([...files.slice(0, 3), { path: 'empty', dir: true }, ...files.slice(3), { path: 'link', link: 'app' }], {
      shared: ['data'],
    }),
  )
  const tree = layout.treeDir(APP, ID)
  for (const entry of manifest.files) {
    if (!isFile(entry)) continue
    await store(entry.path)
    mkdirSync(join(tree, entry.path, '..'), { recursive: true })
    linkObject(layout, APP, entry, join(tree, entry.path))
  }
  const release = { id: ID, manifest }
  assert.deepEqual(await mendTree(layout, release), [], 'what was not there yet is made')
  assert.deepEqual(readdirSync(tree).sort(), ['app', 'conf', 'data', 'doc', 'empty', 'lib', 'link'])
  assert.equal(readlinkSync(join(tree, 'data')), '../../../shared/data')

  // An editor writes beside and renames; somebody deletes; somebody puts a link in the place of a link.
  rmSync(join(tree, 'app'))
  writeFileSync(join(tree, 'app'), 'APP')
  rmSync(join(tree, 'lib'), { recursive: true })
  rmSync(join(tree, 'link'))
  symlinkSync('/etc/passwd', join(tree, 'link'))
  assert.deepEqual(await mendTree(layout, release), [])
  assert.deepEqual(
    ['app', 'lib/a', 'lib/b', 'link'].map((path) => readFileSync(join(tree, path), 'utf8')),
    ['app', 'lib/a', 'lib/b', 'app'],
  )
  assert.equal(readlinkSync(join(tree, 'link')), 'app')

  // In place: the object is damaged with it. And a directory in the way is left to a person.
  overwrite(join(tree, 'doc'), 'DOC')
  rmSync(join(tree, 'conf'))
  mkdirSync(join(tree, 'conf'))
  assert.deepEqual(await mendTree(layout, release), ['conf', 'doc'])
  assert.deepEqual((await surveyStore(layout, manifest)).missing, [sha256('doc')])
  await store('doc')
  rmSync(join(tree, 'conf'), { recursive: true })
  assert.deepEqual(await mendTree(layout, release), [])
  assert.deepEqual(readdirSync(layout.stagingDir(APP)), [])
})

test('where a file system takes no more links to one file, a release has a read-only copy of its own', async (t) => {
  const { layout, store, root } = storeIn(t)
  const { path, content } = await store('everywhere')
  const dir = join(root, 'links')
  mkdirSync(dir)
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  const isFull = (() => {
    for (let n = 1; n <= 65_001; n++) {
      try {
        linkSync(path, join(dir, String(n)))
      } catch (error) {
        if (isErrno(error, 'EMLINK')) return true
        throw error
      }
    }
    return false
  })()
  if (!isFull) return t.skip('this file system takes more than 65,000 links to one file')
  linkObject(layout, APP, { ...content, mode: '0644' }, join(root, 'copy'))
  const [object, copy] = [statSync(path), statSync(join(root, 'copy'))]
  assert.notEqual(copy.ino, object.ino)
  assert.deepEqual([copy.mode & 0o7777, copy.uid, copy.gid], [0o444, object.uid, object.gid])
  assert.equal(lookAt(join(root, 'copy'), content), 'sealed')
  assert.equal(readFileSync(join(root, 'copy'), 'utf8'), 'everywhere')
})
