import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Peer } from './peers.ts'
import { type Background, type Ran, run, shell, startBackground } from './programs.ts'
import type { Site } from './site.ts'

// Tarmac as a user has it: the two built programs, TLS, an SSH key that signs, the embedded init in place of systemd.

/** What `npm run build` made. */
export const DIST = join(import.meta.dirname, '..', 'dist')
/** No app of yours has this name, and so none has its user. */
export const APP = `bench-${process.pid}`
const AGENT_PORT = 7433
/** On the machine itself that port may be an agent's. */
const LOCAL_PORT = 20_000 + (process.pid % 10_000)

/** A step of a push and the time since the one before, ms. */
export interface Step {
  step: string
  ms: number
}

export interface Tarmac extends Peer {
  /** Types a client command in the project. */
  client(...argv: string[]): Promise<Ran>
  /** Of the last command that changed something. */
  steps(): Step[]
  agentPid(): number
  root: string
}

export interface TarmacOptions {
  /** A service that starts at once and stays, by default: the peers start nothing, so as little as can be is in the time. */
  toml?: string
  /** Where the two programs lie. */
  programs?: string
}

/** `settle = "0s"`: it counts as well as soon as it runs; looked at as often as may be. */
const WORKER = `[services.worker]
command = "sleep infinity"
[services.worker.health]
interval = "50ms"
settle = "0s"
`

export function tarmac(site: Site, { toml = WORKER, programs = DIST }: TarmacOptions = {}): Tarmac {
  const { link, env } = site
  const root = join(site.host, 'tarmac')
  const listen = `${link.address}:${link.name === 'local' ? LOCAL_PORT : AGENT_PORT}`
  const url = `https://${listen}`
  let agent: Background | undefined
  let last: Step[] = []
  const node = (program: string, argv: string[], netns: string | undefined) =>
    run([process.execPath, join(programs, program), ...argv], { env, cwd: site.source, netns })
  const client = (...argv: string[]) => node('tarmac', argv, link.clientNetns)
  const onHost = (...argv: string[]) => node('tarmac-agent', [...argv, '--root', root], link.hostNetns)
  const stepped = async (...argv: string[]) => {
    const ran = await client(...argv, '--json', '--yes')
    last = stepsOf(ran.stdout)
    return ran
  }
  return {
    name: 'tarmac',
    does: 'tarmac push / rollback, with the start and the gate of a process in it',
    root,
    client,
    steps: () => last,
    agentPid: () => agent?.pid ?? 0,
    async reset() {
      await agent?.stop()
      for (const path of [root, join(site.home, '.cache'), join(site.home, '.config')]) {
        rmSync(path, { recursive: true, force: true })
      }
      const made = await onHost('init', '--listen', listen)
      const pin = /^pin (\S+)$/m.exec(made.stdout)?.[1] ?? ''
      await onHost('signers', 'add', 'ann', readFileSync(`${site.keyFile}.pub`, 'utf8').trim())
      mkdirSync(join(site.home, '.config', 'tarmac'), { recursive: true })
      writeFileSync(join(site.home, '.config', 'tarmac', 'known_agents'), `${url} ${pin}\n`)
      writeFileSync(
        join(site.source, 'tarmac.toml'),
        `app = "${APP}"\n${toml}[environments.bench]\nhosts = ["${url}"]\n`,
      )
      const argv = [join(programs, 'tarmac-agent'), 'run', '--root', root, '--init', 'embedded']
      agent = await startBackground([process.execPath, ...argv], /"recovered"/, { env, netns: link.hostNetns })
    },
    push: () => stepped('push'),
    rollback: () => stepped('rollback'),
    current: () => join(root, 'apps', APP, 'current', 'tree'),
    onDisk: () => root,
    async end() {
      await agent?.stop()
      if (process.getuid?.() === 0) await shell(`userdel tarmac-${APP} || true`)
    },
  }
}

function stepsOf(text: string): Step[] {
  const lines = text.split('\n').filter((line) => line.startsWith('{'))
  return lines.flatMap((line) => {
    const { step, ms } = JSON.parse(line) as { step?: string; ms?: number }
    return step === undefined || ms === undefined ? [] : [{ step, ms }]
  })
}
