import { existsSync, mkdirSync, readFileSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { Failure } from '../shared/failure.ts'
import { version } from '../shared/version.ts'
import type { Agent } from './agent.ts'
import { type Config, DEFAULTS, type Overrides, readConfig } from './config.ts'
import { adopt } from './deploy/adopt.ts'
import { doAfterwards } from './deploy/afterwards.ts'
import { createAsked } from './deploy/asked.ts'
import type { Change, FailedChange } from './deploy/change.ts'
import { createOperations } from './deploy/operations.ts'
import { recover, sweep } from './deploy/recover.ts'
import { armFaults, withFaultPoints } from './fault.ts'
import { listenForScrapes } from './http/scrape-server.ts'
import { listen } from './http/server.ts'
import { createEmbedded } from './init/embedded.ts'
import type { InitSystem } from './init/init-system.ts'
import { createSystemd } from './init/systemd.ts'
import { createLog, type Log } from './log.ts'
import { preloadText } from './preload/preload.ts'
import { writeWhole } from './state/disk.ts'
import { openLedger } from './state/ledger.ts'
import { appsOn } from './state/release-store.ts'
import { reserveAt } from './state/reserve.ts'
import { readSigners } from './state/signers.ts'
import { readTls } from './state/tls.ts'
import { watchDisk } from './watch/disk-watch.ts'
import { watchExits } from './watch/exits.ts'
import { watchLoops } from './watch/loops.ts'
import { createMetrics } from './watch/metrics.ts'
import { newsOfChange } from './watch/news.ts'
import { createNotifier } from './watch/notify.ts'
import { restAfterChanges } from './watch/rest.ts'
import { watchStore } from './watch/scrub.ts'

/** Config → Agent value → recover → listen → wait for a signal. Resolves when all of it has ended. */
export async function serve(overrides: Overrides): Promise<void> {
  const config = readConfig(overrides)
  const tls = readTls(config.layout)
  const signers = readSigners(config.layout)
  refuseClosedRoot(config)
  const log = createLog()
  if (config.faultFile !== undefined) armFaults(config.faultFile, log)
  const reserve = reserveAt(config.layout, log)
  // A ledger that is opened, and services that are started, write too.
  reserve.giveBack()
  mkdirSync(config.layout.appsDir, { recursive: true, mode: 0o755 })
  mkdirSync(dirname(config.layout.preloadFile), { recursive: true, mode: 0o755 })
  const ledger = withFaultPoints(
    'ledger',
    openLedger(config.layout, (what, err) => log.error({ what, err }, 'not in the ledger'), reserve.giveBack),
  )
  const notifier = createNotifier(config.webhook, log)
  const operations = createOperations()
  const rest = restAfterChanges(operations)
  const agent: Agent = Object.freeze({
    config,
    layout: config.layout,
    ledger,
    reserve,
    init: withFaultPoints('init', await initSystem(config, log)),
    operations,
    asked: createAsked(operations),
    log,
    changeEnded: (change: Change, failed?: FailedChange) => {
      const news = newsOfChange(change, failed)
      if (news !== undefined) notifier.tell(news)
      void disk.look()
      afterwards.due(change.app, { push: change.kind === 'push' })
      rest.changeEnded()
    },
    tell: notifier.tell,
    pin: tls.pin,
    startedAt: new Date().toISOString(),
  })
  await writePreload(config.layout.preloadFile)
  const disk = watchDisk(agent, notifier.tell)
  const afterwards = doAfterwards(agent)
  const loops = watchLoops(agent, notifier.tell)
  watchExits(agent, loops.look)
  await adopt({ layout: config.layout, ledger, log, signers })
  await sweep(agent)
  const metrics = createMetrics(agent)
  const scrapes = await listenForScrapes(agent, metrics)
  // Before anything that runs is put in order: one whose port another agent has must not undo what that one is at. And
  // at once after it: no request must find an app that is not in order, and not busy.
  const listening = await listen(agent, tls, metrics)
  const recovered = recover(agent)
  const where = `https://${listening.host.includes(':') ? `[${listening.host}]` : listening.host}:${listening.port}`
  log.info(
    { version, url: where, pin: tls.pin, init: agent.init.name, root: config.layout.root, signers: signers.length },
    'listening',
  )
  await recovered
  log.info('recovered')
  void lookAtLedger(agent)
  await loops.begin()
  const scrub = watchStore(agent)
  const rounds = setInterval(() => {
    void disk.sample()
    for (const app of appsOn(config.layout)) {
      loops.look(app)
      afterwards.due(app)
    }
  }, DEFAULTS.roundsMs)
  void disk.begin()
  const signal = await stopSignal()
  log.info({ signal }, 'stopping')
  loops.end()
  scrub.end()
  afterwards.end()
  disk.end()
  clearInterval(rounds)
  const closed = Promise.all([listening.close(), scrapes?.close()])
  await Promise.race([idle(agent), after(DEFAULTS.shutdownMs)])
  // Those who watched the last change get its last line; followers of logs would stay for ever.
  await Promise.race([Promise.all([closed, notifier.drained()]), after(DEFAULTS.farewellMs)])
  listening.cut()
  scrapes?.cut()
  await agent.init.close()
  ledger.close()
  log.info('stopped')
}

/**
 * As root each app runs as its own user, who must get to its release. A directory on the way that is closed to others
 * shows as a program that "cannot be found", which nobody would understand.
 */
function refuseClosedRoot({ layout }: Config): void {
  if (process.getuid?.() !== 0) return
  for (let dir = layout.root; ; dir = dirname(dir)) {
    const { mode } = statSync(dir)
    if ((mode & 0o001) === 0) {
      throw new Failure(
        'config_invalid',
        `run ${layout.root}: ${dir} is closed to other users (mode ${(mode & 0o777).toString(8)}), and apps run as users of their own`,
        {
          hint: `chmod o+x ${dir}, or choose a root elsewhere`,
        },
      )
    }
    if (dirname(dir) === dir) return
  }
}

async function initSystem(config: Config, log: Log): Promise<InitSystem> {
  switch (config.init) {
    case 'systemd':
      return createSystemd()
    case 'embedded':
      return createEmbedded({ dir: config.layout.embeddedDir, log })
    case 'upstart':
      throw new Failure('init_unsupported', 'run --init upstart: this agent does not speak Upstart yet', {
        hint: 'on a host without systemd: --init embedded',
      })
  }
}

/** Only when it is another one: an agent must start on a disk that has become read-only, too. */
async function writePreload(file: string): Promise<void> {
  if (existsSync(file) && readFileSync(file, 'utf8') === preloadText) return
  await writeWhole(file, preloadText, { mode: 0o444 })
}

/** Not before the agent listens: it reads every change there ever was. */
async function lookAtLedger({ ledger, log }: Agent): Promise<void> {
  try {
    const { ok, problems } = await ledger.verify()
    if (!ok) log.error({ problems }, 'the ledger is not what the agent wrote: tarmac deploys --verify')
  } catch (err) {
    log.error({ err }, 'the ledger could not be verified')
  }
}

function stopSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    process.once('SIGTERM', resolve)
    process.once('SIGINT', resolve)
  })
}

function after(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref())
}

/** A change in flight is let to its end: it owns the app, and half of it would have to be undone at the next start. */
async function idle(agent: Agent): Promise<void> {
  while (agent.operations.all().length > 0) await new Promise((resolve) => setTimeout(resolve, 50))
}
