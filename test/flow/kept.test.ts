import assert from 'node:assert/strict'
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { makeWorld, projectText, type World } from '../helpers/world.ts'

async function push(world: World, version: string, options?: { broken: number }): Promise<string> {
  world.version(version, options)
  const { exit, stdout, stderr } = await world.tarmac('push', '--json')
  assert.equal(exit, options ? 6 : 0, stderr)
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '').hosts[0].release
}

test('of thirteen good releases and three bad ones ten and two are kept, and nothing that they do not need', async (t) => {
  const world = await makeWorld(t)
  const quick = projectText(world.port, world.url).replace('attempts = 3', 'attempts = 1')
  world.write({ 'tarmac.toml': quick, 'lib/same.txt': 'in every release' })
  const good: string[] = []
  const bad: string[] = []
  for (let version = 1; version <= 13; version++) {
    good.push(await push(world, String(version)))
    if (version % 4 === 0) bad.push(await push(world, `${version}-broken`, { broken: 1 }))
  }
  const app = join(world.root, 'apps/shop')
  const kept = [...good.slice(-10), ...bad.slice(-2)].sort()
  assert.deepEqual(readdirSync(join(app, 'releases')).sort(), kept)
  assert.equal(readlinkSync(join(app, 'current')), `releases/${good.at(-1)}`)
  assert.deepEqual(readdirSync(app).sort(), ['current', 'env', 'objects', 'releases', 'staging'])
  assert.deepEqual(readdirSync(join(app, 'staging')), [])
  assert.deepEqual(readdirSync(join(world.root, 'apps')), ['shop'])

  const needed = new Set<string>()
  for (const id of kept) {
    const manifest = JSON.parse(readFileSync(join(app, 'releases', id, 'release.json'), 'utf8'))
    for (const { sha256 } of manifest.files) needed.add(sha256)
  }
  const stored = readdirSync(join(app, 'objects'), { recursive: true, withFileTypes: true }).filter((it) => it.isFile())
  assert.deepEqual(new Set(stored.map((it) => `${it.parentPath.slice(-2)}${it.name}`)), needed)
  for (const { parentPath, name } of stored) {
    const { nlink, mode } = lstatSync(join(parentPath, name))
    assert.ok(nlink > 1, `${name} is needed by nobody`)
    assert.equal(mode & 0o777, 0o444)
  }

  const { hosts } = JSON.parse((await world.tarmac('releases', '--json')).stdout)
  assert.deepEqual(hosts[0].releases.map(({ id }: { id: string }) => id).sort(), kept)
  const logs = readdirSync(join(world.root, 'embedded/logs/shop')).sort()
  assert.deepEqual(logs, kept, 'the logs of what is gone went with it')
})
