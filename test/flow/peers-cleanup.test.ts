import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { lstatSync, readdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { readProject } from '../../client/project.ts'
import { rawConnect } from '../helpers/raw-client.ts'
import { fileEntry, type Json, manifestOf, releaseOf, SLEEPER } from '../helpers/raw-release.ts'
import { makeHandKey, tempDir } from '../helpers/ssh.ts'
import { makeWorld, type World } from '../helpers/world.ts'

// How others lost releases and filled disks while cleaning up: a test for each story, on one agent, an app each.
// 3 and 5, what is no release of ours, are in prune.test.ts; any order of all of it is in retention-histories.test.ts.

/** Ends at once, and is not tried again. */
const BROKEN: Json = {
  ...SLEEPER,
  command: { exec: ['/bin/false'] },
  health: { intervalMs: 50, timeoutMs: 10_000, settleMs: 5_000 },
  restart: { attempts: 1, withinMs: 20_000, delayMs: 0 },
}
const BASE = Date.parse('2026-11-22T00:00:00Z')

interface Told {
  step: string
  message?: string
  release?: string
}

interface Host {
  world: World
  /** Gives the id of the release. `at`: seconds of its clock; two of one clock and content are one release. */
  push(of: { good?: boolean; at?: number; keep?: [number, number]; content?: string }): Promise<string>
  /** What was told of the last push. */
  told(): Told[]
  rollback(): Promise<{ status: number; release: unknown }>
  prune(): Promise<void>
  releases(): string[]
  dir: string
}

async function hostOf(t: TestContext): Promise<(app: string) => Host> {
  const world = await makeWorld(t)
  const key = makeHandKey('ssh-ed25519')
  assert.equal((await world.agentCommand('signers', 'add', 'eve', key.publicLine)).exit, 0)
  const ask = async (target: string, body: Uint8Array) => {
    const connection = await rawConnect(world)
    const authorization = connection.authorization(key)
    const answer = await connection.request({ method: 'POST', authorization, target, body })
    connection.close()
    return answer
  }
  let clock = 0
  return (app) => {
    let told: Told[] = []
    const dir = join(world.root, 'apps', app)
    return {
      world,
      dir,
      told: () => told,
      releases: () => readdirSync(join(dir, 'releases')).sort(),
      async push({ good = true, at = ++clock, keep = [3, 1], content = `${app} at ${at}` }) {
        const created = new Date(BASE + at * 1000).toISOString().replace('.000Z', 'Z')
        const over: Json = {
          app,
          created,
          services: { web: good ? SLEEPER : BROKEN },
          keep: { releases: keep[0], failed: keep[1] },
        }
        const manifest = manifestOf([fileEntry('a', content), fileEntry('same', 'in all')], over)
        const { status, body, lines } = await ask(
          `/v1/apps/${app}/releases`,
          releaseOf(key, manifest, [content, 'in all']),
        )
        assert.equal(status, 200, body)
        told = lines as unknown as Told[]
        assert.equal(told.at(-1)?.step, good ? 'done' : 'failed', body)
        return String(told.find(({ step }) => step === 'stored')?.release)
      },
      async rollback() {
        const { status, lines } = await ask(`/v1/apps/${app}/rollback`, Buffer.from('{}'))
        return { status, release: lines.at(-1)?.release }
      },
      async prune() {
        const { lines } = await ask(`/v1/apps/${app}/prune`, Buffer.alloc(0))
        assert.equal(lines.at(-1)?.step, 'done')
      },
    }
  }
}

/** Bytes of all files, each counted once however many names it has. */
function bytesIn(dir: string): number {
  const seen = new Map<number, number>()
  for (const entry of readdirSync(dir, { recursive: true, withFileTypes: true })) {
    const { ino, size } = lstatSync(join(entry.parentPath, entry.name))
    if (entry.isFile()) seen.set(ino, size)
  }
  return [...seen.values()].reduce((sum, size) => sum + size, 0)
}

test('cleaning up, as others have got it wrong', async (t) => {
  const host = await hostOf(t)

  await t.test(
    '1, https://github.com/capistrano/capistrano/issues/2120: after many failed pushes a good one does not delete the last that worked',
    async () => {
      const { push, releases, rollback } = host('capistrano')
      const first = await push({ keep: [2, 1] })
      for (let n = 0; n < 2; n++) await push({ good: false, keep: [2, 1] })
      const second = await push({ keep: [2, 1] })
      assert.ok(releases().includes(first) && releases().includes(second))
      assert.deepEqual(await rollback(), { status: 200, release: first })
    },
  )

  await t.test(
    '2, https://github.com/deployphp/deployer/issues/814: of those that were asked to be kept, none is a failed one',
    async () => {
      const { push, releases } = host('deployer')
      const good: string[] = []
      for (let n = 0; n < 5; n++) {
        const id = await push({ good: n % 2 === 0, keep: [2, 1] })
        if (n % 2 === 0) good.push(id)
      }
      assert.deepEqual(
        good.map((id) => releases().includes(id)),
        [false, true, true],
      )
    },
  )

  await t.test(
    '4, https://github.com/capistrano/capistrano/issues/1411: the release that was just published is not the one cleaned up, whatever clocks and times say',
    async () => {
      const { push, releases, dir } = host('clocks')
      const pushed: string[] = []
      for (const at of [5000, 4000, 3000, 2000, 1000]) {
        pushed.push(await push({ at }))
        utimesSync(join(dir, 'releases', pushed.at(-1) ?? ''), at, at)
      }
      assert.deepEqual(releases(), pushed.slice(-3).sort())
    },
  )

  await t.test(
    '6, https://github.com/basecamp/kamal/issues/1922: pruning one app touches none whose name begins like its own',
    async () => {
      const names = ['shop-web', 'shop']
      const apps = names.map(host)
      for (let n = 0; n < 2; n++) for (const app of apps) await app.push({ at: 9000 + n, content: `${n}` })
      const before = apps.map(({ releases }) => releases())
      for (let n = 2; n < 4; n++) await apps[1]?.push({ at: 9000 + n, content: `${n}`, keep: [2, 0] })
      await apps[1]?.prune()
      assert.deepEqual(apps[0]?.releases(), before[0])
      assert.equal(apps[1]?.releases().length, 2)
      for (const { rollback } of apps) assert.equal((await rollback()).status, 200)
    },
  )

  await t.test(
    '7, https://github.com/OctopusDeploy/Issues/issues/2083: a release that is pushed again is one directory, kept for its newest push',
    async () => {
      const { push, releases } = host('octopus')
      const first = await push({ at: 100 })
      const [second, third] = [await push({ at: 101 }), await push({ at: 102 })]
      assert.equal(await push({ at: 100 }), first)
      assert.deepEqual(releases(), [first, second, third].sort())
      const fourth = await push({ at: 103 })
      assert.deepEqual(releases(), [first, third, fourth].sort(), 'the second is the oldest now')
    },
  )

  await t.test(
    '8, https://github.com/aws/aws-codedeploy-agent/issues/57: "keep nothing" is refused, and what was just pushed stays to be looked at',
    async () => {
      const { push, releases } = host('codedeploy')
      for (const keep of [0, 1]) {
        await assert.rejects(push({ keep: [keep, 0] }), /manifest_invalid.*keep\.releases/s)
      }
      const first = await push({ keep: [2, 0] })
      const failed = await push({ good: false, keep: [2, 0] })
      assert.deepEqual(releases(), [first, failed].sort())
      const second = await push({ keep: [2, 0] })
      assert.deepEqual(releases(), [first, second].sort())
    },
  )

  await t.test(
    '9, https://github.com/deployphp/deployer/issues/2759: failed pushes in between hide no old release from being cleaned up',
    async () => {
      const { push, releases } = host('window')
      const good: string[] = []
      for (let n = 0; n < 3; n++) good.push(await push({ keep: [3, 2] }))
      for (let n = 0; n < 3; n++) await push({ good: false, keep: [3, 2] })
      for (let n = 0; n < 3; n++) good.push(await push({ keep: [3, 2] }))
      assert.deepEqual(
        releases().filter((id) => good.includes(id)),
        good.slice(-3).sort(),
      )
      assert.equal(releases().length, 5)
    },
  )

  await t.test(
    '10, https://github.com/yakamara/ydeploy/issues/112 and https://github.com/silverstripe-archive/deploynaut/issues/80: a file that cannot be deleted is a warning, and what is live is live',
    async (t) => {
      const { push, releases, told, dir } = host('ydeploy')
      const first = await push({ keep: [2, 0] })
      const file = join(dir, 'releases', first, 'tree/a')
      const immutable = spawnSync('chattr', ['+i', file])
      if (immutable.status !== 0) return t.skip('no file can be made undeletable here')
      const stuck = join(dir, 'staging', `${first}.removed`)
      t.after(() => spawnSync('chattr', ['-R', '-i', stuck]))
      await push({ keep: [2, 0] })
      const third = await push({ keep: [2, 0] })
      assert.match(told().find(({ step }) => step === 'warning')?.message ?? '', new RegExp(`not all.*${first}`))
      assert.ok(!releases().includes(first) && releases().includes(third))
      assert.equal(told().at(-1)?.release, third)
      spawnSync('chattr', ['-R', '-i', stuck])
      await push({ keep: [2, 0] })
      assert.deepEqual(readdirSync(join(dir, 'staging')), [])
      assert.equal(
        told().find(({ step }) => step === 'warning'),
        undefined,
      )
    },
  )

  await t.test(
    '11, https://github.com/strongloop/strong-pm/issues/263, and 12, https://github.com/aws/aws-codedeploy-agent/issues/64: neither bytes nor inodes grow with the pushes, and a content is there once, unpacked',
    async () => {
      const { push, dir } = host('growth')
      // Of the directories of the store there are 256 at the most.
      const inodes = () => {
        const entries = readdirSync(dir, { recursive: true, withFileTypes: true }).filter((one) => !one.isDirectory())
        return new Set(entries.map(({ parentPath, name }) => lstatSync(join(parentPath, name)).ino))
      }
      // No bytes that can be packed smaller, so that a tarball beside them would show.
      const content = (n: number) => `${n}${'0123456789abcdef'.repeat(1000)}`
      for (let n = 0; n < 4; n++) await push({ content: content(n) })
      const [bytes, files] = [bytesIn(dir), inodes().size]
      for (let n = 4; n < 8; n++) await push({ content: content(n) })
      assert.deepEqual([Math.abs(bytesIn(dir) - bytes) < 100, inodes().size], [true, files])
      const ofReleases = 3 * (content(0).length + 2000)
      assert.ok(bytesIn(dir) < ofReleases, `${bytesIn(dir)} bytes for three releases of ${content(0).length}`)
    },
  )

  await t.test(
    '13, https://github.com/basecamp/kamal/issues/1655: whatever makes a release cleans up: a push, a failed one, one of the same content',
    async () => {
      const { push, releases } = host('redeploy')
      const keep: [number, number] = [2, 1]
      for (let n = 0; n < 3; n++) await push({ keep })
      assert.equal(releases().length, 2)
      for (let n = 0; n < 3; n++) await push({ good: false, keep })
      assert.equal(releases().length, 2 + 1)
      for (let n = 0; n < 3; n++) await push({ content: 'the same', keep })
      assert.equal(releases().length, 2 + 1)
    },
  )

  await t.test(
    '16, https://github.com/keymetrics/pm2-logrotate/issues/165: as many are kept by default as is documented',
    (t) => {
      const toml = join(tempDir(t), 'tarmac.toml')
      writeFileSync(toml, 'app = "shop"\n[services.web]\ncommand = "node server.js"\n')
      const { keep } = readProject(toml).head
      const text = readFileSync(join(import.meta.dirname, '../../DESIGN.md'), 'utf8')
      const [, releases, failed] = /\[keep\] releases = (\d+), failed = (\d+)/.exec(text) ?? []
      assert.deepEqual(keep, { releases: Number(releases), failed: Number(failed) })
    },
  )
})
