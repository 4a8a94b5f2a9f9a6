import assert from 'node:assert/strict'
import {
  chmodSync,
  existsSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { createAsked } from '../../agent/deploy/asked.ts'
import { assemble } from '../../agent/deploy/assemble.ts'
import { createOperations } from '../../agent/deploy/operations.ts'
import { layoutAt } from '../../agent/state/layout.ts'
import { openLedger } from '../../agent/state/ledger.ts'
import { makeAppDirs, storeObject } from '../../agent/state/objects.ts'
import type { News } from '../../agent/watch/news.ts'
import { type Scrubbed, watchStore } from '../../agent/watch/scrub.ts'
import { manifestText, normaliseManifest } from '../../shared/manifest.ts'
import { parseAppName, releaseIdOf, sha256 } from '../../shared/names.ts'
import { fileEntry, manifestOf } from '../helpers/raw-release.ts'
import { tempDir } from '../helpers/ssh.ts'

const APP = parseAppName('shop')
const AT_ONCE = { everyMs: 1, paceMs: 0, maxLoad: Number.POSITIVE_INFINITY, pollMs: 10 }
const TEXTS = ['one', 'two', 'three', 'x'.repeat(3 * 1024 * 1024)]

/** One healthy release with these contents, and a content that no release has. */
async function storeOf(t: TestContext) {
  const root = tempDir(t)
  const layout = layoutAt(root, join(root, 'etc'))
  mkdirSync(layout.appsDir, { recursive: true })
  makeAppDirs(layout, APP)
  const store = async (text: string) => {
    async function* content() {
      yield Buffer.from(text)
    }
    await storeObject(layout, APP, { sha256: sha256(text), size: text.length, content: content() }, '0644')
    return layout.object(APP, sha256(text), '0644')
  }
  const objects = await Promise.all(TEXTS.map(store))
  const files = TEXTS.map((text, index) => fileEntry(`file-${index}`, text))
  const manifest = normaliseManifest(manifestOf(files))
  const text = manifestText(manifest)
  const id = releaseIdOf(manifest.created, text)
  const ledger = openLedger(layout, assert.fail)
  t.after(() => ledger.close())
  ledger.received(APP, { id, signers: [], bytes: 1, files: 4 })
  await assemble(layout, { signed: { manifest, text, id }, signatures: [] })
  ledger.setState(APP, id, 'healthy')
  const told: News[] = []
  const operations = createOperations()
  const agent: Scrubbed = {
    layout,
    ledger,
    log: pino({ level: 'silent' }),
    tell: (news) => void told.push(news),
    operations,
    asked: createAsked(operations),
  }
  const stateOf = () => ledger.releases(APP)[0]?.state
  return { agent, objects, orphan: await store('an orphan'), told, id, layout, stateOf }
}

async function until(what: string, isSo: () => boolean): Promise<void> {
  for (let tries = 0; tries < 2_000; tries++) {
    if (isSo()) return
    await sleep(10)
  }
  assert.fail(`${what} did not come`)
}

/** As a disk rots: the bytes are others, the file says that nobody wrote to it. */
function rot(path: string): void {
  const { atimeMs, mtimeMs, size } = statSync(path)
  chmodSync(path, 0o644)
  writeFileSync(path, 'R', { flag: 'r+' })
  truncateSync(path, size)
  chmodSync(path, 0o444)
  lutimesSync(path, atimeMs / 1000, mtimeMs / 1000)
}

test('what rots on the disk is found by reading, told once, set aside, and its release is no way back any more', async (t) => {
  const { agent, objects, told, id, layout, stateOf } = await storeOf(t)
  const [small = '', , , large = ''] = objects
  rot(small)
  rot(large)
  const scrub = watchStore(agent, AT_ONCE)
  t.after(() => scrub.end())
  await until('both', () => !existsSync(small) && !existsSync(large))
  assert.equal(stateOf(), 'damaged')
  assert.deepEqual(
    told.map(({ event, app, release }) => [event, app, release]),
    [['release-damaged', 'shop', id]],
  )
  assert.match(told[0]?.text ?? '', new RegExp(`shop: ${id} is damaged on disk: file-[03]\\. `))
  assert.deepEqual(readdirSync(layout.damagedDir(APP)).length, 2)
  assert.ok(
    objects.slice(1, 3).every((path) => existsSync(path)),
    'the others are well',
  )
})

test('nothing is read while a change runs, and a young orphan stays as it is', async (t) => {
  const { agent, objects, orphan } = await storeOf(t)
  const { end } = agent.operations.begin({ app: APP, kind: 'push', who: 'ann' })
  const [small = ''] = objects
  rot(small)
  const scrub = watchStore(agent, AT_ONCE)
  t.after(() => scrub.end())
  await sleep(300)
  assert.ok(existsSync(small), 'the change has the disk for itself')
  end()
  await until('the damage', () => !existsSync(small))
  assert.ok(existsSync(orphan))
})
