import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { zstdCompressSync } from 'node:zlib'
import { compression } from '../../shared/difference.ts'
import { parseAppName, sha256 } from '../../shared/names.ts'
import { paths, REFERENCE_HEADER } from '../../shared/wire.ts'
import { rawRequest } from '../helpers/raw-client.ts'
import {
  fileEntry,
  groundOf,
  headEntries,
  type Json,
  MISSING,
  manifestOf,
  objectEntry,
  RELEASES,
  signedBy,
  tarOf,
} from '../helpers/raw-release.ts'
import { makeHandKey } from '../helpers/ssh.ts'
import { makeWorld } from '../helpers/world.ts'

// A bundle may be a difference from a release.json that the agent has. That saves bytes and nothing else: what comes
// out is proved like any other bundle, and the text of another app is none of the asker's business.

const FILES = Array.from({ length: 400 }, (_, index) => fileEntry(`file-${String(index).padStart(3, '0')}`, `${index}`))
const CONTENTS = FILES.map((_, index) => `${index}`)

test('a bundle on a reference is proved like any other, and only a release of the same app is one', async (t) => {
  const world = await makeWorld(t)
  const eve = makeHandKey('ssh-ed25519')
  assert.equal((await world.agentCommand('signers', 'add', 'eve', eve.publicLine)).exit, 0)
  const tarFor = (manifest: Json, contents: string[]) => {
    const text = JSON.stringify(manifest)
    return tarOf([...headEntries(text, [signedBy(eve, text)]), ...contents.map(objectEntry)])
  }
  const send = (body: Buffer, references: string[], target = RELEASES) => {
    const headers = references.map((reference): [string, string] => [REFERENCE_HEADER, reference])
    return rawRequest(world, eve, { method: 'POST', target, headers, body })
  }
  const ours = manifestOf(FILES)
  const theirs = manifestOf(FILES, { app: 'other', created: '2026-11-22T23:40:00Z' })
  const first = await send(zstdCompressSync(tarFor(ours, CONTENTS)), [])
  assert.equal(first.lines.at(-1)?.step, 'done', first.body)
  const other = await send(zstdCompressSync(tarFor(theirs, CONTENTS)), [], paths.releases(parseAppName('other')))
  assert.equal(other.lines.at(-1)?.step, 'done', other.body)

  const reference = Buffer.from(JSON.stringify(ours))
  const digest = sha256(reference)
  const changed = manifestOf([...FILES.slice(0, -1), fileEntry('file-399', 'new')], { created: '2026-11-22T23:41:00Z' })
  const onReference = zstdCompressSync(tarFor(changed, ['new']), compression(reference))
  const refused = async (what: string, body: Buffer, references: string[], codes: string[], target = RELEASES) => {
    await t.test(what, async () => {
      const before = groundOf(world.root)
      const answer = await send(body, references, target)
      assert.ok(codes.includes(answer.code ?? ''), `${answer.status} ${answer.body}`)
      assert.deepEqual(groundOf(world.root), before)
    })
  }
  const broken = ['bundle_malformed', 'signature_mismatch', 'signature_malformed', 'limit_exceeded']
  await refused('no reference where one is needed', onReference, [], broken)
  await refused('a header that is no sha256', onReference, ['../release.json'], ['request_refused'])
  await refused('the header twice', onReference, [digest, digest], ['request_refused'])
  await refused('in capitals', onReference, [digest.toUpperCase()], ['request_refused'])
  await refused('a reference that nobody pushed', onReference, [sha256('')], ['reference_unknown'])
  await refused(
    'the first digits of a reference alone',
    onReference,
    [digest.slice(0, 8) + sha256('').slice(8)],
    ['reference_unknown'],
  )
  const theirText = Buffer.from(JSON.stringify(theirs))
  const onTheirs = zstdCompressSync(tarFor(changed, ['new']), compression(theirText))
  await refused('the reference of another app', onTheirs, [sha256(theirText)], ['reference_unknown'])
  await refused(
    'the reference of another app, for a question',
    onTheirs,
    [sha256(theirText)],
    ['reference_unknown'],
    MISSING,
  )
  const wrongText = Buffer.from(reference.toString().replaceAll(/[0-9a-f]{64}/g, (hex) => sha256(hex)))
  const onWrong = zstdCompressSync(tarFor(changed, ['new']), compression(wrongText))
  await refused('another text than the one it names', onWrong, [digest], broken)
  const endless = Buffer.concat([tarFor(changed, ['new']), Buffer.alloc(100_000_000)])
  await refused('a bomb after its end', zstdCompressSync(endless, compression(reference)), [digest], broken)
  const bomb = tarFor({ ...changed, version: 'x'.repeat(70_000_000) }, [])
  await refused('a bomb of a manifest', zstdCompressSync(bomb, compression(reference)), [digest], ['limit_exceeded'])
  await refused('two frames', Buffer.concat([onReference, onReference]), [digest], broken)
  const named = Buffer.concat([
    onReference.subarray(0, 4),
    Buffer.from([(onReference[4] ?? 0) | 1]),
    onReference.subarray(5),
  ])
  await refused('a frame that asks for a dictionary by number', named, [digest], broken)

  await t.test('a release.json that was changed on the host', async () => {
    const id = `20261122T233851Z-${digest.slice(0, 8)}`
    const file = join(world.root, 'apps/shop/releases', id, 'release.json')
    writeFileSync(file, reference.toString().replace('file-000', 'file-xxx'))
    assert.equal((await send(onReference, [digest], MISSING)).code, 'reference_unknown')
    writeFileSync(file, reference)
  })
  await t.test('the right reference, at last, is enough', async () => {
    assert.ok(onReference.length < 2_000, `${onReference.length} bytes`)
    const head = zstdCompressSync(tarFor(changed, []), compression(reference))
    const asked = await send(head, [digest], MISSING)
    assert.match(asked.body, new RegExp(`"missing":\\["${sha256('new')}"\\]`))
    const answer = await send(onReference, [digest])
    assert.equal(answer.lines.at(-1)?.step, 'done', answer.body)
    assert.equal(readFileSync(join(world.root, 'apps/shop/current/tree/file-399'), 'utf8'), 'new')
  })
})
