import { setTimeout as sleep } from 'node:timers/promises'
import { type Code, Failure, reasonOf } from '../shared/failure.ts'
import type { AppName } from '../shared/names.ts'
import type { DeployEntry, DoneLine, FailedLine } from '../shared/wire.ts'
import * as api from './api.ts'
import type { Host } from './config.ts'
import { lost } from './connection.ts'
import { type Context, type Signing, withConnection } from './context.ts'

/** An agent is back in a second, its host in a minute: who waits longer should look. */
const AWAY_MS = 60_000
const POLL_MS = 500
/** The change is the newest of its app, but for what the agent may have done by itself since. */
const LAST_DEPLOYS = 20
const AWAY: readonly Code[] = ['agent_unreachable', 'connection_lost', 'agent_stopping']

/** A change that is followed: what is needed to ask about it again. */
export interface Followed {
  host: Host
  app: AppName
  signing: Signing
}

/**
 * Asks an agent that was lost in the middle of a change how that ended, as soon as it answers again, for as long as the
 * change goes on. Gives the line it would have ended with. Throws `connection_lost` when the agent stays away.
 */
export async function endOfChange(context: Context, of: Followed, deploy: number): Promise<DoneLine | FailedLine> {
  let deadline = Date.now() + AWAY_MS
  for (;;) {
    try {
      return await withConnection(context, of.host, of.signing, async (connection) => {
        for (;;) {
          const entry = (await api.deploys(connection, of.app, LAST_DEPLOYS)).find(({ id }) => id === deploy)
          if (entry === undefined) throw lost(of.host, `the agent does not know change ${deploy} any more`)
          if (entry.result !== 'running') return lastLine(of, entry)
          deadline = Date.now() + AWAY_MS
          await sleep(POLL_MS)
        }
      })
    } catch (error) {
      const isAway = error instanceof Failure && AWAY.includes(error.code)
      if (!isAway) throw lost(of.host, reasonOf(error), error)
      if (Date.now() > deadline) throw lost(of.host, 'the agent went away in the middle of the change', error)
      await sleep(POLL_MS)
    }
  }
}

function lastLine({ host, app }: Followed, entry: DeployEntry): DoneLine | FailedLine {
  const { id: deploy, kind, from, to, result, code, receipt } = entry
  const ms = Math.round((entry.seconds ?? 0) * 1000)
  const stamp = { at: new Date(Date.parse(entry.startedAt) + ms).toISOString(), ms, deploy }
  if (result === 'done') return { step: 'done', ...stamp, app, release: to, previous: from }
  if (receipt === null) throw lost(host, `change ${deploy} ended as ${result}`)
  const message = `${kind} ${app}: ${receipt.reason}`
  return { step: 'failed', ...stamp, code: code ?? 'deploy_failed', message, receipt }
}
