import { Failure } from '../shared/failure.ts'
import type { Host } from './config.ts'
import type { Context } from './context.ts'
import { openPins } from './pins.ts'
import { askConfirm } from './prompt.ts'

/** Asks the person at the terminal, once per agent; never silently, and never where nobody can be asked. */
export async function trustOnFirstUse(
  { surroundings, print, options }: Context,
  host: Host,
  seen: string,
): Promise<string> {
  const pins = openPins(surroundings.configDir)
  const asks = print.isInteractive && process.stdin.isTTY === true && !surroundings.isCi && options.yes !== true
  if (!asks) {
    throw new Failure(
      'pin_unknown',
      `connect ${host.url}: this agent is not known here, and nobody can be asked; it shows ${seen}`,
      {
        hint: `compare with what tarmac-agent init prints on the host, then: tarmac trust ${host.url} --pin PIN`,
      },
    )
  }
  print.note(
    `${host.url} shows the key\n  ${seen}\nIt is the right one if \`tarmac-agent init\` prints the same pin on the host.`,
  )
  if (!(await askConfirm('Trust it from now on?'))) {
    throw new Failure('pin_unknown', `connect ${host.url}: the key ${seen} was not trusted`)
  }
  pins.trust(host.url, seen)
  return seen
}
