import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { FAILURES, Failure } from '../shared/failure.ts'
import { version } from '../shared/version.ts'
import { addEnv } from './commands/env-verbs.ts'
import { readSurroundings } from './config.ts'
import type { Context, GlobalOptions, Run } from './context.ts'
import { createPrint, onOutputClosed, type Print } from './print.ts'

const EXIT_CODES = `
Exit codes: 0 done · 1 a bug · 2 usage or configuration · 3 refused · 4 unreachable · 5 busy ·
6 failed, the old release serves on · 7 failed and rolled back · 8 failed and nothing serves ·
9 hosts differ · 10 unhealthy (status --check, deploys --verify, doctor) · 130 cancelled`

// No await at the top: the bundle is CommonJS, which has none.
void main(process.argv).then((code) => {
  process.exitCode = code
})

async function main(argv: string[]): Promise<number> {
  let code = 0
  let hint: string | undefined
  const program = new Command('tarmac')
  const context = (): Context => contextOf(program.opts<GlobalOptions>())
  const run: Run = async (work) => {
    // Node ends when nothing is left to wait for, also before we have: at a question whose terminal went away.
    process.exitCode = FAILURES.cancelled.exit
    code = await work(context())
  }
  describeProgram(program)
  const changing: Run = (work) => {
    hint = 'what an agent has begun goes on: tarmac deploys'
    return run(work)
  }
  addChanges(program, changing)
  addEnv(program, changing)
  addQuestions(program, run)
  addLocal(program, run)
  process.once('SIGINT', () => {
    context().print.failure(new Failure('cancelled', 'cancelled', hint === undefined ? {} : { hint }))
    process.exit(130)
  })
  // A reader that has enough (`| head`) closes the pipe: that is no error.
  onOutputClosed(() => process.exit(code))
  try {
    await program.parseAsync(argv)
    return code
  } catch (error) {
    return exitCodeOf(error, context().print)
  }
}

function contextOf(options: GlobalOptions): Context {
  const surroundings = readSurroundings()
  const print = createPrint({
    json: options.json === true,
    quiet: options.quiet === true,
    verbose: options.verbose === true,
    color: options.color !== false && !surroundings.noColor,
  })
  return Object.freeze({ options, surroundings, print, cwd: process.cwd() })
}

function exitCodeOf(error: unknown, print: Print): number {
  // commander has printed its own message, for people; help and version are no failures.
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return 0
    const isHelp = error.code === 'commander.help'
    const message = isHelp ? 'name a command' : (error.message.replace(/^error: /, '').split('\n')[0] ?? '')
    if (print.json) print.value({ error: new Failure('usage', message, { hint: 'tarmac --help' }).toRefusal() })
    return 2
  }
  if (error instanceof Failure) {
    print.failure(error)
    if (print.verbose && error.cause !== undefined) print.bug(error.cause)
    return error.exit
  }
  print.bug(error)
  return 1
}

/** The flags that every command takes, before or after its name. */
function describeProgram(program: Command): void {
  program
    .description('Ship to your hosts with one command, and go back with one command.')
    .version(version)
    .showHelpAfterError('(see: tarmac --help)')
    .configureHelp({ showGlobalOptions: true })
    .exitOverride()
    .addHelpText('after', EXIT_CODES)
    .addOption(new Option('--key <file>', 'the SSH key to sign with (default: the ssh-agent, then ~/.ssh/id_ed25519)'))
    .addOption(new Option('-e, --env <name>', 'the environment in tarmac.toml'))
    .addOption(
      new Option('--host <url>', 'this agent instead of the environment, repeatable').argParser(
        (url: string, before: string[] = []) => [...before, url],
      ),
    )
    .addOption(new Option('--app <name>', "the app, when it is not tarmac.toml's"))
    .addOption(new Option('--config <file>', 'another tarmac.toml'))
    .addOption(new Option('--json', 'for machines: results as JSON on stdout'))
    .addOption(new Option('--quiet', 'no progress'))
    .addOption(new Option('--verbose', 'where a failure came from'))
    .addOption(new Option('--no-color', 'no colours; there are none anyway when the output is no terminal'))
    .addOption(new Option('--yes', 'ask nothing'))
}

// Each command loads only what it needs, so that the quick ones stay quick.

function addChanges(program: Command, run: Run): void {
  program
    .command('push')
    .description('build, pack, sign, upload and switch; follows to the truth')
    .argument('[path]', 'a directory, a .tar.gz or a .tarmac bundle (default: the project)')
    .option('--force', 'a new release even when the same content runs already')
    .option('--max-gap <time>', 'go back when callers notice a longer gap than this: 0, 500ms')
    .action((path: string | undefined, options: { force?: boolean; maxGap?: string }) =>
      run(async (context) => (await import('./commands/push.ts')).push(context, path, options)),
    )
  program
    .command('rollback')
    .description('back to the previous good release, or to a named one; says where it goes')
    .argument('[release]', 'as tarmac releases lists it')
    .option('--list', 'where it could go')
    .action((release: string | undefined, options: { list?: boolean }) =>
      run(async (context) => (await import('./commands/rollback.ts')).rollback(context, release, options)),
    )
  program
    .command('prune')
    .description('remove the releases that are not kept, and say which')
    .option('--explain', 'change nothing: what would go, what stays, and why')
    .action((options: { explain?: boolean }) =>
      run(async (context) => (await import('./commands/prune.ts')).prune(context, options)),
    )
  const verbs = {
    restart: 'stop what runs, start it again, and wait until it is healthy',
    stop: 'stop what runs; a boot does not start it again',
    start: 'start what was stopped, and wait until it is healthy',
  } as const
  for (const [verb, description] of Object.entries(verbs)) {
    program
      .command(verb)
      .description(description)
      .action(() =>
        run(async (context) => (await import('./commands/control.ts')).control(context, verb as keyof typeof verbs)),
      )
  }
}

function addQuestions(program: Command, run: Run): void {
  program
    .command('status')
    .description('a row per host, app and service: state, release, respawns, last exit, memory, disk')
    .option('--watch', 'again every 2 seconds')
    .option('--check', 'exit 10 if anything is wrong')
    .action((options: { watch?: boolean; check?: boolean }) =>
      run(async (context) => (await import('./commands/status.ts')).status(context, options)),
    )
  program
    .command('releases')
    .description('what is kept and why')
    .option('--hold <release>', 'keep this one whatever comes after it')
    .option('--unhold <release>', 'keep it like any other again')
    .action((options: { hold?: string; unhold?: string }) =>
      run(async (context) => (await import('./commands/releases.ts')).releases(context, options)),
    )
  program
    .command('deploys')
    .description('who changed what, when, from where to where, and how it ended')
    .argument('[number]', 'one of them, with its receipt')
    .option('-n, --lines <count>', 'how many', wholeNumber, 20)
    .option('--verify', 'whether each host still has the record its agent wrote; exit 10 if not')
    .action((number: string | undefined, options: { lines: number; verify?: boolean }) =>
      run(async (context) =>
        options.verify
          ? (await import('./commands/verify.ts')).verify(context)
          : (await import('./commands/deploys.ts')).deploys(context, number, { count: options.lines }),
      ),
    )
  program
    .command('doctor')
    .description('looks at each host and at the way there: what is wrong, or soon will be; exit 10 if anything is bad')
    .action(() => run(async (context) => (await import('./commands/doctor.ts')).doctor(context)))
  program
    .command('logs')
    .description("an app's own output, also of a release that is dead")
    .argument('[service]', 'one service only')
    .option('-f, --follow', 'go on as it comes')
    .option('-n, --lines <count>', 'the newest so many lines', wholeNumber, 100)
    .option('--since <time>', 'a time, or how long ago: 10m')
    .option('--release <id>', 'of that release only')
    .action(
      (service: string | undefined, options: { follow?: boolean; lines: number; since?: string; release?: string }) =>
        run(async (context) => (await import('./commands/logs.ts')).logs(context, service, options)),
    )
}

function addLocal(program: Command, run: Run): void {
  program
    .command('init')
    .description('write tarmac.toml for the project in this directory')
    .option('--force', 'in place of the one there is')
    .action((options: { force?: boolean }) =>
      run(async (context) => (await import('./commands/init.ts')).init(context, options)),
    )
  program
    .command('pack')
    .description('write a whole signed bundle to a file, for offline use')
    .argument('[path]', 'a directory or a .tar.gz (default: the project)')
    .option('-o, --output <file>', 'where to (default: APP.tarmac)')
    .action((path: string | undefined, options: { output?: string }) =>
      run(async (context) => (await import('./commands/pack.ts')).pack(context, path, options)),
    )
  program
    .command('keys')
    .description('which key signs, and the line that lets it in on a host')
    .action(() => run(async (context) => (await import('./commands/keys.ts')).keys(context)))
  program
    .command('trust')
    .description("remember an agent's key; without a URL, list those known")
    .argument('[url]', 'https://HOST:PORT')
    .option('--pin <pin>', 'what tarmac-agent init printed there; without it you are asked')
    .action((url: string | undefined, options: { pin?: string }) =>
      run(async (context) => (await import('./commands/trust.ts')).trust(context, url, options)),
    )
}

function wholeNumber(text: string): number {
  if (/^\d{1,6}$/.test(text)) return Number(text)
  throw new InvalidArgumentError('not a whole number')
}
