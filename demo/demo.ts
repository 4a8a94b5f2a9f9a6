// npm run demo: the main job on one machine, without root, in a temporary directory, in under a minute.
// It runs the same two programs a user runs, and prints what it types and what they answer.

import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { styleText } from 'node:util'
import { startCallers } from './callers.ts'

const checkout = join(import.meta.dirname, '..')
/** Far longer than an agent needs to listen on a slow machine. */
const START_TIMEOUT_MS = 15_000

const dir = mkdtempSync(join(tmpdir(), 'tarmac-demo-'))
const home = join(dir, 'home')
const project = join(dir, 'hello')
const root = join(dir, 'host')
// Only what the programs need: none of your own keys, configuration or ssh-agent is touched.
const env = { PATH: process.env.PATH ?? '', HOME: home, LANG: 'C.UTF-8', USER: 'you' }

// The demo needs no root. Run by root all the same, the agent makes the app's own user, as on a real host: then the
// name is one that no app of yours has, the user can reach the app, and is removed with the rest.
const isRoot = process.getuid?.() === 0
const app = isRoot ? `hello-${randomBytes(3).toString('hex')}` : 'hello'
if (isRoot) chmodSync(dir, 0o711)

const agents: ChildProcess[] = []
/** Ctrl-C, and a reader that has enough (`| head`): what was made is removed then too. */
const broken = new Promise<never>((_resolve, reject) => {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => reject(new Error(signal)))
  process.stdout.on('error', reject)
})
try {
  await Promise.race([main(), broken])
} catch (error) {
  console.error(`the demo was broken off: ${error instanceof Error ? error.message : error}`)
  process.exitCode = 1
} finally {
  for (const agent of agents) await ended(agent)
  if (isRoot) await ended(spawn('userdel', [`tarmac-${app}`], { stdio: 'ignore' }), 'by itself')
  rmSync(dir, { recursive: true, force: true })
}
if (process.exitCode === undefined) say('The agent was stopped, and everything it made was removed.')
process.exit()

async function main(): Promise<void> {
  const port = await freePort()
  const agentPort = await freePort()
  const url = `https://127.0.0.1:${agentPort}`

  say('1. You need an SSH key, as you have one for git. It signs what you push.')
  mkdirSync(join(home, '.ssh'), { recursive: true, mode: 0o700 })
  await type('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', 'you', '-f', join(home, '.ssh', 'id_ed25519')])

  say('2. On the host: make the agent, let your key in, start it. (A real host runs it under systemd.)')
  const made = await agent(['init', '--root', root, '--listen', `127.0.0.1:${agentPort}`])
  const pin = /^pin (\S+)$/m.exec(made)?.[1] ?? ''
  await agent([
    'signers',
    'add',
    'you',
    readFileSync(join(home, '.ssh', 'id_ed25519.pub'), 'utf8').trim(),
    '--root',
    root,
  ])
  await startAgent()

  say('3. On your machine: a small app with a tarmac.toml, and trust in the pin that the agent printed.')
  cpSync(join(checkout, 'demo', 'app'), project, { recursive: true })
  writeFileSync(join(project, 'VERSION'), '1\n')
  writeFileSync(join(project, 'tarmac.toml'), projectText(port, url))
  print(readFileSync(join(project, 'tarmac.toml'), 'utf8'))
  await client(['trust', url, '--pin', pin])

  say('4. Push it. The last line is said only when it runs and has answered its health check.')
  await client(['push'])
  await curl(port)

  say('From here on four callers ask for that page without end, two of them by connections that stay open.')
  const callers = startCallers(`http://127.0.0.1:${port}/`)
  const counted = () => {
    const { requests, failed } = callers.count()
    print(styleText(failed === 0 ? 'green' : 'red', `${failed} of ${requests} requests failed`))
  }

  say('5. Push version 2, which crashes at its start. It is given up after the respawn limit; nobody noticed.')
  writeFileSync(join(project, 'VERSION'), '2\n')
  const good = readFileSync(join(project, 'server.mjs'), 'utf8')
  writeFileSync(join(project, 'server.mjs'), "throw new Error('version 2 cannot find its database')\n")
  await client(['push'], 6)
  await curl(port)
  counted()

  say('6. Push version 3, which works. Only the files that changed travel.')
  writeFileSync(join(project, 'VERSION'), '3\n')
  writeFileSync(join(project, 'server.mjs'), good)
  await client(['push'])
  await curl(port)
  counted()

  say('7. See what runs, and go back to version 1: no build, no upload.')
  await client(['status'])
  await client(['rollback'])
  await curl(port)
  await callers.stop()
  counted()
  if (callers.count().failed > 0) throw new Error('requests failed')
  await client(['releases'])
}

async function startAgent(): Promise<void> {
  const argv = ['run', '--root', root, '--init', 'embedded']
  print(styleText('bold', `$ tarmac-agent ${shown(argv)} &`))
  const child = spawn(process.execPath, [join(checkout, 'agent', 'main.ts'), ...argv], {
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  agents.push(child)
  const listening = new Promise<void>((resolve, reject) => {
    let text = ''
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk
      if (text.includes('"listening"')) resolve()
    })
    child.on('exit', (code) => reject(new Error(`the agent ended with ${code}`)))
  })
  await Promise.race([
    listening,
    sleep(START_TIMEOUT_MS).then(() => Promise.reject(new Error('the agent did not start'))),
  ])
}

function client(argv: string[], expected = 0): Promise<string> {
  return type('tarmac', argv, { program: 'client/main.ts', cwd: project, expected })
}

function agent(argv: string[]): Promise<string> {
  return type('tarmac-agent', argv, { program: 'agent/main.ts' })
}

async function curl(port: number): Promise<void> {
  await sleep(0)
  print(styleText('bold', `$ curl http://127.0.0.1:${port}/`))
  print(await (await fetch(`http://127.0.0.1:${port}/`)).text())
}

/** Shows a command, runs it, shows its answer, and stops the demo when it ends otherwise than expected. */
function type(
  name: string,
  argv: string[],
  options: { program?: string; cwd?: string; expected?: number } = {},
): Promise<string> {
  print(styleText('bold', `$ ${name} ${shown(argv)}`))
  const [program, args] =
    options.program === undefined ? [name, argv] : [process.execPath, [join(checkout, options.program), ...argv]]
  const child = spawn(program, args, { env, cwd: options.cwd ?? dir, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text
      process.stdout.write(text.replaceAll(dir, '…'))
    })
  }
  const { expected = 0 } = options
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code) => {
      if (code !== expected) return reject(new Error(`${name} ${argv[0]} exited ${code}, not ${expected}`))
      if (expected !== 0) print(styleText('dim', `(exit code ${code})`))
      print('')
      resolve(output)
    })
  })
}

function shown(argv: string[]): string {
  return argv.map((word) => (/\s/.test(word) ? `'${word}'` : word || "''").replaceAll(dir, '…')).join(' ')
}

function say(text: string): void {
  print(`\n${styleText(['bold', 'cyan'], text)}`)
}

function print(text: string): void {
  process.stdout.write(`${text}\n`)
}

async function ended(child: ChildProcess, how: 'by itself' | 'asked to' = 'asked to'): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exit = new Promise((resolve) => child.once('exit', resolve).once('error', resolve))
  if (how === 'asked to') child.kill('SIGTERM')
  await exit
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().on('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() =>
        typeof address === 'object' && address !== null ? resolve(address.port) : reject(new Error('no port')),
      )
    })
  })
}

function projectText(port: number, url: string): string {
  return `app = "${app}"

[services.web]
command = "node server.mjs"
port = ${port}

[services.web.health]
path = "/health"

[restart]              # the respawn limit: 3 starts in 10 seconds, then it is given up
attempts = 3
within = "10s"
delay = "500ms"

[environments.demo]
hosts = ["${url}"]
`
}
