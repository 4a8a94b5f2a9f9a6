import { reasonOf } from '../../shared/failure.ts'
import type { Manifest } from '../../shared/manifest.ts'
import type { ChangedFile } from '../../shared/manifest-compare.ts'
import type { AppName, ReleaseId, Sha256 } from '../../shared/names.ts'
import type { Agent } from '../agent.ts'
import { lookAt } from '../state/object-check.ts'
import { readRelease, releasesOn } from '../state/release-store.ts'
import { type Survey, surveyStore, type Whole } from '../state/store-survey.ts'
import { filesOf, mendTree } from './mend.ts'
import { NO_WAY_BACK } from './retention.ts'

// What becomes of damage on the disk: it is told once, the releases that have it are no way back any more, and as soon
// as the content has come again they are mended.

/** More of a long list tells nobody more. */
const PATHS_TOLD = 3

type Parts = Pick<Agent, 'layout' | 'ledger' | 'log' | 'tell' | 'asked'>

/**
 * What of a release is in the store. What was damaged there is set aside, so that it counts as missing, and told.
 * `whole`: objects that were looked at just now.
 */
export async function surveyOf(agent: Parts, manifest: Manifest, whole?: Whole): Promise<Survey> {
  const survey = await surveyStore(agent.layout, manifest, whole)
  if (survey.damaged.length > 0) markDamaged(agent, manifest.app, survey.damaged)
  return survey
}

/**
 * The same of a release that is to come. Where it differs from what runs in `changed` alone, and all of that is `whole`, the
 * others need no look. Throws `manifest_invalid` for a size that is not that of its content.
 */
export async function surveyOfComing(
  agent: Parts,
  manifest: Manifest,
  { changed, whole }: { changed?: readonly ChangedFile[] | undefined; whole?: Whole | undefined },
): Promise<Omit<Survey, 'whole'>> {
  const files = changed === undefined || whole === undefined ? manifest.files : changed.map(({ after }) => after)
  const survey = await surveyOf(agent, { ...manifest, files }, whole)
  if (survey.wrongSize !== undefined) throw survey.wrongSize
  return survey
}

/** Marks the releases that have one of these contents, as it was found: damaged. */
export function markDamaged(agent: Parts, app: AppName, digests: readonly Sha256[]): void {
  const { layout, log, asked } = agent
  asked.void(app)
  log.error({ app, digests }, 'contents were damaged on the disk, and are not used any more')
  const wanted = new Set(digests)
  for (const id of releasesOn(layout, app)) {
    const paths = pathsWith(agent, app, id, wanted)
    if (paths.length > 0) markRelease(agent, app, { id, paths })
  }
}

/** One release that is not what was signed: told, and no way back until it is. */
export function markRelease(agent: Parts, app: AppName, { id, paths }: { id: ReleaseId; paths: string[] }): void {
  const row = agent.ledger.releases(app).find((release) => release.id === id)
  // Bad ones are no way back anyway, and stay called bad.
  if (row === undefined || NO_WAY_BACK.has(row.state)) return
  agent.ledger.setState(app, id, 'damaged')
  const text = `${app}: ${id} is damaged on disk: ${someOf(paths)}. It is mended when that is pushed again.`
  agent.log.error({ app, release: id, paths: paths.slice(0, PATHS_TOLD) }, text)
  agent.tell({ event: 'release-damaged', text, app, release: id, files: paths.length })
}

function pathsWith({ layout, log }: Parts, app: AppName, id: ReleaseId, wanted: ReadonlySet<Sha256>): string[] {
  try {
    const release = readRelease(layout, app, id)
    return filesOf(layout, release).flatMap(({ entry, path }) =>
      wanted.has(entry.sha256) && lookAt(path, entry) !== 'sealed' ? [entry.path] : [],
    )
  } catch (err) {
    log.error({ app, release: id, err }, 'whether it is damaged could not be found out')
    return []
  }
}

/** With contents that came again, releases that were damaged become what was signed. */
export async function mendDamaged({ layout, ledger, log }: Parts, app: AppName): Promise<void> {
  for (const { id, state } of ledger.releases(app)) {
    if (state !== 'damaged') continue
    try {
      if ((await mendTree(layout, readRelease(layout, app, id))).length > 0) continue
      ledger.setState(app, id, 'healthy')
      log.info({ app, release: id }, 'mended')
    } catch (err) {
      log.error({ app, release: id, err }, `a damaged release could not be mended: ${reasonOf(err)}`)
    }
  }
}

export function someOf(paths: readonly string[]): string {
  const more = paths.length - PATHS_TOLD
  return `${paths.slice(0, PATHS_TOLD).join(', ')}${more > 0 ? ` and ${more} more` : ''}`
}
