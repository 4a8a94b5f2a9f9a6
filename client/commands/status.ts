import prettyBytes from 'pretty-bytes'
import prettyMs from 'pretty-ms'
import { FAILURES, Failure } from '../../shared/failure.ts'
import { type AppName, parseAppName } from '../../shared/names.ts'
import type { AgentStatus, AppStatus, ServiceState, ServiceStatus } from '../../shared/wire.ts'
import * as api from '../api.ts'
import type { Host } from '../config.ts'
import { type Context, needProjectOrHost, openSigning, targetHosts } from '../context.ts'
import { diskCell, diskProblem } from '../disk-words.ts'
import { gapText } from '../gap.ts'
import { askHosts } from '../hosts.ts'
import { cell, type Print } from '../print.ts'

const WATCH_MS = 2_000

interface HostAnswer {
  host: Host
  answer: AgentStatus | Failure
  /** The app asked for; undefined: all there are. */
  asked: AppName | undefined
}

export async function status(context: Context, options: { watch?: boolean; check?: boolean }): Promise<number> {
  const { print } = context
  const project = needProjectOrHost(context)
  const hosts = targetHosts(context, project, 'read')
  const signing = await openSigning(context)
  // With --host alone all apps of the host are shown; a project asks for its own.
  const app =
    context.options.app !== undefined
      ? parseAppName(context.options.app)
      : context.options.host?.length
        ? undefined
        : project?.app
  for (;;) {
    const told = await askHosts(context, { hosts, signing }, (connection) => api.status(connection, app))
    const answers = told.map((answer) => ({ ...answer, asked: app }))
    if (options.watch && !print.json && process.stdout.isTTY) {
      print.clear()
      print.line(new Date().toISOString())
    }
    await show(print, answers)
    if (!options.watch) return exitOf(answers, options.check === true)
    await new Promise((resolve) => setTimeout(resolve, WATCH_MS))
  }
}

function exitOf(answers: HostAnswer[], check: boolean): number {
  const problems = answers.flatMap((answer) => problemsOf(answer))
  if (check) return problems.some(({ isWell }) => !isWell) ? FAILURES.unhealthy.exit : 0
  const failure = answers.map(({ answer }) => answer).find((answer) => answer instanceof Failure)
  return failure?.exit ?? 0
}

async function show(print: Print, answers: HostAnswer[]): Promise<void> {
  if (print.json) {
    print.value({ hosts: answers.map(hostJson) })
    return
  }
  const rows = answers.flatMap((answer) => hostRows(print, answer))
  await print.table(
    ['host', 'app', 'service', 'state', 'release', 'up', 'respawns', 'last exit', 'memory', 'port', 'disk'],
    rows,
  )
  for (const { host, answer } of answers) {
    if (answer instanceof Failure) continue
    for (const { app, lastSwitch } of answer.apps) {
      if (lastSwitch == null) continue
      const ago = prettyMs(Math.max(0, Date.now() - Date.parse(lastSwitch.at)), { compact: true })
      print.note(print.tone('dim', `${host.name}: ${app} was last switched ${ago} ago, gap ${gapText(lastSwitch)}`))
    }
  }
  for (const { host, text, hint } of answers.flatMap((answer) =>
    problemsOf(answer).map((problem) => ({ host: answer.host.name, ...problem })),
  )) {
    print.note(`${print.tone('warn', '!')} ${host}: ${cell(text)}${hint === undefined ? '' : `\n  ${cell(hint)}`}`)
  }
}

/** The contract of `status --json`: DESIGN.md section 10. */
function hostJson({ host, answer }: HostAnswer) {
  const { name, url } = host
  if (answer instanceof Failure) return { name, url, reachable: false, error: answer.toRefusal(), apps: [] }
  return { name, url, reachable: true, ...answer }
}

function hostRows(print: Print, { host, answer }: HostAnswer): string[][] {
  const none = Array.from({ length: 9 }, () => '-')
  if (answer instanceof Failure) {
    // An agent that answered "no" is there: whoever looks at the network then looks at the wrong end.
    const state = answer.exit === FAILURES.agent_unreachable.exit ? 'unreachable' : 'refused'
    return [[host.name, '-', '-', print.tone('bad', state), ...none.slice(0, 7)]]
  }
  const disk = diskCell(print, answer.disk)
  if (answer.apps.length === 0) return [[host.name, ...none, disk]]
  return answer.apps.flatMap((app) => {
    if (app.services.length === 0)
      return [[host.name, app.app, '-', 'stopped', cell(app.wanted), ...none.slice(0, 5), disk]]
    return app.services.map((service) => [host.name, app.app, ...serviceCells(print, service), disk])
  })
}

const TONES: Record<ServiceState, 'good' | 'warn' | 'bad'> = {
  running: 'good',
  starting: 'warn',
  stopped: 'warn',
  degraded: 'warn',
  'crash-looping': 'bad',
  failed: 'bad',
}

function serviceCells(print: Print, service: ServiceStatus): string[] {
  const { respawns, lastExit, since } = service
  const up = since === null ? '-' : prettyMs(Math.max(0, Date.now() - Date.parse(since)), { compact: true })
  const limit = `${respawns.sinceSwitch} of ${respawns.limit.attempts} in ${respawns.limit.withinSeconds} s`
  const exit =
    lastExit === null
      ? '-'
      : lastExit.oom
        ? 'out of memory'
        : lastExit.signal === null
          ? `code ${lastExit.code}`
          : cell(lastExit.signal)
  return [
    cell(service.name),
    print.tone(TONES[service.state] ?? 'warn', cell(service.state)),
    cell(service.release),
    up,
    respawns.sinceSwitch > 0 ? print.tone('warn', limit) : limit,
    exit,
    service.memoryBytes === null ? '-' : prettyBytes(service.memoryBytes),
    cell(service.port),
  ]
}

interface Problem {
  text: string
  hint?: string
  /** It should be known, but nothing is wrong with what runs. */
  isWell?: boolean
}

/** What a person should look at, and what to type. Nothing here means all is well. */
function problemsOf({ answer, asked }: HostAnswer): Problem[] {
  if (answer instanceof Failure)
    return [{ text: answer.message, ...(answer.hint === undefined ? {} : { hint: answer.hint }) }]
  const full = diskProblem(answer.disk)
  const disk = full === undefined ? [] : [{ text: full, hint: 'what could go: tarmac prune --explain' }]
  const absent =
    asked === undefined || answer.apps.length > 0
      ? []
      : [{ text: `${asked} is not on this host`, hint: 'push it there: tarmac push' }]
  const notes = (answer.notes ?? []).map(({ state, text, hint }) => ({ text, hint, isWell: state !== 'bad' }))
  return [...disk, ...absent, ...answer.apps.flatMap(appProblems), ...notes]
}

function appProblems(app: AppStatus): Problem[] {
  const sick = app.services
    .filter(({ state }) => state !== 'running')
    .map(({ name, state, release }) => ({
      text: `${app.app} ${name} is ${state}`,
      hint:
        state === 'stopped'
          ? `start it: tarmac start --app ${app.app}`
          : `see why: tarmac logs ${name} --app ${app.app}${release === null ? '' : ` --release ${release}`}`,
    }))
  const isOther = app.wanted !== app.running && sick.length === 0
  const text = `${app.app} runs ${app.running ?? 'nothing'}, not the wanted ${app.wanted ?? 'nothing'}`
  return [...sick, ...(isOther ? [{ text }] : []), ...damageOf(app)]
}

/** An agent of before does not look. */
function damageOf({ app, running, damaged = [] }: AppStatus): Problem[] {
  return damaged.map((id) => ({
    text: `${app} ${id}${id === running ? ', which runs,' : ''} is damaged on disk`,
    hint: `what is damaged is sent again: tarmac push --app ${app}`,
  }))
}
