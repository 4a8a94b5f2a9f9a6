import { readFile } from 'node:fs/promises'
import { isErrno } from '../../shared/failure.ts'

/** TCP_LISTEN, include/net/tcp_states.h of Linux. */
const LISTEN = '0A'

/**
 * How many connections wait at a listening IPv4 socket for someone to accept them; undefined when there is no such
 * socket, or no Linux to ask. The format of /proc/net/tcp: https://docs.kernel.org/networking/proc_net_tcp.html; of a
 * listening socket the receive queue is the length of the accept queue.
 */
export async function connectionsWaiting(port: number): Promise<number | undefined> {
  try {
    return waitingAt(await readFile('/proc/net/tcp', 'utf8'), port)
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined
    throw error
  }
}

/** Pure. */
export function waitingAt(table: string, port: number): number | undefined {
  const suffix = `:${port.toString(16).toUpperCase().padStart(4, '0')}`
  for (const line of table.split('\n')) {
    const [, local, , state, queues] = line.trim().split(/\s+/)
    if (state === LISTEN && local?.endsWith(suffix)) return Number.parseInt(queues?.split(':')[1] ?? '0', 16)
  }
  return undefined
}
