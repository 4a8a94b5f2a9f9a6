import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { build } from '../../build.ts'
import { bootMachine, type Machine } from './systemd-machine.ts'

const CHECKOUT = join(import.meta.dirname, '../..')
const LISTEN_TRIES = 150

export interface ClientRan {
  exit: number | null
  stdout: string
  stderr: string
}

/** A booted machine with the agent installed as a user would install it, and a client on this side of the cable. */
export interface SystemHost {
  machine: Machine
  url: string
  /** Types a client command in `cwd`, as a person who has a key and trusts the agent. */
  tarmac(cwd: string, ...argv: string[]): Promise<ClientRan>
  /** GET on the app's port from outside; undefined when nobody answers. */
  get(port: number, path?: string): Promise<string | undefined>
  /** Waits until the agent takes connections, after a boot for example. */
  awaitAgent(): Promise<void>
}

export async function installedHost(t: TestContext): Promise<SystemHost> {
  const machine = await bootMachine(t)
  const dir = mkdtempSync(join(tmpdir(), 'tarmac-system-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  const home = join(dir, 'home')
  mkdirSync(join(home, '.ssh'), { recursive: true, mode: 0o700 })
  const keyFile = join(home, '.ssh', 'id_ed25519')
  const { PATH = '', NODE_COMPILE_CACHE } = process.env
  const env = { PATH, NODE_COMPILE_CACHE, HOME: home }
  await ran(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', 'ann', '-f', keyFile], { env, cwd: dir })

  // As built, which is what people install, and starts in half the time.
  const [client, agent] = [join(dir, 'tarmac'), join(dir, 'tarmac-agent')]
  await build(CHECKOUT, [
    { entry: 'client/main.ts', outfile: relative(CHECKOUT, client) },
    { entry: 'agent/main.ts', outfile: relative(CHECKOUT, agent) },
  ])
  await machine.copyIn(agent, '/usr/local/bin/tarmac-agent')
  await machine.copyIn(process.execPath, '/usr/local/bin/node')
  const unit = 'tarmac-agent.service'
  await machine.writeFile(`/etc/systemd/system/${unit}`, readFileSync(join(CHECKOUT, 'systemd', unit)))
  const pin = /^pin (\S+)$/m.exec(await machine.run(['tarmac-agent', 'init']))?.[1] ?? ''
  await machine.run(['tarmac-agent', 'signers', 'add', 'ann', readFileSync(`${keyFile}.pub`, 'utf8').trim()])
  await machine.run(['systemctl', 'enable', '--now', unit])

  const url = `https://${machine.ip}:7433`
  const host: SystemHost = {
    machine,
    url,
    tarmac: (cwd, ...argv) => ran([process.execPath, client, ...argv], { env, cwd }),
    async get(port, path = '/') {
      try {
        // A connection left open would keep the release that answered it from ending.
        const how = { headers: { connection: 'close' }, signal: AbortSignal.timeout(5_000) }
        const answer = await fetch(`http://${machine.ip}:${port}${path}`, how)
        return answer.ok ? await answer.text() : undefined
      } catch {
        return undefined
      }
    },
    async awaitAgent() {
      for (let tries = 0; tries < LISTEN_TRIES; tries++) {
        if ((await machine.try(['bash', '-c', '< /dev/tcp/127.0.0.1/7433'])).exit === 0) return
        await sleep(100)
      }
      throw new Error(
        `the agent does not listen: ${await machine.run(['journalctl', '--no-pager', '-u', unit, '-n', '50'])}`,
      )
    },
  }
  await host.awaitAgent()
  const trusted = await host.tarmac(dir, 'trust', url, '--pin', pin)
  if (trusted.exit !== 0) throw new Error(trusted.stderr)
  return host
}

function ran([program = '', ...argv]: string[], options: { env: NodeJS.ProcessEnv; cwd: string }): Promise<ClientRan> {
  const child = spawn(program, argv, { ...options, stdio: ['ignore', 'pipe', 'pipe'] })
  const out: ClientRan = { exit: null, stdout: '', stderr: '' }
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    out.stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    out.stderr += text
  })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (exit) => resolve({ ...out, exit }))
  })
}
