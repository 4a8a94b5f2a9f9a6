import { readFile } from 'node:fs/promises'
import { createSystemd } from '../../../agent/init/systemd.ts'
import { parseAppName } from '../../../shared/names.ts'
import { addTrial, type TrialOptions } from '../../helpers/init-trial.ts'
import { makeSystemd } from './make-systemd.ts'

// Two programs for a machine that is rebooted. `install`: three services, of which a boot starts two, and one of those
// ends at once; prints the file in which it notes its starts. `facts FILE`: what became of them, as JSON.

const APP = 'rebooted'
/** One tree, so one program: it does what its service's name says. */
const PROGRAM = `case "$TODO" in
  loop) echo start >> "$OUT/starts"; exit 3;;
  *) echo up; exec sleep 1000;;
esac`
const QUICK = { restart: { attempts: 3, withinMs: 30_000, delayMs: 50 } }

async function install(): Promise<string> {
  const made = { ...(await makeSystemd()), apps: [] }
  let startsFile = ''
  for (const service of ['enabled', 'idle', 'loop']) {
    const options: TrialOptions = { app: APP, service, program: PROGRAM, env: { TODO: service }, spec: QUICK }
    const trial = await addTrial(made, options)
    await made.init.install(trial.unit)
    if (service !== 'idle') await made.init.enable(trial.key)
    startsFile = `${trial.out}/starts`
  }
  await made.init.close()
  return startsFile
}

async function facts(startsFile: string): Promise<string> {
  const init = await createSystemd()
  const found: Record<string, unknown> = {}
  for (const key of await init.installed(parseAppName(APP))) found[key.service] = await init.facts(key)
  await init.close()
  const starts = (await readFile(startsFile, 'utf8')).trim().split('\n').length
  return JSON.stringify({ ...found, starts })
}

const [verb, file = ''] = process.argv.slice(2)
console.log(verb === 'install' ? await install() : await facts(file))
