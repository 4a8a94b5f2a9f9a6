import assert from 'node:assert/strict'
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { layoutAt } from '../../agent/state/layout.ts'
import { readHead, readRelease } from '../../agent/state/release-store.ts'
import { type Manifest, manifestText, normaliseManifest, parseManifest } from '../../shared/manifest.ts'
import { APP, fileEntry, type Json, manifestOf } from '../helpers/raw-release.ts'
import { tempDir } from '../helpers/ssh.ts'

function releaseOf(t: TestContext, over: Json = {}) {
  const root = tempDir(t)
  const layout = layoutAt(root, join(root, 'etc'))
  const written = manifestOf([fileEntry('a', 'one'), fileEntry('b', 'two')], over)
  const { id, text } = parseManifest(manifestText(normaliseManifest(written as unknown as Manifest)))
  const file = layout.manifestFile(APP, id)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, text)
  return { layout, id, file, text }
}

test('the head of a release is all of it but its files, whatever its texts say', (t) => {
  const spiteful = ['1', ',"files":[', '\\",\\"files\\":[', '","files":[{', '…,"files":[]}']
  for (const version of spiteful) {
    const { layout, id } = releaseOf(t, { version })
    const { files, ...rest } = readRelease(layout, APP, id).manifest
    assert.equal(files.length, 2)
    assert.deepEqual(readHead(layout, APP, id), rest)
  }
})

test('a release.json that is not what was signed is damaged, in its head and in its files', (t) => {
  const { layout, id, file, text } = releaseOf(t)
  for (const other of [
    text.replace('"keep":{"releases":', '"keep":{"releases":1'),
    text.replace('"path":"b"', '"path":"c"'),
    text.slice(0, -1),
    text.slice(0, 40),
    '{}',
    'null',
    '',
  ]) {
    assert.notEqual(other, text)
    writeFileSync(file, other)
    assert.throws(() => readHead(layout, APP, id), { code: 'release_damaged' })
    assert.throws(() => readRelease(layout, APP, id), { code: 'release_damaged' })
  }
})
