import { existsSync, lstatSync, readdirSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { isReleaseId } from '../../shared/names.ts'
import { APP_ENTRIES, type Layout } from './layout.ts'
import { appsOn } from './release-store.ts'

// What lies under the root and is none of ours. Nothing of it is touched, and `shared/` is not looked into.

/** A file system's own, where the root is one. */
const FOREIGN = 'lost+found'
/** `.name.tmp`: on its way to its name (see disk.ts). */
const ON_ITS_WAY = /^\..*\.tmp$/

/** What SQLite puts beside the ledger, and one that was set aside. */
const BESIDE_LEDGER = /(?<=\.db)(\.damaged-\w+(-\d+)?)?(-wal|-shm)?$/

/** Paths, sorted. */
export function straysUnder(layout: Layout): string[] {
  const own = ownNames(layout)
  const isOurs = (name: string) => own.includes(name.replace(BESIDE_LEDGER, ''))
  const strays = namesIn(layout.root)
    .filter((name) => !isOurs(name))
    .map((name) => `${layout.root}/${name}`)
  const apps = appsOn(layout)
  for (const name of namesIn(layout.appsDir)) {
    if (!apps.some((app) => app === name)) strays.push(`${layout.appsDir}/${name}`)
  }
  for (const app of apps) {
    const dir = layout.appDir(app)
    for (const name of namesIn(dir)) if (!APP_ENTRIES.has(name)) strays.push(`${dir}/${name}`)
    const releases = layout.releasesDir(app)
    for (const name of namesIn(releases)) {
      if (!isReleaseId(name) || !existsSync(layout.manifestFile(app, name))) strays.push(`${releases}/${name}`)
    }
  }
  return strays.sort()
}

/** First names below the root of all that the layout knows, so that a path which comes there is ours by that alone. */
function ownNames(layout: Layout): string[] {
  return Object.values(layout).flatMap((value) => {
    if (typeof value !== 'string' || !value.startsWith(`${layout.root}/`)) return []
    let path = value
    while (dirname(path) !== layout.root) path = dirname(path)
    return [basename(path)]
  })
}

function namesIn(dir: string): string[] {
  if (!lstatSync(dir, { throwIfNoEntry: false })?.isDirectory()) return []
  return readdirSync(dir).filter((name) => name !== FOREIGN && !ON_ITS_WAY.test(name))
}
