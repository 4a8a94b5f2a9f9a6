import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { sshVerifies, tempDir } from '../helpers/ssh.ts'
import { makeWorld, projectText, type World } from '../helpers/world.ts'

const tree = (world: World, ...path: string[]) => join(world.root, 'apps/shop/current/tree', ...path)

const releases = (world: World): string[] => {
  const dir = join(world.root, 'apps/shop/releases')
  return existsSync(dir) ? readdirSync(dir) : []
}

test('a directory, a tarball and a packed bundle give the same app', async (t) => {
  const world = await makeWorld(t)
  world.write({ 'out/server.js': readFileSync(join(world.project, 'server.js'), 'utf8') })
  assert.equal((await world.tarmac('push', './out')).exit, 0)
  assert.deepEqual([await world.get(), readdirSync(tree(world))], ['1', ['server.js']])

  execFileSync('tar', ['-czf', join(world.project, 'build.tar.gz'), '-C', join(world.project, 'out'), '.'])
  const archive = await world.tarmac('push', 'build.tar.gz')
  assert.match(archive.stdout, /already running/, 'the same content is the same release, wherever it came from')

  world.version('2')
  world.write({ '.tarmacignore': 'out\n*.tar.gz\n' })
  const packed = await world.tarmac('pack', '-o', '../app.tarmac', '--json')
  assert.equal(packed.exit, 0, packed.stderr)
  const { release, files, bytes } = JSON.parse(packed.stdout)
  const file = join(world.dir, 'app.tarmac')
  assert.deepEqual([files, bytes], [1, statSync(file).size])
  assert.equal(await world.get(), '1', 'packing sends nothing')

  const names = execFileSync('tar', ['--zstd', '-tf', file], { encoding: 'utf8' }).trim().split('\n')
  assert.deepEqual(names.slice(0, 2), ['release.json', 'signatures/0.sig'])
  assert.match(names[2] ?? '', /^objects\/[0-9a-f]{64}$/)
  const member = (name: string) => execFileSync('tar', ['--zstd', '-xOf', file, name], { encoding: 'utf8' })
  const signers = readFileSync(join(world.root, 'etc/allowed_signers'), 'utf8')
  const use = { principal: 'ann', namespace: 'tarmac-release', message: member('release.json') }
  assert.ok(sshVerifies(signers, member('signatures/0.sig'), use))
  assert.ok(!sshVerifies(signers, member('signatures/0.sig'), { ...use, message: `${use.message} ` }))

  // From where there is no project at all: the bundle and the host are enough.
  const offline = await world.tarmac('push', file, '--host', world.url, '--config', '/dev/null')
  assert.notEqual(offline.exit, 0, 'a --config that is none is told')
  execFileSync('rm', [join(world.project, 'tarmac.toml')])
  const pushed = await world.tarmac('push', file, '--host', world.url)
  assert.equal(pushed.exit, 0, pushed.stderr)
  assert.deepEqual([await world.get(), releases(world).includes(release)], ['2', true])
  assert.equal((await world.tarmac('status', '--host', world.url, '--check')).exit, 0)
  assert.equal((await world.tarmac('push', file, '--host', world.url, '--app', 'blog')).exit, 2)
})

test('what cannot be pushed is refused before anything is sent', async (t) => {
  const world = await makeWorld(t)
  world.write({ 'notes.txt': 'no archive' })
  for (const path of ['nowhere', 'notes.txt']) assert.equal((await world.tarmac('push', path)).exit, 2, path)
  world.write({ 'cut.tarmac': 'no bundle' })
  assert.equal((await world.tarmac('push', 'cut.tarmac')).exit, 3)
  world.write({ 'tarmac.toml': 'app = "Shop_1"\n[services.web]\ncommand = "x"\n' })
  assert.notEqual((await world.tarmac('push')).exit, 0)
  world.write({ 'tarmac.toml': 'app = "shop"\nport = 1\n' })
  assert.equal((await world.tarmac('push')).exit, 2)
  world.write({ 'tarmac.toml': 'app = "shop"\n[build]\ncommand = "touch built"\n[services.web]\ncommand = "x"\n' })
  const other = await world.tarmac('push', '--app', 'blog', '--host', world.url)
  assert.deepEqual([other.exit, existsSync(join(world.project, 'built'))], [2, false], 'nor is anything built')
  execFileSync('tar', ['-czf', join(world.dir, 'project.tar.gz'), '-C', world.project, '.'])
  for (const path of ['.', '../project.tar.gz']) {
    const packed = await world.tarmac('pack', path, '--app', 'blog', '-o', '../blog.tarmac')
    assert.deepEqual([packed.exit, existsSync(join(world.dir, 'blog.tarmac'))], [2, false], path)
  }
  assert.deepEqual(releases(world), [])
  assert.deepEqual(readdirSync(join(world.root, 'apps')), [])
})

test('the build command runs first, its words go to stderr, and when it fails nothing is sent', async (t) => {
  const world = await makeWorld(t)
  const withBuild = (command: string) =>
    `${projectText(world.port, world.url)}\n[build]\ncommand = ${JSON.stringify(command)}\nexclude = ["src"]\n`
  world.write({
    'src/server.js': readFileSync(join(world.project, 'server.js'), 'utf8'),
    'tarmac.toml': withBuild('echo building && cp src/server.js server.js && sed -i s/.1./\\"built\\"/ server.js'),
  })
  const built = await world.tarmac('push')
  assert.equal(built.exit, 0, built.stderr)
  assert.equal(await world.get(), 'built')
  assert.match(built.stderr, /^building$/m)
  assert.doesNotMatch(built.stdout, /building/)
  assert.ok(!existsSync(tree(world, 'src')))

  world.write({ 'tarmac.toml': withBuild('echo oops; exit 3') })
  const before = releases(world)
  const failed = await world.tarmac('push')
  assert.equal(failed.exit, 2)
  assert.match(failed.stderr, /exited 3\nhint: nothing was sent/)
  assert.deepEqual([releases(world), await world.get()], [before, 'built'])
})

test('a .tarmacignore, secrets and history stay at home; links, modes and empty directories travel', async (t) => {
  const world = await makeWorld(t)
  world.write({
    '.tarmacignore': 'notes/\n*.log\n!keep.log\n',
    '.env': 'SECRET=1',
    '.git/HEAD': 'ref',
    'notes/a.txt': '',
    'a.log': '',
    'keep.log': 'kept',
    'bin/tool': '#!/bin/sh\n',
  })
  execFileSync('chmod', ['4777', join(world.project, 'bin/tool')])
  mkdirSync(join(world.project, 'empty'))
  symlinkSync('../keep.log', join(world.project, 'bin/link'))
  assert.equal((await world.tarmac('push')).exit, 0)
  assert.deepEqual(readdirSync(tree(world)).sort(), ['bin', 'empty', 'keep.log', 'server.js'])
  assert.equal(readFileSync(tree(world, 'bin/link'), 'utf8'), 'kept')
  assert.ok(lstatSync(tree(world, 'bin/link')).isSymbolicLink())
  const { mode, uid } = lstatSync(tree(world, 'bin/tool'))
  assert.deepEqual([mode & 0o7777, uid], [0o555, process.getuid?.()], 'no setuid, not writable, not its own')

  symlinkSync('/etc/passwd', join(world.project, 'out'))
  const refused = await world.tarmac('push')
  assert.notEqual(refused.exit, 0)
  assert.match(refused.stderr, /"out"/)
})

test('a shared directory outlives releases, belongs to the app, and is all of it that the app can write', async (t) => {
  const world = await makeWorld(t)
  world.write({
    'tarmac.toml': `shared = ["data/uploads"]\n${projectText(world.port, world.url)}`,
    'data/uploads/local.txt': 'of the developer',
    'server.js': `const fs = require('node:fs')
fs.appendFileSync('data/uploads/starts', 'x')
const tries = ['server.js', 'new.txt', 'data/new.txt', '../release.json', '../../new', '../../../shared/new']
const wrote = tries.filter((path) => { try { fs.appendFileSync(path, 'x'); return true } catch { return false } })
require('node:http').createServer((q, r) => r.end(JSON.stringify({ wrote, uid: process.getuid() }))).listen(process.env.PORT)
`,
  })
  assert.equal((await world.tarmac('push')).exit, 0)
  await world.tarmac('push', '--force')
  const shared = join(world.root, 'apps/shop/shared/data/uploads')
  assert.equal(readFileSync(join(shared, 'starts'), 'utf8'), 'xx')
  assert.deepEqual(readdirSync(shared), ['starts'], 'what lies there at home stays there')
  assert.ok(lstatSync(tree(world, 'data/uploads')).isSymbolicLink())
  writeFileSync(join(shared, 'by-hand'), '')
  await world.tarmac('rollback')
  assert.deepEqual(readdirSync(shared).sort(), ['by-hand', 'starts'])
  if (process.getuid?.() !== 0) return
  const { wrote, uid } = JSON.parse((await world.get()) ?? '')
  assert.deepEqual(wrote, [])
  assert.notEqual(uid, 0)
  assert.deepEqual([statSync(shared).uid, statSync(join(shared, '..')).uid], [uid, 0])
})

test('what a release was made from is said as git says it', async (t) => {
  const world = await makeWorld(t)
  const git = (...args: string[]) =>
    execFileSync('git', ['-C', world.project, '-c', 'user.name=Ann', '-c', 'user.email=ann@example.org', ...args], {
      encoding: 'utf8',
    }).trim()
  const sourceOf = async () => {
    const { exit, stderr } = await world.tarmac('pack', '-o', '../made.tarmac')
    assert.equal(exit, 0, stderr)
    const bundle = join(world.dir, 'made.tarmac')
    const text = execFileSync('tar', ['--zstd', '-xOf', bundle, 'release.json'], { encoding: 'utf8' })
    return JSON.parse(text).source
  }
  assert.equal(await sourceOf(), undefined, 'no repository')
  git('init', '--quiet', '--initial-branch=a(b)/c')
  assert.equal(await sourceOf(), undefined, 'no commit')
  git('add', 'server.js')
  git('commit', '--quiet', '--message=first')
  const commit = git('rev-parse', 'HEAD')
  assert.deepEqual(await sourceOf(), { commit, branch: 'a(b)/c', dirty: false }, 'what git does not know is no change')
  world.version('2')
  assert.deepEqual(await sourceOf(), { commit, branch: 'a(b)/c', dirty: true })
  git('checkout', '--quiet', '-b', 'odd\u2028#branch')
  assert.deepEqual(await sourceOf(), { commit, branch: 'odd\u2028#branch', dirty: true })
  for (const name of ['b'.repeat(201), 'private\ue000']) {
    git('checkout', '--quiet', '-b', name)
    assert.deepEqual(await sourceOf(), { commit, dirty: true }, 'a name that a manifest cannot say is left out')
  }
  git('checkout', '--quiet', '--detach')
  assert.deepEqual(await sourceOf(), { commit, dirty: true })
  writeFileSync(join(world.project, '.git/index'), 'no index')
  assert.deepEqual(await sourceOf(), { commit, dirty: true }, 'what git cannot tell may have changed')
})

test('a git that takes its time holds up no push that needs no word of it', async (t) => {
  const bin = tempDir(t)
  const git = '#!/bin/sh\ntrap "" TERM\n[ ! -e "$0.slow" ] || sleep 30\nexit 1\n'
  writeFileSync(join(bin, 'git'), git, { mode: 0o755 })
  const world = await makeWorld(t, { environment: { PATH: `${bin}:${process.env.PATH}` } })
  assert.equal((await world.tarmac('push')).exit, 0)
  writeFileSync(join(bin, 'git.slow'), '')
  const began = performance.now()
  const { exit, stdout } = await world.tarmac('push')
  assert.deepEqual([exit, /already running/.test(stdout)], [0, true])
  assert.ok(performance.now() - began < 20_000)
})
