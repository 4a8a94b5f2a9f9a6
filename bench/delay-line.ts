// node delay-line.ts MS A B: a wire with a length, for kernels without netem. Each UDP packet of the tunnel that comes
// from A goes to B after MS milliseconds, in order, and the other way round.
import { createSocket } from 'node:dgram'

/** vxlan's own. */
const PORT = 4789
/** Both directions of 50 Mbit/s for 15 ms are 190 kB; a burst may be more. */
const BUFFER_BYTES = 4 * 2 ** 20

const [delayText = '', a = '', b = ''] = process.argv.slice(2)
const delayMs = Number(delayText)
const held: { due: number; packet: Buffer; to: string }[] = []
const socket = createSocket({ type: 'udp4', recvBufferSize: BUFFER_BYTES, sendBufferSize: BUFFER_BYTES })

socket.on('message', (packet, { address }) => {
  held.push({ due: performance.now() + delayMs, packet, to: address === a ? b : a })
  if (held.length === 1) setTimeout(release, delayMs)
})

function release(): void {
  const now = performance.now()
  let count = 0
  // Half a millisecond early is nearer than a timer's next whole one.
  for (const { due, packet, to } of held) {
    if (due > now + 0.5) break
    socket.send(packet, PORT, to)
    count++
  }
  held.splice(0, count)
  const [next] = held
  if (next !== undefined) setTimeout(release, Math.max(0, next.due - performance.now()))
}

socket.bind(PORT, () => console.log('ready'))
process.on('SIGTERM', () => process.exit())
