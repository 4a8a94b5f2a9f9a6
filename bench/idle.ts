import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import prettyBytes from 'pretty-bytes'
import type { Choice } from './compare.ts'
import { become } from './measure.ts'
import { memoryOf } from './programs.ts'
import { writeResult } from './results.ts'
import { makeSite } from './site.ts'
import { median } from './table.ts'
import { tarmac, workerToml } from './tarmac.ts'

// What an agent takes that has twenty services and nothing to do.

const APPS = 5
const SERVICES_AN_APP = 4
const LOOK_MS = 5_000
/** Of Linux, for /proc: USER_HZ. */
const TICKS_A_SECOND = 100

export async function idle({
  minutes,
  out,
  programs,
}: Pick<Choice, 'out' | 'programs'> & { minutes: string }): Promise<void> {
  const site = await makeSite('local')
  const host = tarmac(site, { programs })
  try {
    await become(site, 'small')
    await host.reset()
    const services = Array.from({ length: SERVICES_AN_APP }, (_, index) => workerToml(`worker-${index}`)).join('')
    for (let app = 0; app < APPS; app++) {
      host.become(`bench-idle-${app}`, services)
      await host.push()
      console.error(`app ${app + 1} of ${APPS} is there`)
    }
    const begunMs = Date.now()
    const cpuBefore = cpuSeconds(host.agentPid())
    const resident: number[] = []
    while (Date.now() - begunMs < Number(minutes) * 60_000) {
      await sleep(LOOK_MS)
      resident.push(memoryOf(host.agentPid())?.residentBytes ?? 0)
    }
    const seconds = (Date.now() - begunMs) / 1_000
    const cpuPercent = ((cpuSeconds(host.agentPid()) - cpuBefore) / seconds) * 100
    const result = {
      services: APPS * SERVICES_AN_APP,
      seconds,
      cpuPercent,
      residentBytes: {
        first: resident[0],
        median: median(resident),
        max: Math.max(...resident),
        last: resident.at(-1),
      },
    }
    const { residentBytes } = result
    console.log(
      `${result.services} services, ${Math.round(seconds)} s: ${cpuPercent.toFixed(3)} % of a core, ` +
        `${prettyBytes(residentBytes.median)} resident (${prettyBytes(residentBytes.max)} at the most)`,
    )
    console.log(`all of it: ${await writeResult('idle', result, out)}`)
  } finally {
    await host.end()
    await site.end()
  }
}

function cpuSeconds(pid: number): number {
  // The name may hold spaces; what is counted from its closing bracket does not.
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
  return (Number(fields[11]) + Number(fields[12])) / TICKS_A_SECOND
}
