import { lstatSync } from 'node:fs'
import type { Signer } from '../../shared/allowed-signers.ts'
import type { AppName, ReleaseId } from '../../shared/names.ts'
import type { Agent } from '../agent.ts'
import { LOST } from '../state/chain.ts'
import type { Loss } from '../state/ledger-chain.ts'
import type { FoundRelease } from '../state/ledger-rebuild.ts'
import { lookThrough } from '../state/object-sweep.ts'
import {
  appsOn,
  currentRelease,
  parseStored,
  readReleaseText,
  readSignatures,
  releasesOn,
  sizeOf,
} from '../state/release-store.ts'
import { provenSigners } from './admit.ts'

// What lies on the disk is the truth, and a row that is missing costs no release. So before anything else is done, the
// ledger takes in what it does not know.

type Parts = Pick<Agent, 'layout' | 'ledger' | 'log'> & { signers: readonly Signer[] }

/**
 * After a ledger that was lost, or put back from an older copy, and for releases without a row. What became of it is
 * said in the log and in the record of each app. Never throws: an app that cannot be taken in is left as it is.
 */
export async function adopt(parts: Parts): Promise<void> {
  const { layout, ledger, log } = parts
  const { loss } = ledger
  // A ledger is new on a new host too; that it was lost shows by what is missing.
  if (loss !== undefined && loss.missing === 0 && appsOn(layout).length === 0) log.info('a new ledger')
  else if (loss !== undefined)
    log[loss.missing > 0 ? 'error' : 'warn']({ code: loss.code, missing: loss.missing }, `ledger: ${loss.reason}`)
  for (const app of appsOn(layout)) {
    try {
      await adoptApp(parts, app)
    } catch (err) {
      log.error({ app, err }, 'what the ledger does not know of the app could not be taken in')
    }
  }
}

async function adoptApp({ layout, ledger, log, signers }: Parts, app: AppName): Promise<void> {
  const { loss } = ledger
  const current = currentRelease(layout, app)
  const known = ledger.releases(app).reverse()
  const onDisk = releasesOn(layout, app)
  const found: FoundRelease[] = []
  for (const id of onDisk) {
    // What serves was healthy, whatever an older copy says of it.
    if (known.some((row) => row.id === id && !(loss && id === current && row.state !== 'healthy'))) continue
    found.push(...(await foundRelease({ layout, signers }, { app, id, isCurrent: id === current })))
  }
  if (onDisk.length === 0 || (loss === undefined && found.length === 0)) return
  const reason = reasonFor(loss, { found, current })
  ledger.rebuild(app, {
    found,
    order: orderOf(known, found),
    wanted: loss && current,
    code: loss?.code ?? null,
    at: new Date().toISOString(),
    receipt: {
      app,
      release: current,
      service: null,
      phase: 'rebuilt',
      reason,
      exit: null,
      respawns: null,
      output: [],
      running: current,
      undone: [],
      next: ['tarmac releases', 'tarmac deploys --verify'],
    },
  })
  log.error({ app, current, code: loss?.code, found: found.map(({ id }) => id) }, `ledger rebuilt: ${reason}`)
  if (loss?.code === LOST) ledger.setBytesOnDisk(app, (await lookThrough(layout, app)).bytes)
}

/** Nothing, for a directory whose release.json is not that of this release: it is no release, and stays for a person. */
async function foundRelease(
  { layout, signers }: Pick<Parts, 'layout' | 'signers'>,
  { app, id, isCurrent }: { app: AppName; id: ReleaseId; isCurrent: boolean },
): Promise<FoundRelease[]> {
  try {
    const text = readReleaseText(layout, app, id)
    const manifest = await parseStored(text, { app, id })
    if (manifest.app !== app) return []
    // Only where there is no better order: it is when the release was written here, by this host's clock.
    const receivedAt = lstatSync(layout.manifestFile(app, id)).mtime.toISOString()
    const policy = { app, signers, now: new Date(manifest.created) }
    return [
      {
        id,
        isCurrent,
        receivedAt,
        signers: signersOf(Buffer.from(text), readSignatures(layout, app, id), policy),
        ...sizeOf(manifest),
      },
    ]
  } catch {
    // Unreadable or half gone.
    return []
  }
}

/** Whoever was removed from the signers since is not known any more. */
function signersOf(...of: Parameters<typeof provenSigners>): string[] {
  try {
    return provenSigners(...of)
  } catch {
    return []
  }
}

/** Pure: those found go before the first one known that came later; those known keep their order. Oldest first. */
export function orderOf(
  known: readonly { id: ReleaseId; receivedAt: string }[],
  found: readonly { id: ReleaseId; receivedAt: string }[],
): ReleaseId[] {
  const order = known.filter(({ id }) => !found.some((one) => one.id === id))
  for (const one of found.toSorted((a, b) => compare(a.receivedAt, b.receivedAt) || compare(a.id, b.id))) {
    const later = order.findIndex(({ receivedAt }) => receivedAt > one.receivedAt)
    order.splice(later === -1 ? order.length : later, 0, one)
  }
  return order.map(({ id }) => id)
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}

function reasonFor(
  loss: Loss | undefined,
  { found, current }: { found: readonly FoundRelease[]; current: ReleaseId | null },
) {
  const others = found.filter(({ isCurrent }) => !isCurrent).length
  const taken = `${count(found.length, 'release was', 'releases were')} taken in from the disk`
  const unknown =
    others === 0
      ? ''
      : `; whether ${others === 1 ? 'one of them' : `${others} of them`} ever ran well is not known, and none is removed for that`
  if (loss === undefined) return `${taken} that the ledger did not know${unknown}`
  const before =
    loss.missing === 0
      ? 'what was changed before, and by whom, is not known'
      : `${count(loss.missing, 'change', 'changes')} before this, and who made them, are not known`
  return `${loss.reason}; ${before}; ${taken}, and ${current ?? 'none'} serves${unknown}`
}

function count(n: number, one: string, many: string): string {
  return `${n} ${n === 1 ? one : many}`
}
