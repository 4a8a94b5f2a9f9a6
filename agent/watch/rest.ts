import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { Operations } from '../deploy/operations.ts'

// A push of a release of 25,000 files leaves 70 MB of garbage, which V8 sees no reason to collect while nothing happens:
// the agent then stayed at 300 MB for days on a host that is there for the apps.

/** Long enough that the pushes of one deployment to several apps are one rest. */
const QUIET_MS = 5_000

/** To be told of each change that ended; once it is quiet, garbage is collected, which takes 10 to 40 ms. */
export function restAfterChanges(operations: Operations): { changeEnded(): void } {
  let timer: NodeJS.Timeout | undefined
  let collect: (() => void) | undefined
  return {
    changeEnded() {
      clearTimeout(timer)
      timer = setTimeout(() => {
        if (operations.all().length > 0) return
        collect ??= collector()
        collect()
      }, QUIET_MS).unref()
    },
  }
}

/** Node shows it only to who asks for it, and a program that is started without flags must ask now. */
function collector(): () => void {
  setFlagsFromString('--expose-gc')
  return runInNewContext('gc') as () => void
}
