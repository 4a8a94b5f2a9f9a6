import assert from 'node:assert/strict'
import { globSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { storeObjects } from '../../agent/deploy/admit.ts'
import { layoutAt } from '../../agent/state/layout.ts'
import { surveyStore } from '../../agent/state/store-survey.ts'
import type { BundleEntry } from '../../shared/bundle-read.ts'
import { parseManifest } from '../../shared/manifest.ts'
import { sha256 } from '../../shared/names.ts'
import { APP, fileEntry, manifestOf } from '../helpers/raw-release.ts'
import { tempDir } from '../helpers/ssh.ts'

function objectOf(text: string, digest = sha256(text)): BundleEntry {
  const bytes = Buffer.from(text)
  const content = { atOnce: () => bytes, [Symbol.asyncIterator]: async function* () {} }
  return { kind: 'object', sha256: digest, size: bytes.length, content }
}

test('of a refused upload nothing stays, in no mode and not in the tree that was begun; of a cut one its objects', async (t) => {
  const root = tempDir(t)
  const layout = layoutAt(root, join(root, 'etc'))
  const files = [fileEntry('a', 'one'), fileEntry('b/run', 'one', { mode: '0755' }), fileEntry('c', 'two')]
  const signed = parseManifest(JSON.stringify(manifestOf(files)))
  const stored = async (...entries: (BundleEntry | Error)[]) => {
    async function* rest(): AsyncGenerator<BundleEntry> {
      for (const entry of entries) {
        if (entry instanceof Error) throw entry
        yield entry
      }
    }
    const bundle = rest()
    const survey = await surveyStore(layout, signed.manifest)
    const incoming = { first: await bundle.next(), rest: bundle }
    return storeObjects(layout, { signed, signatures: [], signers: [] }, incoming, { survey, spend: () => undefined })
  }
  const objects = () => globSync(join(layout.objectsDir(APP), '??/*'))
  const refused = { code: 'object_mismatch' }
  await assert.rejects(stored(objectOf('one'), objectOf('owt', sha256('two'))), refused)
  assert.deepEqual([objects(), readdirSync(layout.stagingDir(APP))], [[], []])

  await assert.rejects(stored(objectOf('one'), new Error('the connection was cut')), /cut/)
  assert.equal(objects().length, 2, 'one in both modes')
  assert.deepEqual(readdirSync(layout.stagingDir(APP)), [])

  // Refused now, it takes only what it has brought.
  await assert.rejects(stored(objectOf('one'), objectOf('owt', sha256('two'))), refused)
  assert.equal(objects().length, 2)
  const { tree, synced } = await stored(objectOf('two'))
  await tree?.finish()
  await synced()
  assert.deepEqual(readdirSync(layout.treeIn(layout.staging(APP, signed.id))).sort(), ['a', 'b', 'c'])
})
