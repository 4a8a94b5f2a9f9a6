// The order of a deploy. This file knows every step and no detail; each step takes what the one before it returned.

import type { Signer } from '../../shared/allowed-signers.ts'
import type { BundleEntry } from '../../shared/bundle-read.ts'
import { contentOfText } from '../../shared/manifest.ts'
import { type AppName, type ReleaseId, type Sha256, sha256 } from '../../shared/names.ts'
import type { Agent } from '../agent.ts'
import { type Environment, environmentOfRelease, newestEnvironment, setNewestRevision } from '../state/env-revisions.ts'
import type { Amount } from '../state/ledger-disk.ts'
import { currentRelease, type Release, readRelease, readReleaseBytes, sizeOf } from '../state/release-store.ts'
import { readSigners } from '../state/signers.ts'
import {
  type Proved,
  proveManifest,
  refuseNamesake,
  refuseSigners,
  type Stored,
  storeObjects,
  tidyRefused,
} from './admit.ts'
import { assemble, orWithdraw } from './assemble.ts'
import { type Asked, type Change, openChange, type Report, runChange } from './change.ts'
import { mendDamaged, surveyOfComing } from './damage.ts'
import { passedOverBy } from './env.ts'
import { refuseGap } from './gap-too-long.ts'
import { goBack } from './go-back.ts'
import { type Loop, loopReceipt } from './looping.ts'
import type { Operation } from './operations.ts'
import { pruneApp } from './prune.ts'
import { checkRoom, watchRoom } from './room.ts'
import {
  endOld,
  isStopped,
  makeCurrent,
  type Outfit,
  type Progress,
  prepareStopped,
  prepareUnits,
  probeTargets,
  replaceUnits,
  type Serving,
  servingNow,
} from './switch.ts'
import { probeSwitch } from './switch-probe.ts'
import type { Target } from './target.ts'
import { refuseLaunchers } from './unit.ts'

export interface Ask extends Asked {
  operation: Operation
  report: Report
}

/** Proved, and whole in the store. */
export interface Admitted extends Proved {
  /** Of the disk. */
  takes: Amount
  /** Bytes of contents that were not in the store. */
  brings: number
  /** What runs, where it was read for this push. */
  running: Release | undefined
  stored: Stored
}

/**
 * Up to here nothing live has changed: a refusal is a plain HTTP status and leaves nothing behind. An upload may take an hour:
 * at its end it is asked once more who may sign, and `refuseAsker` whether who sends it may still ask.
 */
export async function admit(
  agent: Agent,
  app: AppName,
  { bundle, refuseAsker }: { bundle: AsyncIterator<BundleEntry>; refuseAsker: (signers: readonly Signer[]) => void },
): Promise<Admitted> {
  try {
    const { asked, running } = agent.asked.take(app) ?? {}
    const policy = {
      app,
      signers: readSigners(agent.layout),
      now: new Date(),
      parsed: asked?.signed,
      older: agent.asked.proved(app, running),
    }
    const { proved, first, changed } = await proveManifest(bundle, policy)
    refuseNamesake(agent.layout, proved.signed)
    agent.asked.prove(app, proved.signed.id)
    refuseLaunchers(proved.signed.manifest)
    const survey =
      asked?.signed === proved.signed
        ? asked.survey
        : await surveyOfComing(agent, proved.signed.manifest, { changed, whole: running?.whole })
    const takes = await checkRoom(agent, proved, survey.lacking)
    const incoming = { first, rest: bundle }
    const approve = () => {
      const signers = readSigners(agent.layout)
      refuseAsker(signers)
      refuseSigners(proved.signatures, { signers, now: new Date() })
    }
    const spend = watchRoom(agent, app)
    const stored = await storeObjects(agent.layout, proved, incoming, { survey, spend, approve })
    const brings = survey.lacking.objects.reduce((sum, { size }) => sum + size, 0)
    return { ...proved, takes, brings, running: running?.release, stored }
  } catch (error) {
    tidyRefused(agent.layout, app)
    throw error
  }
}

/** From here on the deploy belongs to the agent and runs to its end, even if the client has gone. */
export async function rollOut(agent: Agent, ask: Ask, admitted: Admitted): Promise<void> {
  const { signed, signatures, signers, takes, brings, running, stored } = admitted
  const change = await orWithdraw(agent.layout, signed, () => openChange(ask, agent, signed.id))
  await runChange(agent, change, async () => {
    const row = { id: signed.id, signers, ...sizeOf(signed.manifest) }
    await orWithdraw(agent.layout, signed, () => agent.ledger.received(ask.app, row))
    change.step('stored', { release: signed.id })
    await mendDamaged(agent, ask.app)
    const release = await assemble(agent.layout, { signed, signatures, running, ...stored })
    change.takes(takes)
    agent.ledger.setBytesOnDisk(ask.app, agent.ledger.app(ask.app).bytesOnDisk + brings)
    agent.ledger.setState(ask.app, release.id, 'assembled')
    change.step('assembled', { release: release.id })
    await switchTo(agent, { release, env: newestEnvironment(agent.layout, ask.app) }, change)
  })
}

/** The same road with an older release and its own environment: no upload, no approval. The one it leaves is bad. */
export async function rollBack(agent: Agent, ask: Ask, { release, passedOver }: Target): Promise<void> {
  const change = openChange(ask, agent, release.id)
  await runChange(agent, change, async () => {
    for (const message of passedOver) change.step('warning', { message })
    await switchTo(agent, withOwnEnv(agent, release), change)
    if (change.from !== null && change.from !== release.id) agent.ledger.setState(ask.app, change.from, 'bad')
  })
}

/** The same road, taken by the agent itself out of a crash loop. What it was is kept in the record of the change. */
export async function rollBackLoop(agent: Agent, ask: Ask, { release, passedOver, loop }: Target & { loop: Loop }) {
  const change = openChange(ask, agent, release.id)
  await runChange(agent, change, async () => {
    for (const message of passedOver) change.step('warning', { message })
    const receipt = loopReceipt(agent, loop, change)
    if (change.from !== null) agent.ledger.setState(ask.app, change.from, 'bad')
    await switchTo(agent, withOwnEnv(agent, release), change)
    change.because(await receipt)
  })
}

/** The same road with the same release: its new environment is in force once it is healthy with it. */
export async function applyEnv(agent: Agent, ask: Ask, env: Environment): Promise<void> {
  const { app } = ask
  const current = currentRelease(agent.layout, app)
  const change = openChange(ask, agent, current)
  await runChange(agent, change, async () => {
    change.step('revised', { revision: env.revision })
    const passedOver = passedOverBy(agent.layout, app, env)
    if (passedOver !== undefined) change.step('warning', { message: passedOver })
    if (current !== null) {
      const outfit = { release: readRelease(agent.layout, app, current), env }
      if (await isStopped(agent, app)) await prepareStopped(agent, outfit)
      else await switchTo(agent, outfit, change)
    }
    await setNewestRevision(agent.layout, app, env.revision)
  })
}

/**
 * Start the new beside the old, gate it, move the traffic, point `current` at it, let the old end; and the one way back.
 * Measured and pruned is either way.
 */
async function switchTo(agent: Agent, outfit: Outfit, change: Change): Promise<void> {
  try {
    await moveTo(agent, outfit, change)
  } finally {
    await pruneApp(agent, change)
  }
}

async function moveTo(agent: Agent, outfit: Outfit, change: Change): Promise<void> {
  const { release } = outfit
  const serving: Serving = await servingNow(agent, change.app)
  const units = await prepareUnits(agent, outfit, serving)
  const progress: Progress = { stopped: [], opened: [] }
  const probing = await probeSwitch(probeTargets(agent, serving, release))
  try {
    // What was good before stays so until the switch says otherwise: cut off, it may be gone back to.
    if (change.kind === 'push') agent.ledger.setState(change.app, release.id, 'started')
    await replaceUnits(agent, { units, old: serving.units, progress }, change)
    await makeCurrent(agent, release, units)
    agent.ledger.setState(change.app, release.id, 'healthy')
    // What a person asked for stays wanted, so that status shows another one running until a person has decided.
    if (change.kind === 'push' || change.kind === 'rollback') agent.ledger.setWanted(change.app, release.id)
    change.step('switched', { release: release.id })
    await endOld(agent, { units, old: serving.units }, change)
    change.probed(await probing.end())
    refuseGap(change)
  } catch (cause) {
    throw await goBack(agent, { release, units, serving, progress, cause }, change)
  } finally {
    change.probed(await probing.end())
  }
}

function withOwnEnv({ layout }: Agent, release: Release): Outfit {
  return { release, env: environmentOfRelease(layout, release.manifest.app, release.id) }
}

/** The release of this content that runs already, if any: pushing it again would change nothing. */
export function alreadyRunning(agent: Agent, app: AppName, content: Sha256): ReleaseId | null {
  const current = runningAsWanted(agent, app)
  if (current === null) return null
  const bytes = readReleaseBytes(agent.layout, app, current)
  // One that was changed on the disk is not what was pushed, wherever it was changed.
  const isIntact = current.endsWith(sha256(bytes).slice(0, 8))
  return isIntact && contentOfText(bytes) === content ? current : null
}

/** Null where what runs is not what was wanted last. */
export function runningAsWanted({ layout, ledger }: Agent, app: AppName): ReleaseId | null {
  const current = currentRelease(layout, app)
  return ledger.app(app).wanted === current ? current : null
}
