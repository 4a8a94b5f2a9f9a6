import { createServer } from 'node:net'
import type { InitSystem } from '../init/init-system.ts'
import type { Change } from './change.ts'
import { awaitHealthy } from './gate.ts'
import type { Handed } from './switch-plan.ts'

/**
 * A server that takes its socket itself (LISTEN_FDS) accepts as soon as it runs: beside the old release it would answer
 * callers before anybody knew whether it is well. So it is started on a socket of its own first, gated there, and
 * stopped; only what passed is started on the public one. Throws NotHealthy.
 */
export async function rehearse(init: InitSystem, unit: Handed, change: Change): Promise<void> {
  const rehearsal = { ...unit, handover: { ...unit.handover, rehearsalPort: await freePort() } }
  await init.install(rehearsal)
  await init.start(rehearsal)
  await awaitHealthy(init, rehearsal, unit.spec)
  await init.stop(rehearsal)
  await init.install(unit)
  change.step('rehearsed', { release: unit.release, service: unit.service, slot: unit.slot })
}

/** Free now; whoever takes it before the socket is opened there makes the start fail, and so the push. */
function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      const port = typeof address === 'object' && address !== null ? address.port : 0
      server.close(() => resolve(port))
    })
  })
}
