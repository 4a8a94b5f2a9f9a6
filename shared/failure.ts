// Every failure a caller may meet, in one table: code → HTTP status → exit code of the client.
// A code is part of the API: scripts match on it, so codes are added and never renamed.
// Exit codes are those of DESIGN.md section 10.
export const FAILURES = {
  // usage and configuration
  usage: { status: 400, exit: 2 },
  config_invalid: { status: 400, exit: 2 },
  config_missing: { status: 400, exit: 2 },
  build_failed: { status: 400, exit: 2 },
  source_invalid: { status: 400, exit: 2 },
  env_invalid: { status: 422, exit: 2 },
  app_unknown: { status: 404, exit: 2 },
  service_unknown: { status: 404, exit: 2 },
  release_unknown: { status: 404, exit: 2 },
  route_unknown: { status: 404, exit: 2 },
  nothing_to_roll_back_to: { status: 409, exit: 2 },
  release_damaged: { status: 409, exit: 2 },
  init_unsupported: { status: 501, exit: 2 },
  // identity
  key_missing: { status: 401, exit: 3 },
  key_unsupported: { status: 401, exit: 3 },
  signing_failed: { status: 401, exit: 3 },
  authorization_missing: { status: 401, exit: 3 },
  authorization_malformed: { status: 401, exit: 3 },
  authorization_mismatch: { status: 401, exit: 3 },
  signer_unknown: { status: 403, exit: 3 },
  signer_expired: { status: 403, exit: 3 },
  signers_none: { status: 403, exit: 3 },
  policy_unreadable: { status: 403, exit: 3 },
  pin_unknown: { status: 403, exit: 3 },
  pin_mismatch: { status: 403, exit: 3 },
  // what was sent
  request_refused: { status: 400, exit: 3 },
  bundle_malformed: { status: 400, exit: 3 },
  manifest_invalid: { status: 422, exit: 3 },
  path_refused: { status: 422, exit: 3 },
  mode_refused: { status: 422, exit: 3 },
  link_refused: { status: 422, exit: 3 },
  app_mismatch: { status: 422, exit: 3 },
  signature_missing: { status: 403, exit: 3 },
  signature_malformed: { status: 403, exit: 3 },
  signature_mismatch: { status: 403, exit: 3 },
  object_mismatch: { status: 422, exit: 3 },
  object_unexpected: { status: 422, exit: 3 },
  object_missing: { status: 422, exit: 3 },
  basis_missing: { status: 409, exit: 3 },
  reference_unknown: { status: 409, exit: 3 },
  limit_exceeded: { status: 413, exit: 3 },
  command_refused: { status: 422, exit: 3 },
  disk_full: { status: 507, exit: 3 },
  // the host cannot take it, whatever was sent
  disk_read_only: { status: 507, exit: 3 },
  disk_failing: { status: 507, exit: 3 },
  files_exhausted: { status: 503, exit: 3 },
  ledger_unwritable: { status: 507, exit: 3 },
  // the way there
  agent_unreachable: { status: 503, exit: 4 },
  connection_lost: { status: 503, exit: 4 },
  agent_stopping: { status: 503, exit: 4 },
  busy: { status: 409, exit: 5 },
  // what became of it
  deploy_failed: { status: 500, exit: 6 },
  prune_failed: { status: 409, exit: 6 },
  deploy_rolled_back: { status: 500, exit: 7 },
  deploy_down: { status: 500, exit: 8 },
  hosts_differ: { status: 500, exit: 9 },
  unhealthy: { status: 500, exit: 10 },
  ledger_lost: { status: 500, exit: 10 },
  ledger_rewound: { status: 500, exit: 10 },
  cancelled: { status: 499, exit: 130 },
  // ours
  program_failed: { status: 500, exit: 1 },
  internal: { status: 500, exit: 1 },
} as const

export type Code = keyof typeof FAILURES

/** What crosses the wire when a request is refused. */
export interface Refusal {
  code: Code
  message: string
  hint?: string
}

/**
 * A failure we expected: the world said no. Anything else that is thrown is a bug and says so.
 * The message reads `operation object: reason`, lower case; the hint is one line, a command to type when it can be.
 */
export class Failure extends Error {
  readonly code: Code
  readonly hint: string | undefined

  constructor(code: Code, message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'Failure'
    this.code = code
    this.hint = options.hint
  }

  get exit(): number {
    return FAILURES[this.code].exit
  }

  get status(): number {
    return FAILURES[this.code].status
  }

  toRefusal(): Refusal {
    return { code: this.code, message: this.message, ...(this.hint === undefined ? {} : { hint: this.hint }) }
  }
}

/** A refusal as it came from the other side; an unknown code (a newer agent) is kept in the message. */
export function failureFrom(value: unknown): Failure {
  const refusal = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
  const message = typeof refusal.message === 'string' ? refusal.message : 'the agent gave no reason'
  const hint = typeof refusal.hint === 'string' ? { hint: refusal.hint } : {}
  const { code } = refusal
  if (typeof code === 'string' && Object.hasOwn(FAILURES, code)) return new Failure(code as Code, message, hint)
  return new Failure('internal', `${String(code)}: ${message}`, hint)
}

/** The words of anything that was thrown, for a sentence that must not fail itself. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** True for a system error of one of these codes: `isErrno(error, 'ENOENT')`. */
export function isErrno(error: unknown, ...codes: string[]): boolean {
  return error instanceof Error && 'code' in error && codes.includes(String(error.code))
}
