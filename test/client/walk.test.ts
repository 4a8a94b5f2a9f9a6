import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { type TestContext, test } from 'node:test'
import fc from 'fast-check'
import type { Choice } from '../../client/ignore.ts'
import { walk } from '../../client/walk.ts'

/** A directory of these files: path → text; a path that ends in `/` is an empty directory. */
function tree(t: TestContext, files: Record<string, string>): string {
  const root = mkdtempSync(join(tmpdir(), 'tarmac-test-'))
  t.after(() => rmSync(root, { recursive: true, force: true }))
  for (const [path, text] of Object.entries(files)) put(root, path, text)
  return root
}

function put(root: string, path: string, text: string): void {
  mkdirSync(join(root, path.endsWith('/') ? path : dirname(path)), { recursive: true })
  if (!path.endsWith('/')) writeFileSync(join(root, path), text)
}

function paths(root: string, choice?: Choice): string[] {
  return walk(root, choice).entries.map(({ path, kind }) => (kind === 'dir' ? `${path}/` : path))
}

test('what lies in a directory is walked, sorted by bytes, with what a release keeps of it', (t) => {
  const root = tree(t, { 'a/b': 'b', 'a-b': 'ab', a0: '', 'empty/': '', '\uFFFDx': '', '😀': '', 'bin/run': '#!' })
  chmodSync(join(root, 'bin/run'), 0o4711)
  chmodSync(join(root, 'a-b'), 0o666)
  symlinkSync('../nowhere', join(root, 'a/link'))
  utimesSync(join(root, 'a/b'), 1, 1_700_000_000.5)
  const { entries, warnings } = walk(root)
  assert.deepEqual(paths(root), ['a-b', 'a/b', 'a/link', 'a0', 'bin/run', 'empty/', '\uFFFDx', '😀'])
  const of = (path: string) => entries.find((entry) => entry.path === path)
  const { mtimeMs, ctimeMs, ino, ...rest } = of('a/b') as { mtimeMs: number; ctimeMs: number; ino: number }
  assert.deepEqual(rest, { kind: 'file', path: 'a/b', mode: '0644', size: 1 })
  assert.equal(mtimeMs, 1_700_000_000_500)
  assert.ok(Math.abs(Date.now() - ctimeMs) < 60_000 && Number.isInteger(ino), `${ctimeMs} ${ino}`)
  assert.deepEqual(of('a/link'), { kind: 'link', path: 'a/link', link: '../nowhere' })
  assert.deepEqual(of('empty'), { kind: 'dir', path: 'empty' })
  assert.equal((of('bin/run') as { mode: string }).mode, '0755')
  assert.equal((of('a-b') as { mode: string }).mode, '0644')
  assert.deepEqual(warnings, [])
})

test('a link to a directory is a link, and nothing behind it is looked at', (t) => {
  const root = tree(t, { 'real/a': '' })
  symlinkSync('real', join(root, 'dir'))
  symlinkSync('/', join(root, 'top'))
  assert.deepEqual(paths(root), ['dir', 'real/a', 'top'])
})

test('.git, .env files, tarmac.toml, .tarmacignore and bundles at the top stay here; node_modules goes', (t) => {
  const root = tree(t, {
    '.git/HEAD': '',
    'vendor/.git': '',
    '.env': '',
    '.env.local': '',
    'web/.env.production': '',
    '.environment/a': '',
    'tarmac.toml': '',
    'web/tarmac.toml': '',
    'app.tarmac': '',
    'web/fixture.tarmac': '',
    '.tarmacignore': '',
    'web/.tarmacignore': '',
    '.gitignore': 'node_modules',
    'node_modules/x/index.js': '',
    'env.js': '',
    'web/a.env': '',
  })
  assert.deepEqual(paths(root), [
    '.gitignore',
    'env.js',
    'node_modules/x/index.js',
    'web/a.env',
    'web/fixture.tarmac',
    'web/tarmac.toml',
  ])
})

test('.tarmacignore can take back what is left out by default', (t) => {
  const root = tree(t, { '.tarmacignore': '!.env.example\n', '.env': '', '.env.example': '', 'a/.env.example': '' })
  assert.deepEqual(paths(root), ['.env.example', 'a/.env.example'])
})

test('a line of .tarmacignore that takes everything back takes back no history and no secrets', (t) => {
  const files = { '.git/config': '', '.env': '', 'a/.env.local': '', 'tarmac.toml': '', 'a/b.tmp': '' }
  const root = tree(t, { '.tarmacignore': '*.tmp\n!*\n!.*\n!.git\n!tarmac.toml\n', 'a/.tarmacignore': '!*', ...files })
  assert.deepEqual(paths(root), ['a/b.tmp'])
})

test('a directory that is empty because all of it was ignored is left out; one that was empty is kept', (t) => {
  const root = tree(t, {
    '.tarmacignore': '*.log\ntmp/\n',
    'logs/a.log': '',
    'deep/er/b.log': '',
    'tmp/': '',
    'kept/': '',
    'keep/logs/': '',
  })
  assert.deepEqual(paths(root), ['keep/logs/', 'kept/'])
})

test('include limits, exclude takes away, shared stays: whatever a .tarmacignore says', (t) => {
  const root = tree(t, {
    'dist/a.js': '',
    'dist/a.js.map': '',
    'dist/sub/.tarmacignore': '!*.map\n!/up\n',
    'dist/sub/b.map': '',
    'dist/sub/up/file': '',
    'src/a.ts': '',
    'package.json': '',
    'web/package.json': '',
    'up[1]/x': '',
    'up1/x': '',
    'dist/none/': '',
    'none/': '',
  })
  assert.deepEqual(paths(root, { include: ['dist', '/package.json'] }), [
    'dist/a.js',
    'dist/a.js.map',
    'dist/none/',
    'dist/sub/b.map',
    'dist/sub/up/file',
    'package.json',
  ])
  assert.deepEqual(paths(root, { include: ['dist'], exclude: ['none', '*.map'], shared: ['dist/sub/up'] }), [
    'dist/a.js',
  ])
  assert.deepEqual(paths(root, { exclude: ['dist', 'src/', '*.json', 'none'], shared: ['up[1]'] }), ['up1/x'])
  assert.deepEqual(paths(root, { include: [] }), [])
})

test('patterns mind the case of names, as git does on Linux', (t) => {
  const root = tree(t, { '.tarmacignore': 'README\n', README: '', readme: '' })
  assert.deepEqual(paths(root), ['readme'])
})

test('.tarmacignore means what .gitignore means to git, at the top and below', { timeout: 120_000 }, (t) => {
  if (spawnSync('git', ['--version']).error) return t.skip('no git here')
  // ASCII only: `?` is one byte to git and one character to us.
  const word = fc.constantFrom('a', 'b', 'c', 'ab', 'a b', '[x]', '#h', '!n', 'x.y')
  const path = fc.array(word, { minLength: 1, maxLength: 4 }).map((words) => words.join('/'))
  const glob = fc.constantFrom(
    '*',
    '**',
    'a*',
    '?',
    '[ab]',
    '\\[x\\]',
    '\\#h',
    '\\!n',
    'a\\ b',
    'é',
    'a',
    'b',
    'c',
    '*b',
  )
  const pattern = fc
    .record({
      negative: fc.boolean(),
      top: fc.boolean(),
      globs: fc.array(glob, { minLength: 1, maxLength: 3 }),
      end: fc.constantFrom('', '', '/', '/**', ' ', '  ', '\r'),
    })
    .map(({ negative, top, globs, end }) => `${negative ? '!' : ''}${top ? '/' : ''}${globs.join('/')}${end}`)
  const ignoreFile = fc.array(
    fc.oneof({ arbitrary: pattern, weight: 6 }, { arbitrary: fc.constantFrom('', '# a', '#h', '!n'), weight: 1 }),
    {
      maxLength: 5,
    },
  )
  const ignoreFiles = fc.array(
    fc.tuple(
      fc.oneof(
        fc.constant(''),
        path.map((dir) => `${dir}/`),
      ),
      ignoreFile,
    ),
    { maxLength: 3 },
  )
  fc.assert(
    fc.property(fc.array(path, { minLength: 1, maxLength: 25 }), ignoreFiles, (files, ignores) => {
      const root = mkdtempSync(join(tmpdir(), 'tarmac-test-'))
      try {
        // A path that lies below a file of the list cannot be made: left out.
        for (const file of files) tryTo(() => put(root, file, ''))
        for (const [dir, lines] of ignores) {
          for (const name of ['.gitignore', '.tarmacignore'])
            tryTo(() => put(root, `${dir}${name}`, `${lines.join('\n')}\n`))
        }
        const env = { PATH: '/usr/bin:/bin', HOME: root, GIT_CONFIG_NOSYSTEM: '1' }
        const git = (...args: string[]) =>
          String(execFileSync('git', ['-C', root, ...args], { env, stdio: ['ignore', 'pipe', 'ignore'] }))
        git('init', '-q')
        const listed = git('ls-files', '-z', '--others', '--exclude-per-directory=.gitignore')
          .split('\0')
          .filter(Boolean)
        const ours = walk(root)
          .entries.filter(({ kind }) => kind === 'file')
          .map((entry) => entry.path)
        const plain = (names: string[]) => names.filter((name) => !/(^|\/)\.(git|tarmac)ignore$/.test(name)).sort()
        assert.deepEqual(plain(ours), plain(listed))
      } finally {
        rmSync(root, { recursive: true, force: true })
      }
    }),
    { numRuns: 100 },
  )
})

function tryTo(act: () => void): void {
  try {
    act()
  } catch {
    // Not possible beside what is there already.
  }
}

test('sockets, fifos and devices are refused by name, and not when they are ignored', async (t) => {
  const root = tree(t, { 'run/a': '' })
  execFileSync('mkfifo', [join(root, 'run/pipe')])
  assert.throws(() => walk(root), { code: 'source_invalid', message: /"run\/pipe".*fifo/ })
  put(root, '.tarmacignore', 'pipe')
  assert.deepEqual(paths(root), ['run/a'])
  const server = createServer().listen(join(root, 'run/sock'))
  await new Promise((resolve) => server.once('listening', resolve))
  t.after(() => server.close())
  assert.throws(() => walk(root), { code: 'source_invalid', message: /"run\/sock".*socket/ })
  put(root, '.tarmacignore', 'pipe\nsock')
  if (spawnSync('mknod', [join(root, 'null'), 'c', '1', '3']).status === 0) {
    assert.throws(() => walk(root), { code: 'source_invalid', message: /"null".*device/ })
  }
})

test('a name or a link that is not UTF-8 is refused by name, escaped; U+FFFD itself is a name like others', (t) => {
  const root = tree(t, { '\uFFFD': '', 'sub/a': '' })
  assert.deepEqual(paths(root), ['sub/a', '\uFFFD'])
  const name = Buffer.concat([Buffer.from(join(root, 'sub/')), Buffer.from([0x61, 0xff, 0x1b])])
  writeFileSync(name, '')
  assert.throws(() => walk(root), {
    code: 'source_invalid',
    message: /^pack "sub\/""a\\\\xff\\u001b": the name is not UTF-8$/,
  })
  put(root, '.tarmacignore', 'sub')
  assert.deepEqual(paths(root), ['\uFFFD'])
  symlinkSync(Buffer.from([0xc3, 0x28]), join(root, 'l'))
  assert.throws(() => walk(root), { code: 'source_invalid', message: /"l → "/ })
})

test('a .tarmacignore that is a link or a directory is refused: what it would have kept here must not leave', (t) => {
  const root = tree(t, { 'a/secret': '' })
  symlinkSync('/dev/null', join(root, 'a/.tarmacignore'))
  assert.throws(() => walk(root), { code: 'source_invalid', message: /\.tarmacignore/ })
  rmSync(join(root, 'a/.tarmacignore'))
  mkdirSync(join(root, 'a/.tarmacignore'))
  assert.throws(() => walk(root), { code: 'source_invalid', message: /\.tarmacignore/ })
})

test('a directory that is not there, or is a file, is refused by name', (t) => {
  const root = tree(t, { file: '' })
  for (const path of ['none', 'file']) {
    assert.throws(() => walk(join(root, path)), { code: 'source_invalid', message: new RegExp(`${path}"`) })
  }
})

test('names that differ only in case or Unicode form are taken, with one warning each', (t) => {
  const root = tree(t, {
    README: '',
    readme: '',
    'Lib/a': '',
    'lib/a': '',
    'lib/b': '',
    'x/caf\u00e9': '',
    'x/cafe\u0301': '',
    'y/readme': '',
  })
  const { entries, warnings } = walk(root)
  assert.equal(entries.length, 8)
  assert.deepEqual(warnings, [
    '"Lib" and "lib" differ only in case or Unicode form',
    '"README" and "readme" differ only in case or Unicode form',
    '"x/cafe\u0301" and "x/caf\u00e9" differ only in case or Unicode form',
  ])
})
