import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import Table from 'cli-table3'
import prettyBytes from 'pretty-bytes'
import type { Choice } from './compare.ts'
import { type Meanwhile, makeAsker } from './meanwhile.ts'
import { become, SETTLED_MS } from './measure.ts'
import { memoryOf } from './programs.ts'
import { writeResult } from './results.ts'
import { makeSite } from './site.ts'
import { shownMs } from './table.ts'
import { tarmac, workerToml } from './tarmac.ts'

// Memory at both ends while a gigabyte streams, and how the agent answers meanwhile: storing, unpacking, deleting.

/** As few as may be: the second push after the big ones removes them. */
const KEEP_FEW = `${workerToml()}[keep]\nreleases = 2\nfailed = 0\n`

export async function stream({ out, programs }: Pick<Choice, 'out' | 'programs'>): Promise<void> {
  const results: Record<string, Meanwhile & { clientPeakBytes: number }> = {}
  const site = await makeSite('local')
  const host = tarmac(site, { programs })
  const during = async (name: string, push: () => Promise<{ peakBytes?: number }>) => {
    let clientPeakBytes = 0
    const meanwhile = await asker(async () => {
      clientPeakBytes = (await push()).peakBytes ?? 0
    })
    results[name] = { ...meanwhile, clientPeakBytes }
    console.error(`${name}: ${shownMs(meanwhile.ms)}`)
  }
  const push = () => host.clientWatched('push', '--yes')
  let asker = await begin('gigabyte')
  async function begin(name: 'gigabyte' | 'big') {
    await become(site, name)
    await host.reset()
    await sleep(SETTLED_MS)
    return makeAsker(host)
  }
  try {
    const idleBytes = memoryOf(host.agentPid())?.residentBytes ?? 0
    await during('1 GiB, first push', push)
    asker = await begin('big')
    host.become('bench-keep', KEEP_FEW)
    await during('big tree, first push', push)
    writeFileSync(join(site.source, 'other.txt'), 'other')
    await during('big tree, 1 file changed', push)
    // The next two are small: the two big ones go, of which the last is previous good until the second.
    rmSync(join(site.source, 'node_modules'), { recursive: true })
    await during('a small release', push)
    writeFileSync(join(site.source, 'other.txt'), 'another')
    await during('a small release, the big ones deleted', push)
    const output = new Table({
      head: ['', 'took', 'status median', 'p99', 'max', 'asked', 'loop max', 'agent peak', 'client peak'],
      style: { head: [], border: [] },
    })
    for (const [name, { ms, status, loopDelayMaxMs, agentPeakBytes, clientPeakBytes }] of Object.entries(results)) {
      const times = [ms, status.median, status.p99, status.max].map(shownMs)
      const memory = [agentPeakBytes, clientPeakBytes].map((bytes) => prettyBytes(bytes))
      output.push([name, ...times, status.asked, shownMs(loopDelayMaxMs), ...memory])
    }
    console.log(output.toString())
    console.log(
      `agent before: ${prettyBytes(idleBytes)}. Its peak is since its start: of the two trees each has its own.`,
    )
    console.log(`all of it: ${await writeResult('stream', { idleBytes, results }, out)}`)
  } finally {
    await host.end()
    await site.end()
  }
}
