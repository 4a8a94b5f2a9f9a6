// What doctor finds on a host, and on the way there.

/** What was found where something was looked at. `warn`: it works, but somebody should know. */
export interface Finding {
  state: 'ok' | 'warn' | 'bad'
  what: string
  /** What to do about it; null where nothing is to be done. */
  hint: string | null
}

export interface Check extends Finding {
  /** What was looked at, in a word. */
  check: string
}

/** Answer of GET /v1/doctor. */
export interface DoctorAnswer {
  /** The host's clock, ISO 8601 UTC. */
  at: string
  agent: { version: string; init: string }
  checks: Check[]
}
