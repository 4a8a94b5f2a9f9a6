import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { promisify } from 'node:util'
import { preloadText } from '../agent/preload/preload.ts'
import { build } from '../build.ts'
import manifest from '../package.json' with { type: 'json' }

const run = promisify(execFile)

/** A small checkout: package.json says "module", as ours does; `sources` are path → text. */
async function checkout(t: TestContext, sources: Record<string, string>): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'tarmac-build-'))
  t.after(() => rm(root, { recursive: true, force: true }))
  await writeFile(join(root, 'package.json'), '{ "type": "module" }')
  for (const [path, text] of Object.entries(sources)) {
    await mkdir(dirname(join(root, path)), { recursive: true })
    await writeFile(join(root, path), text)
  }
  return root
}

const program = { entry: 'main.ts', outfile: 'dist/program' }
const version = JSON.stringify(join(import.meta.dirname, '../shared/version.ts'))

test('a program runs inside the checkout, and copied alone, with the version of package.json', async (t) => {
  const root = await checkout(t, { 'main.ts': `import { version } from ${version}\nconsole.log(version)` })
  await build(root, [program])
  assert.equal((await stat(join(root, 'dist/program'))).mode & 0o777, 0o755)
  assert.deepEqual((await readdir(join(root, 'dist'))).sort(), ['package.json', 'program'])
  const alone = await mkdtemp(join(tmpdir(), 'tarmac-alone-'))
  t.after(() => rm(alone, { recursive: true, force: true }))
  await cp(join(root, 'dist/program'), join(alone, 'program'))
  for (const place of [join(root, 'dist/program'), join(alone, 'program')]) {
    const { stdout, stderr } = await run(place)
    assert.equal(stdout, `${manifest.version}\n`)
    assert.equal(stderr, '')
  }
})

test('the preload for apps travels inside the bundle, as it is in its file', async (t) => {
  const preload = JSON.stringify(join(import.meta.dirname, '../agent/preload/preload.ts'))
  const root = await checkout(t, { 'main.ts': `import { preloadText } from ${preload}\nconsole.log(preloadText)` })
  await build(root, [program])
  const alone = await mkdtemp(join(tmpdir(), 'tarmac-alone-'))
  t.after(() => rm(alone, { recursive: true, force: true }))
  await cp(join(root, 'dist/program'), join(alone, 'program'))
  const { stdout, stderr } = await run(join(alone, 'program'))
  assert.equal(stdout, `${preloadText}\n`)
  assert.equal(stderr, '')
  assert.match(preloadText, /^'use strict'\n/)
})

test('import() stays lazy in the bundle', async (t) => {
  const root = await checkout(t, {
    'main.ts': `console.log('started')\nif (process.argv[2] === 'go') void import('./late.ts').then((late) => late.go())`,
    'late.ts': `console.log('loaded')\nexport function go() { console.log('ran') }`,
  })
  await build(root, [program])
  assert.equal((await run(join(root, 'dist/program'))).stdout, 'started\n')
  assert.equal((await run(join(root, 'dist/program'), ['go'])).stdout, 'started\nloaded\nran\n')
})

test('an older Node says what is needed in one line, even when the program uses syntax it cannot parse', async (t) => {
  const root = await checkout(t, {
    'main.ts': `{ using held = { [Symbol.dispose]() { console.log('released') } }; console.log(typeof held) }`,
  })
  await build(root, [program])
  assert.equal((await run(join(root, 'dist/program'))).stdout, 'object\nreleased\n')
  const old = await olderNode()
  if (old === undefined) return t.skip('no node older than 24 in /usr/bin or /usr/local/bin')
  await assert.rejects(run(old.path, [join(root, 'dist/program')]), {
    code: 2,
    stderr: `program needs Node 24.6 or newer, this is ${old.version}\n`,
  })
})

test('a missing entry, or code the format would break, is refused by name and nothing is written', async (t) => {
  const root = await checkout(t, { 'main.ts': 'console.log(1)', 'url.ts': 'console.log(import.meta.url)' })
  const missing = { entry: 'gone.ts', outfile: 'dist/gone' }
  await assert.rejects(build(root, [program, missing]), /build dist\/gone: its entry gone\.ts is missing/)
  await assert.rejects(
    build(root, [program, { entry: 'url.ts', outfile: 'dist/url' }]),
    /build dist\/url: url\.ts:1: .*import\.meta/,
  )
  await assert.rejects(stat(join(root, 'dist')), { code: 'ENOENT' })
})

async function olderNode(): Promise<{ path: string; version: string } | undefined> {
  for (const path of ['/usr/local/bin/node', '/usr/bin/node']) {
    const version = await run(path, ['--version']).then(
      ({ stdout }) => stdout.trim(),
      () => undefined, // not there
    )
    if (version !== undefined && Number.parseInt(version.slice(1), 10) < 24) return { path, version }
  }
}
