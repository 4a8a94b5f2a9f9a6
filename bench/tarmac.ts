import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
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
/** On the machine itself those ports may be taken by an agent, and by an app. */
const LOCAL_PORT = 20_000 + (process.pid % 10_000)

/** A step of a push and the time since its start, ms. */
export interface Step {
  step: string
  ms: number
}

export interface Tarmac extends Peer {
  /** Types a client command in the project. */
  client(...argv: string[]): Promise<Ran>
  /** The same, and tells the most memory it had. */
  clientWatched(...argv: string[]): Promise<Ran>
  onHost(...argv: string[]): Promise<Ran>
  /** From now on the project is that app. */
  become(app: string, toml?: string): void
  /** Of the last command that changed something. */
  steps(): Step[]
  agentPid(): number
  root: string
  url: string
  pin(): string
  /** Where the agent tells its metrics. */
  metricsUrl: string
}

export interface TarmacOptions {
  /** A service that starts at once and stays, by default: the peers start nothing, so as little as can be is in the time. */
  toml?: string
  /** Where the two programs lie. */
  programs?: string
}

/** `settle = "0s"`: it counts as well as soon as it runs, which is looked at as often as may be. */
export const workerToml = (name = 'worker') => `[services.${name}]
command = "sleep infinity"
[services.${name}.health]
interval = "50ms"
settle = "0s"
`

export function tarmac(site: Site, { toml = workerToml(), programs = DIST }: TarmacOptions = {}): Tarmac {
  const { link, env } = site
  const root = join(site.host, 'tarmac')
  const port = link.name === 'local' ? LOCAL_PORT : AGENT_PORT
  const listen = `${link.address}:${port}`
  const metrics = `127.0.0.1:${port + 1}`
  const url = `https://${listen}`
  const apps = new Set<string>()
  let app = APP
  let pin = ''
  let agent: Background | undefined
  let last: Step[] = []
  const typed = (argv: string[], isWatched = false) =>
    run([process.execPath, join(programs, 'tarmac'), ...argv], {
      env,
      cwd: site.source,
      netns: link.clientNetns,
      isWatched,
    })
  const onHost = (...argv: string[]) =>
    run([process.execPath, join(programs, 'tarmac-agent'), ...argv, '--root', root], { env, netns: link.hostNetns })
  const stepped = async (...argv: string[]) => {
    const ran = await typed([...argv, '--json', '--yes'])
    last = stepsOf(ran.stdout)
    return ran
  }
  const become = (name: string, services = toml) => {
    app = name
    apps.add(name)
    writeFileSync(
      join(site.source, 'tarmac.toml'),
      `app = "${app}"\n${services}[environments.bench]\nhosts = ["${url}"]\n`,
    )
  }
  const end = async () => {
    await agent?.stop()
    if (process.getuid?.() !== 0) return
    for (const name of apps) await shell(`userdel tarmac-${name} || true`)
    apps.clear()
  }
  site.atEnd(end)
  return {
    name: 'tarmac',
    does: 'tarmac push / rollback, with the start and the gate of a process in it',
    root,
    url,
    metricsUrl: `http://${metrics}/metrics`,
    pin: () => pin,
    client: (...argv) => typed(argv),
    clientWatched: (...argv) => typed(argv, true),
    onHost,
    become,
    steps: () => last,
    agentPid: () => agent?.pid ?? 0,
    async reset() {
      await agent?.stop()
      for (const path of [root, join(site.home, '.cache'), join(site.home, '.config')]) {
        site.setAside(path)
      }
      const made = await onHost('init', '--listen', listen)
      pin = /^pin (\S+)$/m.exec(made.stdout)?.[1] ?? ''
      appendFileSync(join(root, 'etc', 'agent.toml'), `\n[metrics]\nlisten = "${metrics}"\n`)
      await onHost('signers', 'add', 'ann', readFileSync(`${site.keyFile}.pub`, 'utf8').trim())
      mkdirSync(join(site.home, '.config', 'tarmac'), { recursive: true })
      writeFileSync(join(site.home, '.config', 'tarmac', 'known_agents'), `${url} ${pin}\n`)
      become(APP)
      const argv = [join(programs, 'tarmac-agent'), 'run', '--root', root, '--init', 'embedded']
      agent = await startBackground([process.execPath, ...argv], /"recovered"/, {
        env: { ...env, ...unitEnvironment() },
        netns: link.hostNetns,
      })
    },
    push: () => stepped('push'),
    rollback: () => stepped('rollback'),
    current: () => join(root, 'apps', app, 'current', 'tree'),
    // Without the ledger, and the reserve that is given back when the disk is full.
    onDisk: () => join(root, 'apps', app),
    end,
  }
}

/** What systemd would give the agent. */
function unitEnvironment(): Record<string, string> {
  const unit = readFileSync(join(import.meta.dirname, '..', 'systemd', 'tarmac-agent.service'), 'utf8')
  const pairs = [...unit.matchAll(/^Environment=(.*)$/gm)].flatMap(([, line = '']) => line.split(' '))
  return Object.fromEntries(pairs.map((pair) => pair.split(/=(.*)/s).slice(0, 2)))
}

function stepsOf(text: string): Step[] {
  const lines = text.split('\n').filter((line) => line.startsWith('{'))
  return lines.flatMap((line) => {
    const { step, ms } = JSON.parse(line) as { step?: string; ms?: number }
    return step === undefined || ms === undefined ? [] : [{ step, ms }]
  })
}
