import { join } from 'node:path'
import type { Mode } from '../../shared/manifest.ts'
import type { AppName, ReleaseId, ServiceName, Sha256, Slot } from '../../shared/names.ts'

/** What we put into the directory of an app; what else lies there is none of ours. */
export const APP_ENTRIES: ReadonlySet<string> = new Set([
  'objects',
  'staging',
  'damaged',
  'releases',
  'current',
  'shared',
  'env',
])

export type Layout = ReturnType<typeof layoutAt>

/** Of a release that is on its way out, so that its name is not taken for one on its way in. */
export const REMOVED = '.removed'

/** Of a tree that is kept ready for the next push. */
export const SPARE = '.spare'
/** Of one that must not be used any more. */
export const SPOILT = '.spoilt-'

/** Every path the agent owns. No other file joins a path under the root. See DESIGN.md, "On the host". */
export function layoutAt(root: string, etc: string) {
  const appsDir = join(root, 'apps')
  const appDir = (app: AppName) => join(appsDir, app)
  const releaseDir = (app: AppName, id: ReleaseId) => join(appDir(app), 'releases', id)
  const removed = (app: AppName, id: ReleaseId) => join(appDir(app), 'staging', `${id}${REMOVED}`)
  const damagedDir = (app: AppName) => join(appDir(app), 'damaged')
  return {
    root,
    etc,
    configFile: join(etc, 'agent.toml'),
    signersFile: join(etc, 'allowed_signers'),
    tlsDir: join(root, 'tls'),
    tlsKeyFile: join(root, 'tls', 'key.pem'),
    tlsCertFile: join(root, 'tls', 'cert.pem'),
    ledgerFile: join(root, 'ledger.db'),
    /** The newest link of the ledger's chain, kept beside it. */
    ledgerHeadFile: join(root, 'ledger.head'),
    /** Files that are given back when the disk is full. */
    reserveDir: join(root, 'reserve'),
    reserveFile: (n: number) => join(root, 'reserve', String(n)),
    /** Pids and logs of services the agent runs itself. */
    embeddedDir: join(root, 'embedded'),
    /** Loaded by apps, so it lies where their sandbox lets them read. */
    preloadFile: join(root, 'lib', 'listen-preload.cjs'),
    appsDir,
    appDir,
    objectsDir: (app: AppName) => join(appDir(app), 'objects'),
    /**
     * Executables are objects of their own: the mode is the inode's, and the inode is shared by hard links. Asked for
     * tens of thousands of times per push, so put together without `join`, which looks at each character.
     */
    object: (app: AppName, digest: Sha256, mode: Mode) =>
      `${appsDir}/${app}/objects/${digest.slice(0, 2)}/${digest.slice(2)}${mode === '0755' ? '.x' : ''}`,
    /** Objects that were found damaged, for whoever wants to know what happened. */
    damagedDir,
    damagedNamed: (app: AppName, name: string) => join(damagedDir(app), name),
    damaged: (app: AppName, digest: Sha256, mode: Mode) =>
      join(damagedDir(app), mode === '0755' ? `${digest}.x` : digest),
    stagingDir: (app: AppName) => join(appDir(app), 'staging'),
    staging: (app: AppName, id: ReleaseId) => join(appDir(app), 'staging', id),
    /** Links that the next push takes instead of making its own: the tree of this release. */
    spare: (app: AppName, id: ReleaseId) => join(appDir(app), 'staging', `${id}${SPARE}`),
    sparePart: (app: AppName, id: ReleaseId) => join(appDir(app), 'staging', `${id}${SPARE}.part`),
    treeIn: (staging: string) => join(staging, 'tree'),
    incoming: (app: AppName, name: string) => `${appsDir}/${app}/staging/${name}`,
    /** Where a release goes to be deleted: its tree first, then what only it needed, its manifest last. */
    removed,
    removedTree: (app: AppName, id: ReleaseId) => join(removed(app, id), 'tree'),
    removedManifest: (app: AppName, id: ReleaseId) => join(removed(app, id), 'release.json'),
    releasesDir: (app: AppName) => join(appDir(app), 'releases'),
    releaseDir,
    treeDir: (app: AppName, id: ReleaseId) => join(releaseDir(app, id), 'tree'),
    manifestFile: (app: AppName, id: ReleaseId) => join(releaseDir(app, id), 'release.json'),
    signaturesDir: (app: AppName, id: ReleaseId) => join(releaseDir(app, id), 'signatures'),
    /** Says who wants this release kept, whatever comes after it. */
    heldFile: (app: AppName, id: ReleaseId) => join(releaseDir(app, id), 'held'),
    signatureFile: (app: AppName, id: ReleaseId, index: number) =>
      join(releaseDir(app, id), 'signatures', `${index}.sig`),
    currentLink: (app: AppName) => join(appDir(app), 'current'),
    sharedDir: (app: AppName) => join(appDir(app), 'shared'),
    sharedPath: (app: AppName, path: string) => join(appDir(app), 'shared', path),
    envDir: (app: AppName) => join(appDir(app), 'env'),
    envRevision: (app: AppName, revision: number) => join(appDir(app), 'env', String(revision)),
    /** Names the revision that a release last ran healthy with. */
    releaseEnvLink: (app: AppName, id: ReleaseId) => join(appDir(app), 'env', id),
    newestEnvLink: (app: AppName) => join(appDir(app), 'env', 'newest'),
    /** What one slot's process gets: its env revision with our own variables merged in. */
    slotEnv: (app: AppName, service: ServiceName, slot: Slot) => join(appDir(app), 'env', `${service}@${slot}.env`),
  }
}
