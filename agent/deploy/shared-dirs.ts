import { lchownSync, lstatSync, mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { Failure } from '../../shared/failure.ts'
import type { AppName } from '../../shared/names.ts'
import { parentsOf } from '../../shared/tree.ts'
import type { Account } from '../init/init-system.ts'
import type { Layout } from '../state/layout.ts'

/**
 * A shared directory belongs to the app's user; what lies above it does not, so that the app can replace nothing we
 * use. Only this one inode is given away: nothing below it is ever looked at. What stands in its place is left as it
 * is, a link to another disk too: above it all is the agent's, so that only an admin could have put it there.
 */
export function makeShared(of: { layout: Layout; app: AppName }, path: string, { uid, gid }: Account): void {
  const at = of.layout.sharedPath(of.app, path)
  for (const parent of [...parentsOf(path)].reverse()) refuseGivenAway(of.layout.sharedPath(of.app, parent))
  if (lstatSync(at, { throwIfNoEntry: false }) !== undefined) return
  mkdirSync(dirname(at), { recursive: true, mode: 0o755 })
  mkdirSync(at, { mode: 0o750 })
  if (uid !== undefined && gid !== undefined) lchownSync(at, uid, gid)
}

/**
 * A release that shares `data/x` after one that shared `data` would have us make `x` where the app may put a link to
 * /etc, and give it away there. Throws `path_refused`.
 */
function refuseGivenAway(dir: string): void {
  const stats = lstatSync(dir, { throwIfNoEntry: false })
  if (stats === undefined || (stats.isDirectory() && stats.uid === process.getuid?.())) return
  throw new Failure('path_refused', `share ${JSON.stringify(dir)}: it is no directory of the agent's own`, {
    hint: 'an app can put a link into a directory that was shared before: share that one itself',
  })
}
