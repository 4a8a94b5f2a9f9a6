import assert from 'node:assert/strict'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { mendTree } from '../../agent/deploy/mend.ts'
import { layoutAt } from '../../agent/state/layout.ts'
import { readRelease, releasesOn } from '../../agent/state/release-store.ts'
import type { PruneAnswer } from '../../shared/wire.ts'
import { rawConnect, rawRequest } from '../helpers/raw-client.ts'
import { APP, fileEntry, type Json, manifestOf, RELEASES, releaseOf } from '../helpers/raw-release.ts'
import { makeHandKey } from '../helpers/ssh.ts'
import { makeWorld } from '../helpers/world.ts'

/** As many as installed packages of a Node app have, in as many directories. */
const FILES = 24_000
const DIRS = 3_000
/** What is promised; that one answer of many may take longer is for a machine that is busy with other things. */
const PROMISED_MS = 100
const MOST_MS = 1_000
const PRUNE = `/v1/apps/${APP}/prune`

test(`an agent that deletes a release of ${FILES} files answers meanwhile, and looks through one before a rollback at once`, async (t) => {
  const world = await makeWorld(t)
  const key = makeHandKey('ssh-ed25519')
  assert.equal((await world.agentCommand('signers', 'add', 'eve', key.publicLine)).exit, 0)
  const push = async (second: number, contents: Map<string, string>): Promise<void> => {
    const files = [...contents].map(([path, content]) => fileEntry(path, content))
    const over: Json = { created: `2026-11-22T00:00:0${second}Z`, keep: { releases: 2, failed: 0 } }
    const body = releaseOf(key, manifestOf(files, over), [...new Set(contents.values())])
    const { status, lines } = await rawRequest(world, key, { method: 'POST', target: RELEASES, body })
    assert.deepEqual([status, lines.at(-1)?.step], [200, 'done'])
  }
  const large = Array.from({ length: FILES }, (_, n): [string, string] => [pathOf(n), `content ${n}`])
  await push(1, new Map(large.sort(([a], [b]) => (a < b ? -1 : 1))))
  const layout = layoutAt(world.root, join(world.root, 'etc'))
  const [first] = releasesOn(layout, APP)
  assert.ok(first)
  const looks: number[] = []
  for (let look = 0; look < 3; look++) {
    const began = performance.now()
    assert.deepEqual(await mendTree(layout, readRelease(layout, APP, first)), [])
    looks.push(performance.now() - began)
  }
  t.diagnostic(`a look at ${FILES} files before a rollback: ${Math.min(...looks).toFixed(0)} ms`)

  await push(2, new Map([['a', 'small']]))
  const connection = await rawConnect(world)
  const authorization = connection.authorization(key)
  const explained = await connection.request({ authorization, target: PRUNE })
  assert.ok((JSON.parse(explained.body) as PruneAnswer).releases.every(({ keep }) => keep))
  const idle: number[] = []
  const busy: number[] = []
  const ask = async (times: number[]): Promise<void> => {
    const began = performance.now()
    assert.equal((await connection.request({ authorization, target: '/v1/status' })).status, 200)
    times.push(performance.now() - began)
  }
  for (let asked = 0; asked < 10; asked++) await ask(idle)
  const removed = layout.removed(APP, first)
  const pushed = push(3, new Map([['a', 'small again']]))
  while (!existsSync(removed)) await sleep(1)
  const began = performance.now()
  while (existsSync(removed)) {
    await ask(busy)
    await sleep(10)
  }
  const tookMs = performance.now() - began
  await pushed
  connection.close()
  const left = readdirSync(layout.objectsDir(APP), { recursive: true, withFileTypes: true })
  assert.ok(left.filter((entry) => entry.isFile()).length < 10, 'their contents are gone')
  assert.ok(busy.length > 3, `it was asked ${busy.length} times meanwhile`)
  const most = Math.max(...busy)
  t.diagnostic(
    `${FILES} files deleted in ${tookMs.toFixed(0)} ms; status meanwhile: ${busy.length} answers, ${most.toFixed(0)} ms at the most (idle ${Math.max(...idle).toFixed(0)} ms)`,
  )
  const middle = busy.sort((a, b) => a - b)[busy.length >> 1] ?? 0
  assert.ok(middle < PROMISED_MS && most < MOST_MS, `half of the answers took ${middle.toFixed(0)} ms or more`)
})

function pathOf(n: number): string {
  return `node_modules/package-${String(n % DIRS).padStart(4, '0')}/lib/file-${n}.js`
}
