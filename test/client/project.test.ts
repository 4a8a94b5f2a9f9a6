import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { findProjectFile, parseProject, readProject } from '../../client/project.ts'
import { Failure } from '../../shared/failure.ts'
import { parseServiceName, type ServiceName } from '../../shared/names.ts'
import type { ServiceSpec } from '../../shared/service-spec.ts'
import { tempDir } from '../helpers/ssh.ts'

const WEB = parseServiceName('web')
const parse = (text: string) => parseProject(text, { name: 'tarmac.toml', dir: '/srv/shop' })
const service = (text: string, name: ServiceName = WEB): ServiceSpec | undefined => parse(text).head.services[name]
const command = (line: string) => service(`app = "shop"\n[services.web]\ncommand = ${line}\n`)?.command

function refused(text: string, pattern: RegExp, code = 'config_invalid') {
  assert.throws(
    () => parse(text),
    (error) => error instanceof Failure && error.code === code && pattern.test(error.message),
    text,
  )
}

test('the shortest tarmac.toml has every default', () => {
  const project = parse('app = "shop"\n[services.web]\ncommand = "node server.js"\n')
  assert.deepEqual(project, {
    dir: '/srv/shop',
    app: 'shop',
    build: { command: undefined, include: undefined, exclude: undefined },
    environments: {},
    head: {
      app: 'shop',
      services: {
        web: {
          command: { exec: ['node', 'server.js'] },
          health: { intervalMs: 250, timeoutMs: 60_000, settleMs: 3000 },
          restart: { attempts: 5, withinMs: 30_000, delayMs: 1000 },
          stopTimeoutMs: 10_000,
        },
      },
      shared: [],
      keep: { releases: 10, failed: 2 },
    },
  })
})

test('everything that DESIGN.md names can be said', () => {
  const project = parse(`app = "shop"
version = "1.2.3"
shared = ["uploads"]
[build]
command = "npm run build"
include = ["dist"]
exclude = ["*.map"]
[services.web]
command = ["node", "a b.js"]
port = 3000
switch = "restart"
stop_timeout = "30s"
[services.web.health]
path = "/health"
status = 204
interval = "1s"
timeout = "2m"
settle = "5s"
[services.worker]
command = "node worker.js"
[restart]
attempts = 3
within = "1m"
delay = "500ms"
[keep]
releases = 4
failed = 1
[limits]
memory = "512M"
tasks = 100
[environments.production]
hosts = ["https://10.0.0.1:7433", { url = "10.0.0.2", pin = "sha256//${'A'.repeat(43)}=" }]
`)
  const web = project.head.services[WEB]
  assert.deepEqual(web?.command, { exec: ['node', 'a b.js'] })
  assert.deepEqual(web?.health, { path: '/health', status: 204, intervalMs: 1000, timeoutMs: 120_000, settleMs: 5000 })
  assert.deepEqual([web?.port, web?.switch, web?.stopTimeoutMs], [3000, 'restart', 30_000])
  for (const spec of Object.values(project.head.services)) {
    assert.deepEqual(spec.restart, { attempts: 3, withinMs: 60_000, delayMs: 500 })
    assert.deepEqual(spec.limits, { memoryBytes: 512 * 1024 ** 2, tasks: 100 })
  }
  assert.deepEqual(project.head.keep, { releases: 4, failed: 1 })
  assert.deepEqual(project.build, { command: 'npm run build', include: ['dist'], exclude: ['*.map'] })
  assert.deepEqual(project.environments.production, [
    { name: '10.0.0.1', url: 'https://10.0.0.1:7433', pin: undefined },
    { name: '10.0.0.2', url: 'https://10.0.0.2:7433', pin: `sha256//${'A'.repeat(43)}=` },
  ])
})

test('plain words are run as they are; what a shell would act on goes to a shell', () => {
  const plain = { 'node server.js': ['node', 'server.js'], 'node \'a b.js\' -p "x"': ['node', 'a b.js', '-p', 'x'] }
  for (const [line, exec] of Object.entries(plain)) assert.deepEqual(command(JSON.stringify(line)), { exec }, line)
  const shells = [
    'a && b',
    'a | b',
    'a > b',
    'node $FILE',
    'node "$FILE"',
    'node *.js',
    'NODE_ENV=production node a.js',
    'node `pwd`/a.js',
    'node ~/a.js',
    'a; b',
    'a &',
  ]
  for (const line of shells) assert.deepEqual(command(JSON.stringify(line)), { shell: line }, line)
})

test('what is wrong is named with its place', () => {
  refused('app = ', /^read tarmac\.toml: /)
  refused('app = "shop"\n', /services/)
  refused('app = "shop"\n[services]\n', /services: none/)
  refused('app = "shop"\nprot = 1\n[services.web]\ncommand = "a"\n', /prot/)
  refused(
    'app = "shop"\n[services.web]\ncommand = "a"\n[services.web.health]\ntimout = "1s"\n',
    /services\.web\.health\.timout/,
  )
  refused(
    'app = "shop"\n[services.web]\ncommand = "a"\n[services.web.health]\ntimeout = "60"\n',
    /services\.web: health\.timeout: "60"/,
  )
  refused('app = "shop"\n[services.web]\ncommand = ""\n', /services\.web: command: is empty/)
  refused('app = "Shop"\n[services.web]\ncommand = "a"\n', /"Shop"/, 'manifest_invalid')
  refused('app = "shop"\n[services.Web]\ncommand = "a"\n', /"Web"/, 'manifest_invalid')
  refused(
    'app = "shop"\n[services.web]\ncommand = "a"\n[environments.p]\nhosts = ["http://a"]\n',
    /http:\/\/a/,
    'usage',
  )
})

test('the file is looked for here and above', (t) => {
  const dir = tempDir(t)
  const deep = join(dir, 'a/b')
  mkdirSync(deep, { recursive: true })
  assert.equal(findProjectFile(deep), undefined)
  writeFileSync(join(dir, 'tarmac.toml'), 'app = "shop"\n[services.web]\ncommand = "a"\n')
  mkdirSync(join(dir, 'a/tarmac.toml'))
  assert.equal(findProjectFile(deep), join(dir, 'tarmac.toml'), 'a directory of that name is none')
  assert.equal(readProject(join(dir, 'tarmac.toml')).dir, dir)
  assert.throws(
    () => readProject(join(deep, 'tarmac.toml')),
    (error) => error instanceof Failure && error.code === 'config_missing',
  )
  assert.ok(readFileSync(join(dir, 'tarmac.toml')))
})

test('a port is handed over unless the project says restart, and who stops it has time to answer what it has', () => {
  const of = (lines: string) => service(`app = "shop"\n[services.web]\ncommand = "node server.js"\n${lines}`)
  const facts = (lines: string) => [of(lines)?.switch, of(lines)?.stopTimeoutMs]
  assert.deepEqual(facts('port = 3000'), ['slots', 36_000])
  assert.deepEqual(facts('port = 3000\nswitch = "restart"'), ['restart', 10_000])
  assert.deepEqual(facts(''), [undefined, 10_000])
  assert.equal(of('overlap = true')?.overlap, true)
  refused('app = "a"\n[services.web]\ncommand = "x"\nswitch = "slots"', /services\.web: switch: it has no port/)
})

test('npm and its like cannot start what hands its port over, and the refusal names the command to write instead', (t) => {
  const dir = tempDir(t)
  mkdirSync(join(dir, 'node_modules/.bin'), { recursive: true })
  writeFileSync(join(dir, 'node_modules/.bin/fastify'), '')
  const scripts = { start: 'node dist/server.js --fast', serve: 'fastify start app.js', next: 'next start -p 3000' }
  writeFileSync(join(dir, 'package.json'), JSON.stringify({ scripts }))
  const hint = (line: string, more = 'port = 3000') => {
    const text = `app = "shop"\n[services.web]\ncommand = ${JSON.stringify(line)}\n${more}\n`
    try {
      parseProject(text, { name: 'tarmac.toml', dir })
      return undefined
    } catch (error) {
      assert.ok(error instanceof Failure && error.code === 'command_refused', String(error))
      return /command = "([^"]*)"/.exec(error.hint ?? '')?.[1]
    }
  }
  assert.equal(hint('npm start'), 'node dist/server.js --fast')
  assert.equal(hint('yarn serve'), 'node_modules/.bin/fastify start app.js')
  assert.equal(hint('pnpm run next'), 'node node_modules/next/dist/bin/next start -p 3000')
  assert.equal(hint('npx fastify start'), 'node_modules/.bin/fastify start')
  assert.equal(hint('npm run absent'), 'node server.js')
  assert.equal(hint('npm start', 'port = 3000\nswitch = "restart"'), undefined)
  assert.equal(hint('npm start', ''), undefined)
})
