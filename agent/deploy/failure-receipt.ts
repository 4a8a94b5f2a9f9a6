import { Failure, reasonOf } from '../../shared/failure.ts'
import type { ServiceName } from '../../shared/names.ts'
import type { Receipt } from '../../shared/wire.ts'
import type { Agent } from '../agent.ts'
import type { UnitFacts, UnitKey, UnitSpec } from '../init/init-system.ts'
import type { Release } from '../state/release-store.ts'
import { troubleWords } from '../state/trouble.ts'
import type { Change } from './change.ts'
import { GapTooLong } from './gap-too-long.ts'
import { NotHealthy } from './gate.ts'

/** As many lines as fit one screen beside the rest of the receipt. */
const OUTPUT_LINES = 40
/** Longer than a line of any stack. An app that ends with megabytes on one line must not make a receipt of megabytes. */
const OUTPUT_LINE_CHARS = 2_000
/** The journal lags behind the exit by up to half a second (measured on systemd 255). */
const OUTPUT_LAG_MS = 600

/** "Address already in use" is all that such a program says, and nothing in it names the line of tarmac.toml. */
const INHERITED_HINT =
  'switch = "slots": a command that does not begin with node must take its socket from systemd (LISTEN_FDS); if it cannot: "restart"'

/** What there is to say of a release that failed; whoever calls adds what runs now and what was undone. */
export async function receiptOf(
  agent: Agent,
  { release, units, cause }: { release: Release; units: readonly UnitSpec[]; cause: unknown },
  change: Pick<Change, 'app' | 'kind' | 'phase'>,
): Promise<Receipt> {
  const sick: UnitKey | undefined =
    cause instanceof NotHealthy ? cause.unit : units.find(({ service }) => reasonOf(cause).includes(service))
  const service: ServiceName | null = sick?.service ?? null
  const facts: UnitFacts | undefined = cause instanceof NotHealthy ? cause.facts : undefined
  const exit = facts?.lastExit ?? null
  const how =
    exit === null
      ? ''
      : ` (${exit.oom ? 'out of memory' : exit.signal === null ? `exit code ${exit.code}` : `signal ${exit.signal}`})`
  return {
    app: change.app,
    release: release.id,
    service,
    // After all were healthy only making it current was left to do.
    phase:
      cause instanceof GapTooLong
        ? 'gap'
        : cause instanceof NotHealthy
          ? 'gate'
          : change.phase === 'healthy'
            ? 'switch'
            : 'start',
    reason: `${service === null ? '' : `${service} `}${troubleWords(cause, agent.layout.root)}${how}`,
    exit,
    respawns: facts?.respawns ?? null,
    output: await outputOf(agent, release, service),
    running: null,
    undone: [],
    next: [
      `tarmac logs${service === null ? '' : ` ${service}`} --release ${release.id}`,
      ...(units.find((unit) => unit.service === service)?.handover?.style === 'inherited' ? [INHERITED_HINT] : []),
      ...(cause instanceof Failure && cause.hint !== undefined ? [cause.hint] : []),
      'tarmac status',
      change.kind === 'env' ? 'set it again: tarmac env set' : 'fix it and push again: tarmac push',
    ],
  }
}

async function outputOf({ init }: Agent, release: Release, service: ServiceName | null): Promise<string[]> {
  const lines: string[] = []
  try {
    await new Promise((resolve) => setTimeout(resolve, OUTPUT_LAG_MS))
    const query = {
      app: release.manifest.app,
      release: release.id,
      lines: OUTPUT_LINES,
      ...(service === null ? {} : { service }),
    }
    for await (const line of init.logs(query, AbortSignal.timeout(5_000))) lines.push(clipped(line.message))
  } catch (error) {
    // The receipt is worth having without its output; what went wrong reading it stands in its place.
    lines.push(`(its output could not be read: ${reasonOf(error)})`)
  }
  return lines
}

function clipped(text: string): string {
  return text.length > OUTPUT_LINE_CHARS ? `${text.slice(0, OUTPUT_LINE_CHARS).toWellFormed()}…` : text
}
