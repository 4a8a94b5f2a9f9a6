import { createHash } from 'node:crypto'
import { existsSync, globSync, lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { basename, join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { checkChain } from '../../agent/state/chain.ts'
import { revisionOf } from '../../agent/state/env-revisions.ts'
import { type Layout, layoutAt } from '../../agent/state/layout.ts'
import { headAt } from '../../agent/state/ledger-head.ts'
import { currentRelease, type Release, readRelease, releasesOn } from '../../agent/state/release-store.ts'
import { isFile, isLink } from '../../shared/manifest.ts'
import type { AppName, ReleaseId } from '../../shared/names.ts'
import { getOnce, type World } from './world.ts'

// What must be true of a host whenever no change is under way, whatever was done to it before. All of it is read from the
// ground: files, processes, sockets, rows; not one question is asked of the agent.

export interface Expected {
  app?: string
  port?: number
  /** Somebody said stop: nothing of the app runs, and nobody answers. */
  stopped?: boolean
  /**
   * Digests of objects that no release has, and that uploads which were cut off have left: they stay for a day. With
   * `cut` all that are there now are taken for such.
   */
  orphans?: Set<string>
  cut?: boolean
  /** The ledger was lost: of a release that does not serve nobody knows any more whether it was good. */
  rebuilt?: boolean
}

/** A loaded machine is no failure. */
const PATIENCE_MS = 10_000

/** Each broken invariant in words. */
export async function brokenInvariants(world: World, expected: Expected = {}): Promise<string[]> {
  const app = (expected.app ?? 'shop') as AppName
  const layout = layoutAt(world.root, join(world.root, 'etc'))
  const current = currentRelease(layout, app)
  const release = current === null ? undefined : readRelease(layout, app, current)
  const broken: string[] = []
  const say = (what: string) => void broken.push(what)
  wholeCurrent({ tree: release && layout.treeDir(app, release.id), release }, say)
  await servesCurrent({ world, tree: release && layout.treeDir(app, release.id) }, expected, say)
  noOrphanBytes(layout.appDir(app), expected, say)
  const envRevision = current === null ? 0 : revisionOf(layout, app, current)
  const onDisk = releasesOn(layout, app)
  onlyUnitsOfCurrent({ world, app, onDisk, release, envRevision }, expected, say)
  ledgerAgrees({ file: layout.ledgerFile, app, onDisk, release }, expected, say)
  chainHolds(layout, expected, say)
  return broken
}

type Say = (what: string) => void

function wholeCurrent({ tree, release }: { tree: string | undefined; release: Release | undefined }, say: Say): void {
  if (tree === undefined || release === undefined) return
  for (const entry of release.manifest.files) {
    const path = join(tree, entry.path)
    const stats = lstatSync(path, { throwIfNoEntry: false })
    if (stats === undefined) say(`current: ${entry.path} is missing`)
    else if (isLink(entry)) stats.isSymbolicLink() || say(`current: ${entry.path} is no link`)
    else if (isFile(entry) && digestOf(path) !== entry.sha256) say(`current: ${entry.path} is damaged`)
  }
}

async function servesCurrent(
  { world, tree }: { world: World; tree: string | undefined },
  { stopped, port = world.port }: Expected,
  say: Say,
): Promise<void> {
  const [, version] = tree === undefined ? [] : (/end\("([^"]+)"\)/.exec(readServer(tree)) ?? [])
  const wanted = stopped || tree === undefined ? undefined : version
  let answer = await getOnce(`http://127.0.0.1:${port}/`)
  // Nothing was cut off, and so nobody waited for the app: it is only just starting.
  for (const end = Date.now() + PATIENCE_MS; answer !== wanted && Date.now() < end; await sleep(20)) {
    answer = await getOnce(`http://127.0.0.1:${port}/`)
  }
  if (answer !== wanted) say(`the port answers ${answer}, not ${wanted}`)
}

function readServer(tree: string): string {
  return readFileSync(join(tree, 'server.js'), 'utf8')
}

function noOrphanBytes(appDir: string, { cut, orphans = new Set() }: Expected, say: Say): void {
  const staging = join(appDir, 'staging')
  for (const name of existsSync(staging) ? readdirSync(staging) : []) say(`staging holds ${name}`)
  for (const path of globSync(`${appDir}/{.*.tmp,env/.*.tmp}`)) say(`a file without its name: ${path}`)
  for (const path of globSync(`${appDir}/objects/*/*`)) {
    const digest = basename(join(path, '..')) + basename(path, '.x')
    if (digestOf(path) !== digest) say(`object ${digest} is damaged`)
    if (lstatSync(path).nlink > 1 || orphans.has(digest)) continue
    if (cut) orphans.add(digest)
    else say(`object ${digest} belongs to no release`)
  }
}

/** The embedded init's records, and the processes there are. */
function onlyUnitsOfCurrent(
  at: { world: World; app: AppName; onDisk: ReleaseId[]; release: Release | undefined; envRevision: number },
  { stopped }: Expected,
  say: Say,
): void {
  const { world, app, onDisk, release, envRevision } = at
  const unitsDir = join(world.root, 'embedded/units', app)
  for (const path of globSync(`${world.root}/embedded/{.*.tmp,units/**/.*.tmp}`))
    say(`a file without its name: ${path}`)
  const units = globSync(`${unitsDir}/*.json`).map((path) => ({
    name: basename(path, '.json'),
    ...(JSON.parse(readFileSync(path, 'utf8')) as {
      enabled: boolean
      unit: { release: ReleaseId; service: string; envRevision: number }
    }),
  }))
  const services = release === undefined ? [] : Object.keys(release.manifest.services)
  const enabled = units.filter((unit) => unit.enabled)
  for (const { name, unit } of enabled) {
    if (unit.release !== release?.id) say(`${name} is enabled for ${unit.release}, which is not current`)
    if (unit.envRevision !== envRevision) say(`${name} has environment ${unit.envRevision}, not ${envRevision}`)
  }
  const wanted = stopped ? [] : services
  const names = enabled.map(({ unit }) => unit.service).sort()
  if (names.join() !== [...wanted].sort().join()) say(`enabled are ${names.join()}, not ${wanted.join()}`)
  for (const { name, unit } of units) {
    // What failed last is still there to be asked about, stopped and disabled.
    if (!onDisk.includes(unit.release)) say(`${name} is of ${unit.release}, which is gone`)
    if (release !== undefined && !services.includes(unit.service)) say(`${name} belongs to no service`)
  }
  const envFiles = globSync(`${world.root}/apps/${app}/env/*@*.env`).map((path) => basename(path, '.env'))
  for (const name of envFiles) if (!units.some((unit) => unit.name === name)) say(`env/${name}.env belongs to no unit`)
  for (const { name } of units) if (!envFiles.includes(name)) say(`${name} has no env file`)

  const running = processesBelow(join(world.root, 'apps', app))
  const ofCurrent = running.filter(({ cwd }) => cwd.includes(`/releases/${release?.id}/`))
  for (const { pid, cwd } of running) if (!cwd.includes(`/releases/${release?.id}/`)) say(`${pid} runs in ${cwd}`)
  if (ofCurrent.length !== wanted.length) say(`${ofCurrent.length} processes run, not ${wanted.length}`)
}

function ledgerAgrees(
  at: { file: string; app: AppName; onDisk: ReleaseId[]; release: Release | undefined },
  { rebuilt }: Expected,
  say: Say,
): void {
  const settled = ['healthy', 'failed', 'bad', ...(rebuilt ? ['assembled'] : [])]
  const { file, app, onDisk, release } = at
  const db = new DatabaseSync(file, { readOnly: true })
  try {
    const check = db.prepare('PRAGMA integrity_check').get()
    if (check?.integrity_check !== 'ok') say(`ledger: ${check?.integrity_check}`)
    for (const { id } of db.prepare("SELECT id FROM deploys WHERE app = ? AND result = 'running'").all(app))
      say(`change ${id} is open`)
    const rows = db.prepare('SELECT id, state, once_healthy FROM releases WHERE app = ? ORDER BY seq DESC').all(app)
    const there = rows.filter(({ state }) => state !== 'pruned')
    for (const { id, state } of there) {
      if (!onDisk.includes(id as ReleaseId)) say(`release ${id} is ${state} in the ledger, and not on the disk`)
      if (!settled.includes(String(state))) say(`release ${id} is left as ${state}`)
    }
    for (const id of onDisk) if (!there.some((row) => row.id === id)) say(`release ${id} has no row in the ledger`)
    const good = rows.filter(({ once_healthy }) => once_healthy === 1)
    for (const { id, state } of good.slice(0, release?.manifest.keep.releases ?? 0)) {
      if (state === 'pruned') say(`release ${id} was good, and is gone`)
    }
    const wanted = db.prepare('SELECT wanted FROM apps WHERE app = ?').get(app)?.wanted ?? null
    // What the agent went back from by itself stays wanted, until a person has decided.
    const [last] = db
      .prepare(
        "SELECT kind FROM deploys WHERE app = ? AND result = 'done' AND kind IN ('push', 'rollback', 'auto-rollback') ORDER BY id DESC",
      )
      .all(app)
    if (release !== undefined && wanted !== release.id && last?.kind !== 'auto-rollback')
      say(`wanted is ${wanted}, current ${release.id}`)
    const state = rows.find(({ id }) => id === release?.id)?.state
    if (release !== undefined && state !== 'healthy') say(`current is ${state} in the ledger`)
  } finally {
    db.close()
  }
}

/** No kill, at whatever place, is taken for somebody who edited the ledger, lost it or put an older one back. */
function chainHolds({ ledgerFile, ledgerHeadFile }: Layout, { rebuilt }: Expected, say: Say): void {
  const head = headAt(ledgerHeadFile).read()
  const db = new DatabaseSync(ledgerFile, { readOnly: true })
  try {
    const rows = db.prepare('SELECT * FROM deploys ORDER BY chain').all()
    const chained = rows.filter(({ chain }) => chain !== null)
    const check = checkChain()
    for (const row of chained) check.row(row)
    const unchained = rows.filter(({ chain, result }) => chain === null && result !== 'running')
    const atHead = typeof head === 'string' ? undefined : chained.find(({ chain }) => chain === head.number)?.hash
    const { problems } = check.end({ unchained, head, atHead: atHead === undefined ? undefined : String(atHead) })
    for (const { deploy, text } of problems) say(`ledger: ${deploy === null ? '' : `change ${deploy} `}${text}`)
    for (const { id, kind } of rows) {
      if (kind === 'rebuilt' && !rebuilt) say(`change ${id} says that the ledger was rebuilt`)
    }
  } finally {
    db.close()
  }
}

function digestOf(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex')
}

/** Processes whose working directory lies there. */
export function processesBelow(dir: string): { pid: number; cwd: string }[] {
  return readdirSync('/proc').flatMap((name) => {
    if (!/^\d+$/.test(name)) return []
    try {
      const cwd = readlinkSync(`/proc/${name}/cwd`)
      return cwd.startsWith(`${dir}/`) ? [{ pid: Number(name), cwd }] : []
    } catch {
      // It has ended, or is none of ours.
      return []
    }
  })
}
