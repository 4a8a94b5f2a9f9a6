import assert from 'node:assert/strict'
import { globSync } from 'node:fs'
import { join, matchesGlob } from 'node:path'
import { describe, test } from 'node:test'
import { both, circles, eachImport, names, only, type Rule, variables, word } from './helpers/rules.ts'
import { readSource, sourceOf } from './helpers/source.ts'

// Who may enter which room, and what only one file may do. Each rule has its reason, and samples it must catch: a
// guard that was never seen to fail guards nothing.

const ROOT = join(import.meta.dirname, '..')
const GROUND = ['agent/{run,log,print,config,fault}.ts', 'agent/state/layout.ts', 'shared/**']

/** First match counts. A room may import itself, `may`, and packages; never what stands above it. */
const ROOMS: { room: string; may: string[]; why: string }[] = [
  { room: 'shared/**', may: ['package.json'], why: 'both sides run it: what it imports, both import' },
  { room: 'client/main.ts', may: ['client/**', 'shared/**'], why: 'the wire is the only way to the agent' },
  { room: 'client/commands/**', may: ['client/*.ts', 'shared/**'], why: 'the wire is the only way to the agent' },
  { room: 'client/*.ts', may: ['shared/**'], why: 'commands use the parts; a part that knows commands makes a circle' },
  { room: 'agent/{main,serve,setup}.ts', may: ['agent/**', 'shared/**'], why: 'they put the agent together' },
  { room: 'agent/agent.ts', may: ['agent/**', 'shared/**'], why: 'it names what the agent is made of, as types' },
  {
    room: 'agent/http/**',
    may: ['agent/{deploy,watch,init,state}/**', 'agent/agent.ts', ...GROUND],
    why: 'the top floor',
  },
  {
    room: 'agent/watch/**',
    may: ['agent/{deploy,init,state}/**', 'agent/agent.ts', ...GROUND],
    why: 'facts do not know who asks',
  },
  {
    room: 'agent/deploy/**',
    may: ['agent/{init,state}/**', 'agent/agent.ts', ...GROUND],
    why: 'a deploy is the same whoever asked, over whatever wire',
  },
  {
    room: 'agent/init/**',
    may: ['agent/state/{disk,remove}.ts', ...GROUND],
    why: 'init runs units; what a release is, is decided above',
  },
  { room: 'agent/preload/**', may: [], why: "it is text for the app's own process, which knows nothing of the agent" },
  { room: 'agent/state/**', may: GROUND, why: 'the disk knows nothing of who writes' },
  { room: 'agent/*.ts', may: GROUND, why: 'the ground floor: all stand on it' },
]

const JOINS_PATHS: Record<string, string> = {
  'agent/state/layout.ts': 'every path under the root',
  'agent/config.ts': 'where the root is',
  'agent/state/disk.ts': 'temporary names beside a path it was given',
  'agent/state/remove.ts': 'what it finds below a path it was given',
  'agent/state/object-sweep.ts': 'walks the shards of a directory it got from layout',
  'agent/deploy/mend.ts': "the manifest's own paths, below the release's tree",
  'agent/deploy/assemble.ts': "the manifest's own paths, below the staging directory",
  'agent/init/systemd*.ts': "systemd's unit directories",
  'agent/init/upstart*.ts': "Upstart's job directory",
  'agent/init/embedded*.ts': 'its records, below the one directory it got from layout',
}

/** Above 250 lines a file asks for its reason, here. */
const MAX_LINES = 250
const LONG: Record<string, string> = {}

const RULES: Rule[] = [
  {
    title: 'a file imports only its own room and those below',
    why: 'the client and the agent meet on the wire alone, and no floor stands on the one above',
    breaches: eachImport(({ target }, { path }) => {
      const room = ROOMS.find(({ room }) => matchesGlob(path, room))
      if (room === undefined) return 'lies in no room'
      if (!/^(agent|client|shared|test|demo|bench)\/|^[\w.]+\.(ts|json)$/.test(target)) return undefined
      if ([room.room, ...room.may].some((glob) => matchesGlob(target, glob))) return undefined
      return `imports ${target}: ${room.why}`
    }),
    bad: [
      { 'client/a.ts': "import type { A } from '../agent/agent.ts'" },
      { 'agent/http/a.ts': "const a = await import('../../client/api.ts')" },
      { 'shared/a.ts': "export { a } from '../agent/state/ledger.ts'" },
      { 'agent/state/a.ts': "import { deploy } from '../deploy/deploy.ts'" },
      { 'agent/init/a.ts': "import {\n  releases,\n} from '../state/release-store.ts'" },
      { 'agent/deploy/a.ts': "import { x } from '../../test/helpers/x.ts'" },
      { 'client/api.ts': "import './commands/push.ts'" },
    ],
  },
  {
    title: 'no import runs in a circle',
    why: 'files of a circle cannot be read, tested or loaded one before the other',
    breaches: circles,
    bad: [{ 'agent/a.ts': "import { b } from './b.ts'", 'agent/b.ts': "import { a } from './a.ts'" }],
  },
  {
    title: 'shared/ does no IO',
    why: 'what both sides agree on is pure: it can be read, and tested, without a machine',
    breaches: only(['agent/**', 'client/**'], ({ target }) =>
      /^node:(?!(crypto|zlib|buffer|stream|util)$)/.test(target),
    ),
    bad: [
      { 'shared/a.ts': "import { readFileSync } from 'node:fs'" },
      { 'shared/b.ts': "import type { Socket } from 'node:net'" },
    ],
  },
  {
    title: 'only agent/http/ knows HTTP',
    why: 'a deploy that knows its request cannot outlive it',
    breaches: only(['agent/http/**'], ({ target }) => /^(hono|@hono\/.*)(\/|$)/.test(target)),
    bad: [
      { 'agent/deploy/a.ts': "import { stream } from 'hono/streaming'" },
      { 'client/a.ts': "import { Hono } from 'hono'" },
    ],
  },
  {
    title: 'only the two run.ts start programs',
    why: 'argv arrays, a deadline and what the program said, in one place; never a shell',
    breaches: only(['agent/run.ts', 'client/run.ts'], ({ target }) => target.endsWith('child_process')),
    bad: [
      { 'agent/init/a.ts': "import { execFile } from 'node:child_process'" },
      { 'client/a.ts': "require('child_process')" },
    ],
  },
  {
    title: 'on the agent only state/disk.ts renames and syncs',
    why: 'a file appears whole, or a power cut shows half of it: one file gets the order right for everybody',
    breaches: both(
      only(
        ['agent/state/disk.ts', 'client/**', 'shared/**'],
        ({ target, names }) =>
          /^node:fs/.test(target) && names.some((name) => /^(rename|f(data)?sync)(Sync)?$/.test(name)),
      ),
      word(/\.(rename|renameSync|fsync|fsyncSync|fdatasync|fdatasyncSync|sync|datasync)\s*\(/, [
        'agent/state/disk.ts',
        'client/**',
        'shared/**',
      ]),
    ),
    bad: [
      { 'agent/deploy/a.ts': "import { rename } from 'node:fs/promises'" },
      { 'agent/deploy/b.ts': 'await file.sync()' },
    ],
  },
  {
    title: 'only layout.ts joins a path under the root',
    why: 'whoever looks for what the agent writes finds all of it on one screen',
    breaches: only(
      [...Object.keys(JOINS_PATHS), 'client/**', 'shared/**'],
      ({ target, names }) =>
        /^(node:)?path(\/|$)/.test(target) &&
        names.some((name) => /^(join|resolve|posix|win32|default|\*)$/.test(name)),
    ),
    bad: [
      { 'agent/deploy/a.ts': "import { dirname, join as j } from 'node:path'" },
      { 'agent/http/a.ts': "import path from 'node:path'" },
    ],
  },
  {
    title: 'process.env is read in the two config.ts only',
    why: 'what changes a run is in one place, and no secret leaks from a corner',
    breaches: both(
      word(/\bprocess\s*\??\.\s*env\b/, ['agent/config.ts', 'client/config.ts']),
      only(
        ['agent/config.ts', 'client/config.ts'],
        ({ target, names }) =>
          /^(node:)?process$/.test(target) && names.some((name) => /^(env|default|\*)$/.test(name)),
      ),
    ),
    bad: [{ 'client/a.ts': 'const home = process.env.HOME' }, { 'agent/a.ts': "import { env } from 'node:process'" }],
  },
  {
    title: 'only the two main.ts end the process',
    why: 'an exit in a corner cuts off what is being written, and hides the failure from whoever could say it',
    breaches: word(/\bprocess\s*\.\s*exit(Code)?\b/, ['agent/main.ts', 'client/main.ts']),
    bad: [{ 'agent/a.ts': 'process.exit(1)' }, { 'client/a.ts': 'process.exitCode = 1' }],
  },
  {
    title: 'only log.ts, print.ts, progress.ts and prompt.ts print',
    why: 'results on stdout, the rest on stderr, every foreign byte escaped: in one place',
    breaches: word(
      /\bconsole\s*\.|\bprocess\s*\.\s*std(out|err)\b(?!\s*\.\s*(isTTY|columns|rows|hasColors|getColorDepth)\b)/,
      ['agent/{log,print}.ts', 'client/{print,progress,prompt}.ts'],
    ),
    bad: [{ 'client/commands/a.ts': "console.log('x')" }, { 'agent/a.ts': "process.stderr.write('x')" }],
  },
  {
    title: 'no default exports',
    why: 'one thing has one name, wherever it is used',
    breaches: word(/\bexport\s+default\b|\bas\s+default\b/),
    bad: [{ 'shared/a.ts': 'export default 1' }, { 'shared/b.ts': 'const b = 1\nexport { b as default }' }],
  },
  {
    title: 'no module holds state',
    why: 'state is what lies on the disk and what init says; a module-level variable is a second truth',
    breaches: variables,
    bad: [
      { 'agent/a.ts': 'let open = 0\nexport function f() { let x = 1; return x }' },
      { 'agent/b.ts': 'export var x = 1' },
    ],
  },
  {
    title: `a file has at most ${MAX_LINES} lines, or its reason here`,
    why: '60 to 150 read best',
    breaches: (sources) =>
      sources
        .filter(({ path, lines }) => lines > MAX_LINES && !(path in LONG))
        .map(({ path, lines }) => `${path}:${lines}: too long`),
    bad: [{ 'agent/a.ts': 'const a = 1\n'.repeat(MAX_LINES + 1) }],
  },
  {
    title: 'a name says what the file is, and no two files share one but a verb across the wire',
    why: 'a file is asked for by its name',
    breaches: names,
    bad: [
      { 'agent/Log.ts': '' },
      { 'client/index.ts': '' },
      { 'shared/path-utils.ts': '' },
      { 'agent/state/tls.ts': '', 'client/tls.ts': '' },
    ],
  },
]

describe('boundaries', () => {
  const sources = globSync('{agent,client,shared}/**/*.ts', { cwd: ROOT })
    .sort()
    .map((path) => readSource(ROOT, path))
  for (const { title, why, breaches, bad } of RULES) {
    test(`${title}: ${why}`, () => assert.deepEqual(breaches(sources), []))
    test(`the guard fails when broken: ${title}`, () => {
      for (const sample of bad) {
        const samples = Object.entries(sample).map(([path, text]) => sourceOf(path, text))
        assert.equal(breaches(samples).length, 1, JSON.stringify(sample))
      }
    })
  }

  test('comments, texts, templates and regular expressions are not taken for code', () => {
    const text = [
      "// process.env\n/* import 'x' */ const a = 'process.env'",
      // biome-ignore lint/suspicious/noTemplateCurlyInString: it is source text
      ' + `process.env ${`${b / 2}`} console.` / 2\n',
      'if (/[/\'"]process.env/.test(a)) f()',
    ].join('')
    const { code, imports } = sourceOf('client/a.ts', text)
    assert.equal(code.length, text.length)
    assert.doesNotMatch(code, /process|console|import/)
    assert.match(code, /if \(.*\.test\(a\)\) f\(\)/)
    assert.deepEqual(imports, [])
  })

  test('every exception still names a file', () => {
    for (const exception of [...Object.keys(LONG), ...Object.keys(JOINS_PATHS).filter((path) => !path.includes('*'))]) {
      assert.ok(
        sources.some(({ path }) => path === exception),
        exception,
      )
    }
  })
})
