import { type AppName, isReleaseId, type ReleaseId } from '../../shared/names.ts'
import { placeFile } from './disk.ts'
import { type Layout, SPARE, SPOILT } from './layout.ts'
import { namesIn } from './release-store.ts'

// Spare trees (see deploy/spare.ts), as they lie in staging.

/** The releases there is a spare tree of: one at most, but for a moment. */
export function sparesOn(layout: Layout, app: AppName): ReleaseId[] {
  return namesIn(layout.stagingDir(app))
    .map((name) => (name.endsWith(SPARE) ? name.slice(0, -SPARE.length) : ''))
    .filter(isReleaseId)
}

/** The same, and those of which one is being made, or was when that was broken off. */
export function sparesBegunOn(layout: Layout, app: AppName): ReleaseId[] {
  return begunIn(layout, app)
    .map((name) => name.slice(0, name.indexOf(SPARE)))
    .filter(isReleaseId)
}

function begunIn(layout: Layout, app: AppName): string[] {
  return namesIn(layout.stagingDir(app)).filter((name) => name.includes(SPARE) && !name.includes(SPOILT))
}

/**
 * From here on none is used, not even one that is being made: a content they have is not what it should be, or they are
 * of another release than the one that runs. What is left of them is removed when there is time.
 */
export function spoilSpares(layout: Layout, app: AppName): void {
  for (const name of begunIn(layout, app)) {
    placeFile(layout.incoming(app, name), layout.incoming(app, `${name}${SPOILT}${process.hrtime.bigint()}`))
  }
}

/** All that is left of such. */
export function spoiltOn(layout: Layout, app: AppName): string[] {
  return namesIn(layout.stagingDir(app))
    .filter((name) => name.includes(SPOILT))
    .map((name) => layout.incoming(app, name))
}
