import { Failure, reasonOf } from '../../shared/failure.ts'
import type { AppName, ReleaseId } from '../../shared/names.ts'
import type { Agent } from '../agent.ts'
import { currentRelease, type Release, readRelease, releasesOn } from '../state/release-store.ts'
import { markRelease, someOf } from './damage.ts'
import { mendTree } from './mend.ts'
import { previousGood } from './retention.ts'

export interface Target {
  release: Release
  /** Why it is none of those that would have come before it. */
  passedOver: string[]
}

/**
 * Where a rollback goes, decided and looked at before anything that serves is touched: a release that is damaged on the
 * disk is no way back, and the next good one is taken. One that was named is gone to or refused. Call it with the app
 * to yourself: what can be mended is. Throws `nothing_to_roll_back_to`, `release_unknown` or `release_damaged`.
 */
export async function chooseTarget(agent: Agent, app: AppName, asked: ReleaseId | undefined): Promise<Target> {
  if (asked !== undefined) return { release: await intact(agent, app, asked), passedOver: [] }
  const current = currentRelease(agent.layout, app)
  const onDisk = new Set(releasesOn(agent.layout, app))
  const passed = new Map<ReleaseId, string>()
  for (;;) {
    const left = agent.ledger.releases(app).filter(({ id }) => onDisk.has(id) && !passed.has(id))
    // What was damaged may have been mended since: that is for the look to say.
    const id = previousGood(left.map(asBefore), current)
    const passedOver = [...passed.values()]
    if (id === null) throw nowhere(app, passedOver)
    try {
      return { release: await intact(agent, app, id), passedOver }
    } catch (error) {
      if (!(error instanceof Failure) || error.code !== 'release_damaged') throw error
      passed.set(id, reasonOf(error))
    }
  }
}

function asBefore<R extends { state: string }>(release: R): R {
  return release.state === 'damaged' ? { ...release, state: 'healthy' } : release
}

async function intact(agent: Agent, app: AppName, id: ReleaseId): Promise<Release> {
  const release = readRelease(agent.layout, app, id)
  const lost = await mendTree(agent.layout, release)
  if (lost.length === 0) return release
  markRelease(agent, app, { id, paths: lost })
  throw new Failure('release_damaged', `rollback ${app}: ${id} is damaged on disk: ${someOf(lost)}`, {
    hint: 'push it again, or go to another: tarmac releases',
  })
}

function nowhere(app: AppName, passedOver: readonly string[]): Failure {
  const why = 'no other release was ever healthy here and is not marked bad'
  const message = `rollback ${app}: ${passedOver.length === 0 ? why : passedOver.join('; ')}`
  return new Failure('nothing_to_roll_back_to', message, {
    hint: 'what is kept: tarmac releases; one of them by name: tarmac rollback RELEASE',
  })
}
