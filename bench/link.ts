import { join } from 'node:path'
import { run, shell, startBackground } from './programs.ts'

// The way between the client and the host: two network namespaces, joined. Every peer takes the same one.

export type LinkName = 'local' | 'loopback' | 'shaped'

export interface Link {
  name: LinkName
  /** How it is made, for the report. */
  made: string
  clientNetns: string | undefined
  hostNetns: string | undefined
  /** Where the host is, seen from the client. */
  address: string
  /** Both directions, IP and TCP headers included; undefined where nothing counts. */
  bytesOnWire(): Promise<number | undefined>
  end(): Promise<void>
}

const RATE = '50mbit'
const ROUND_TRIP_MS = 30
/** Of a queue before the shaped link, as a router has one: 100 ms at full rate. */
const QUEUE_LATENCY = '100ms'
const QUEUE_BURST = '16kb'
const HOST = '10.207.1.2'

/** `local` needs no root and counts nothing; `loopback` is a veth pair as fast as it goes; `shaped` has a rate and a delay. */
export async function makeLink(name: LinkName): Promise<Link> {
  if (name === 'local') {
    return {
      name,
      made: '127.0.0.1',
      clientNetns: undefined,
      hostNetns: undefined,
      address: '127.0.0.1',
      bytesOnWire: async () => undefined,
      end: async () => {},
    }
  }
  const client = `tarmac-bench-c${process.pid}`
  const host = `tarmac-bench-h${process.pid}`
  const undo: (() => Promise<unknown>)[] = []
  const ip = (...words: string[]) => run(['ip', ...words])
  const namespace = async (netns: string) => {
    await ip('netns', 'add', netns)
    undo.unshift(async () => {
      // What still runs in there is what this bench began: an ssh session outlives its client for a while.
      await shell(`ip netns pids ${netns} | xargs --no-run-if-empty kill -9`)
      await ip('netns', 'del', netns)
    })
    await ip('-n', netns, 'link', 'set', 'lo', 'up')
  }
  const end = async () => {
    for (const step of undo) await step()
  }
  try {
    await namespace(client)
    await namespace(host)
    const { made, device } = await (name === 'loopback'
      ? joinDirectly(client, host)
      : joinShaped({ client, host, namespace, undo }))
    return {
      name,
      made,
      clientNetns: client,
      hostNetns: host,
      address: HOST,
      bytesOnWire: () => counted(client, device),
      end,
    }
  } catch (error) {
    await end()
    throw error
  }
}

async function joinDirectly(client: string, host: string): Promise<{ made: string; device: string }> {
  await vethPair([client, 'wire', '10.207.1.1/24'], [host, 'wire', `${HOST}/24`])
  return { made: 'a veth pair between two network namespaces, as fast as it goes', device: 'wire' }
}

type End = [netns: string, device: string, address: string]

async function vethPair([netns, device, address]: End, [otherNetns, other, otherAddress]: End): Promise<void> {
  const peer = ['peer', 'name', other, 'netns', otherNetns]
  await run(['ip', 'link', 'add', device, 'netns', netns, 'type', 'veth', ...peer])
  for (const [ns, dev, addr] of [
    [netns, device, address],
    [otherNetns, other, otherAddress],
  ] as const) {
    await run(['ip', '-n', ns, 'addr', 'add', addr, 'dev', dev])
    await run(['ip', '-n', ns, 'link', 'set', dev, 'up'])
  }
}

interface Shaping {
  client: string
  host: string
  namespace(netns: string): Promise<void>
  undo: (() => Promise<unknown>)[]
}

/**
 * The rate by tbf at both ends. The delay by netem where the kernel has it; else both ends talk through a tunnel
 * (vxlan) whose packets pass delay-line.ts, which holds each one for half the round trip: real TCP over a real delay.
 */
async function joinShaped({ client, host, namespace, undo }: Shaping): Promise<{ made: string; device: string }> {
  const words = `${RATE.replace('mbit', ' Mbit/s')} each way, ${ROUND_TRIP_MS} ms round trip`
  const shape = ['rate', RATE, 'burst', QUEUE_BURST, 'latency', QUEUE_LATENCY]
  const delay = `${ROUND_TRIP_MS / 2}ms`
  if (await hasNetem(client)) {
    await joinDirectly(client, host)
    for (const netns of [client, host]) {
      await run(['tc', '-n', netns, 'qdisc', 'add', 'dev', 'wire', 'root', 'handle', '1:', 'netem', 'delay', delay])
      await run(['tc', '-n', netns, 'qdisc', 'add', 'dev', 'wire', 'parent', '1:', 'tbf', ...shape])
    }
    return { made: `${words}: tc netem and tbf on a veth pair`, device: 'wire' }
  }
  const middle = `tarmac-bench-m${process.pid}`
  await namespace(middle)
  const ends = [
    { netns: client, near: '10.207.2.1', far: '10.207.2.2', inner: '10.207.1.1', id: 'c' },
    { netns: host, near: '10.207.3.1', far: '10.207.3.2', inner: HOST, id: 'h' },
  ]
  for (const { netns, near, far, inner, id } of ends) {
    await vethPair([netns, 'outer', `${near}/24`], [middle, `to-${id}`, `${far}/24`])
    // A tunnelled packet must fit whole.
    await run(['ip', '-n', netns, 'link', 'set', 'outer', 'mtu', '1600'])
    await run(['ip', '-n', middle, 'link', 'set', `to-${id}`, 'mtu', '1600'])
    const vxlan = ['type', 'vxlan', 'id', '7', 'remote', far, 'dstport', '4789', 'dev', 'outer']
    await run(['ip', '-n', netns, 'link', 'add', 'wire', ...vxlan])
    await run(['ip', '-n', netns, 'link', 'set', 'wire', 'mtu', '1500', 'up'])
    // What a card would fill in (checksums) or cut up (bundles of segments) nobody does on this way.
    await run(['ethtool', '-K', 'wire', 'tx', 'off'], { netns })
    await run(['ip', '-n', netns, 'addr', 'add', `${inner}/24`, 'dev', 'wire'])
    await run(['tc', '-n', netns, 'qdisc', 'add', 'dev', 'wire', 'root', 'tbf', ...shape])
  }
  const program = [
    join(import.meta.dirname, 'delay-line.ts'),
    String(ROUND_TRIP_MS / 2),
    ...ends.map(({ near }) => near),
  ]
  const line = await startBackground([process.execPath, ...program], /ready/, { netns: middle })
  undo.unshift(() => line.stop())
  return { made: `${words}: tc tbf, and our own delay line, this kernel having no netem`, device: 'wire' }
}

async function hasNetem(netns: string): Promise<boolean> {
  const qdisc = ['tc', '-n', netns, 'qdisc']
  try {
    await run([...qdisc, 'add', 'dev', 'lo', 'root', 'netem', 'delay', '1ms'])
  } catch {
    return false
  }
  await run([...qdisc, 'del', 'dev', 'lo', 'root'])
  return true
}

async function counted(netns: string, device: string): Promise<number> {
  const { stdout } = await run(['ip', '-n', netns, '-s', '-j', 'link', 'show', 'dev', device])
  const [{ stats64 }] = JSON.parse(stdout) as [{ stats64: Record<'rx' | 'tx', { bytes: number }> }]
  return stats64.rx.bytes + stats64.tx.bytes
}
