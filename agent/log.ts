import { type Logger, pino } from 'pino'

export type Log = Logger

/** One JSON object per line on stdout: journald, or whatever runs the agent, keeps it. */
export function createLog(): Log {
  return pino({ base: null, timestamp: pino.stdTimeFunctions.isoTime }, pino.destination({ fd: 1, sync: true }))
}
