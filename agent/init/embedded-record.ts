import { mkdir, readdir, readFile, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import * as v from 'valibot'
import { Failure, isErrno, reasonOf } from '../../shared/failure.ts'
import type { ServiceSpec } from '../../shared/manifest.ts'
import { type AppName, parseAppName, parseReleaseId, parseServiceName, SLOTS } from '../../shared/names.ts'
import { writeWhole } from '../state/disk.ts'
import { removeTemporaries } from '../state/remove.ts'
import type { Run } from './embedded-process.ts'
import type { UnitKey, UnitSpec } from './init-system.ts'

// The embedded init's unit files: units/<app>/<service>@<slot>.json, 0600. Each holds what the unit is, whether a boot
// starts it, and which process was last started for it. The environment is not in it: it has its own file.

export interface UnitRecord {
  unit: Omit<UnitSpec, 'env'>
  enabled: boolean
  run?: Run
}

/** Only the agent looks in here: records name paths and accounts. */
const PRIVATE_DIR = 0o700
const PRIVATE_FILE = 0o600

const record = v.object({
  unit: v.object({
    app: v.pipe(
      v.string(),
      v.transform((name: string) => parseAppName(name)),
    ),
    service: v.pipe(
      v.string(),
      v.transform((name: string) => parseServiceName(name)),
    ),
    slot: v.picklist(SLOTS),
    release: v.pipe(
      v.string(),
      v.transform((id: string) => parseReleaseId(id)),
    ),
    // Checked in full when it came as a manifest; here no more than what we use.
    spec: v.looseObject({
      command: v.union([v.object({ exec: v.array(v.string()) }), v.object({ shell: v.string() })]),
      restart: v.object({ attempts: v.number(), withinMs: v.number(), delayMs: v.number() }),
      stopTimeoutMs: v.number(),
    }),
    account: v.object({ user: v.string(), uid: v.optional(v.number()), gid: v.optional(v.number()) }),
    treeDir: v.string(),
    appsDir: v.string(),
    envFile: v.string(),
    envRevision: v.optional(v.number(), 0),
    writableDirs: v.array(v.string()),
    handover: v.optional(
      v.object({
        port: v.number(),
        style: v.picklist(['preload', 'inherited']),
        rehearsalPort: v.exactOptional(v.number()),
      }),
    ),
  }),
  enabled: v.boolean(),
  run: v.optional(v.object({ invocation: v.string(), pid: v.optional(v.number()), stamp: v.optional(v.string()) })),
})

function parseRecord(text: string): UnitRecord {
  const { unit, enabled, run } = v.parse(record, JSON.parse(text))
  const { spec, account, ...rest } = unit
  return {
    unit: {
      ...rest,
      spec: spec as unknown as ServiceSpec,
      account: { user: account.user, uid: account.uid, gid: account.gid },
    },
    enabled,
    ...(run === undefined ? {} : { run: run as Run }),
  }
}

export async function readEnvironment(envFile: string): Promise<Record<string, string>> {
  // Ours, and written whole. By no schema: valibot's records leave out names such as `constructor`.
  return JSON.parse(await readFile(envFile, 'utf8')) as Record<string, string>
}

/** The environment goes into `envFile` as JSON: no quoting, so no value can be mistaken for another. */
export async function writeEnvironment(envFile: string, env: Record<string, string>): Promise<void> {
  await mkdir(dirname(envFile), { recursive: true, mode: PRIVATE_DIR })
  await writeWhole(envFile, JSON.stringify(env), { mode: PRIVATE_FILE })
}

export type Records = ReturnType<typeof recordsAt>

/** Reads throw `internal` with the file's name: records are written whole, so a bad one was damaged by somebody. */
export function recordsAt(dir: string) {
  const unitsDir = join(dir, 'units')
  let lastUpdate: Promise<void> = Promise.resolve()
  const fileOf = (key: UnitKey) => join(unitsDir, key.app, `${key.service}@${key.slot}.json`)

  async function keysOf(app: AppName): Promise<UnitKey[]> {
    const keys: UnitKey[] = []
    for (const name of await namesIn(join(unitsDir, app))) {
      const match = /^([a-z0-9-]+)@([ab])\.json$/.exec(name)
      const slot = SLOTS.find((each) => each === match?.[2])
      if (match && slot) keys.push({ app, service: parseServiceName(match[1]), slot })
    }
    return keys.sort((a, b) => (`${a.service}@${a.slot}` < `${b.service}@${b.slot}` ? -1 : 1))
  }

  return {
    keysOf,
    fileOf,
    /** Every unit there is, by the files there are. */
    async keys(): Promise<UnitKey[]> {
      const apps = await namesIn(unitsDir)
      return (await Promise.all(apps.map((app) => keysOf(parseAppName(app))))).flat()
    },
    read,
    /** What an agent that was killed left half written. */
    async sweep(): Promise<void> {
      for (const app of await namesIn(unitsDir)) await removeTemporaries(join(unitsDir, app))
    },
    /** One after the other: a start that notes its pid must not undo an `enable` of the same moment. */
    update(key: UnitKey, change: (before: UnitRecord | undefined) => UnitRecord): Promise<void> {
      const update = lastUpdate.then(async () => {
        const after = change(await read(key))
        await mkdir(join(unitsDir, key.app), { recursive: true, mode: PRIVATE_DIR })
        await writeWhole(fileOf(key), JSON.stringify(after), { mode: PRIVATE_FILE })
      })
      lastUpdate = update.catch(() => {})
      return update
    },
    async remove(key: UnitKey): Promise<void> {
      await rm(fileOf(key), { force: true })
      if ((await namesIn(join(unitsDir, key.app))).length === 0) {
        await rm(join(unitsDir, key.app), { recursive: true, force: true })
      }
    },
  }

  async function read(key: UnitKey): Promise<UnitRecord | undefined> {
    try {
      return parseRecord(await readFile(fileOf(key), 'utf8'))
    } catch (error) {
      if (isErrno(error, 'ENOENT')) return undefined
      throw new Failure('internal', `read unit ${fileOf(key)}: ${reasonOf(error)}`, { cause: error })
    }
  }
}

async function namesIn(dir: string): Promise<string[]> {
  try {
    return await readdir(dir)
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return []
    throw error
  }
}
