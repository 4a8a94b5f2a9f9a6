import { Failure } from '../../shared/failure.ts'
import { type AppName, isSha256, type Sha256 } from '../../shared/names.ts'
import { REFERENCE_HEADER } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import { releaseTextOf } from '../state/release-store.ts'

/** The text that a bundle is written on. Of the same app alone: who may push it may know what it is made of. */
export function referenceOf(agent: Agent, app: AppName, header: string | undefined): Buffer | undefined {
  if (header === undefined) return undefined
  if (!isSha256(header)) {
    throw new Failure(
      'request_refused',
      `read request: ${REFERENCE_HEADER} ${JSON.stringify(header.slice(0, 100))} is no sha256`,
    )
  }
  const reference = findReference(agent, app, header)
  if (reference) return reference
  throw new Failure('reference_unknown', `push ${app}: no release here has a release.json of the digest ${header}`, {
    hint: 'push again: without it the whole manifest is sent',
  })
}

/** Mostly it is what runs, which was read for the question before. */
export function findReference({ asked, layout }: Agent, app: AppName, digest: Sha256): Buffer | undefined {
  const running = asked.look(app)?.running
  return running?.digest === digest ? Buffer.from(running.release.text) : releaseTextOf(layout, app, digest)
}
