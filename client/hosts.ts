import { FAILURES, Failure, reasonOf } from '../shared/failure.ts'
import type { AppName } from '../shared/names.ts'
import type { Ahead } from './ahead.ts'
import type { Host } from './config.ts'
import type { Connection } from './connection.ts'
import {
  appOf,
  type Context,
  needProjectOrHost,
  openSigning,
  type Signing,
  targetHosts,
  withConnection,
} from './context.ts'
import type { Outcome } from './follow.ts'

/**
 * One host after the other, stopping at the first that fails: a release that broke one host must not reach the next.
 * Each host gets a line of its own. Gives the outcomes of the hosts that were tried.
 */
export async function changeHosts(
  context: Context,
  { hosts, signing, ahead }: { hosts: Host[]; signing: Signing; ahead?: Ahead | undefined },
  work: (connection: Connection) => Promise<Outcome>,
): Promise<Outcome[]> {
  const { print } = context
  const outcomes: Outcome[] = []
  for (const host of hosts) {
    const outcome = await withConnection(context, host, signing, work, ahead?.take(host)).catch((error: unknown) => {
      if (!(error instanceof Failure)) throw error
      // With one host the failure is the command's own, told once, at the end. Machines get their summary always.
      if (hosts.length === 1 && !print.json) throw error
      print.failure(error, host.name)
      return refusedOutcome(host, error)
    })
    outcomes.push(outcome)
    if (outcome.exit !== 0) break
  }
  const untried = hosts.slice(outcomes.length)
  if (untried.length > 0) print.warn(`not tried after that: ${untried.map(({ name }) => name).join(', ')}`)
  return outcomes
}

function refusedOutcome(host: Host, failure: Failure): Outcome {
  return {
    name: host.name,
    url: host.url,
    exit: failure.exit,
    release: null,
    running: null,
    previous: null,
    code: failure.code,
    message: failure.message,
  }
}

/** One host's own code; with several, 9 as soon as they no longer run the same. */
export function exitOf(outcomes: Outcome[]): number {
  const failed = outcomes.find(({ exit }) => exit !== 0)
  if (!failed) return 0
  return outcomes.some(({ exit }) => exit === 0) ? FAILURES.hosts_differ.exit : failed.exit
}

/** Asks all hosts at once; a host that does not answer is a result too. */
export function askHosts<T>(
  context: Context,
  { hosts, signing }: { hosts: Host[]; signing: Signing },
  ask: (connection: Connection) => Promise<T>,
): Promise<{ host: Host; answer: T | Failure }[]> {
  return Promise.all(
    hosts.map(async (host) => {
      try {
        return { host, answer: await withConnection(context, host, signing, ask) }
      } catch (error) {
        return {
          host,
          answer: error instanceof Failure ? error : new Failure('internal', reasonOf(error), { cause: error }),
        }
      }
    }),
  )
}

/**
 * Asks every host of the project about its app. Throws the first failure, since half an answer would look like a
 * whole one.
 */
export async function askApp<T>(
  context: Context,
  ask: (connection: Connection, app: AppName) => Promise<T>,
): Promise<{ app: AppName; answers: { host: Host; answer: T }[] }> {
  const project = needProjectOrHost(context)
  const app = appOf(context, project)
  const to = { hosts: targetHosts(context, project, 'read'), signing: await openSigning(context) }
  const answers = await askHosts(context, to, (connection) => ask(connection, app))
  return {
    app,
    answers: answers.map(({ host, answer }) => {
      if (answer instanceof Failure) throw answer
      return { host, answer }
    }),
  }
}
