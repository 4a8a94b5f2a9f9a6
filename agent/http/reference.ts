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
  const text = runningText(agent, app, header)
  const reference = text === undefined ? releaseTextOf(agent.layout, app, header) : Buffer.from(text)
  if (reference) return reference
  throw new Failure('reference_unknown', `push ${app}: no release here has a release.json of the digest ${header}`, {
    hint: 'push again: without it the whole manifest is sent',
  })
}

/** How long it is. */
export function referenceBytes(agent: Agent, app: AppName, digest: Sha256): number | undefined {
  const text = runningText(agent, app, digest)
  return text === undefined ? releaseTextOf(agent.layout, app, digest)?.length : Buffer.byteLength(text)
}

/** Mostly it is what runs, which was read for the question before. */
function runningText({ asked }: Agent, app: AppName, digest: Sha256): string | undefined {
  const running = asked.look(app)?.running
  return running?.digest === digest ? running.release.text : undefined
}
