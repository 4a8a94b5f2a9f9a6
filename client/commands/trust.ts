import { Failure } from '../../shared/failure.ts'
import { hostsFrom, parsePin } from '../config.ts'
import { openConnection } from '../connection.ts'
import { type Context, openSigning } from '../context.ts'
import { trustOnFirstUse } from '../first-use.ts'
import { openPins } from '../pins.ts'

/** Connects, compares the agent's key with the pin given (or asks), and remembers it. */
export async function trust(context: Context, url: string | undefined, { pin }: { pin?: string }): Promise<number> {
  const { print, surroundings } = context
  const pins = openPins(surroundings.configDir)
  if (url === undefined) return list(context)
  const [host] = hostsFrom([{ url }])
  if (!host) throw new Failure('usage', 'trust: no host')
  const expected = pin === undefined ? undefined : parsePin(pin)
  const signing = await openSigning(context)
  let seen = ''
  const connection = await openConnection(host, {
    async pinOf(asked, shown) {
      seen = shown
      const before = pins.of(asked.url)
      if (expected !== undefined) return expected
      if (before === shown) return shown
      // Asked as at a first contact, this would be trusted by habit.
      if (before !== undefined) print.warn(`${asked.url} had another key until now: ${before}`)
      return trustOnFirstUse(context, asked, shown)
    },
    signSession: signing.signSession,
  })
  connection.close()
  pins.trust(host.url, seen)
  if (print.json) print.value({ url: host.url, pin: seen, trusted: true })
  else print.line(`${host.url} is trusted by ${seen}`)
  return 0
}

async function list({ print, surroundings }: Context): Promise<number> {
  const known = openPins(surroundings.configDir).all()
  if (print.json) print.value({ agents: known })
  else if (known.length === 0) print.note('no agent is trusted yet: tarmac trust URL --pin PIN')
  else
    await print.table(
      ['agent', 'pin'],
      known.map(({ url, pin }) => [url, pin]),
    )
  return 0
}
