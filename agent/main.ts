import { Command, CommanderError } from 'commander'
import { reasonOf } from '../shared/failure.ts'
import { version } from '../shared/version.ts'
import { print, printFailure } from './print.ts'
import { asFailure } from './state/trouble.ts'

// The agent's programs: `init` and `signers` are for the admin at the host's own prompt, `run` is what init starts.

const program = new Command('tarmac-agent')
  .description('receives signed releases over HTTPS and runs them under systemd')
  .version(version)
  .showHelpAfterError()
  .exitOverride()

const root = ['--root <dir>', 'everything below this directory, /etc/tarmac as DIR/etc (for trials and tests)'] as const

program
  .command('init')
  .description("make the agent's configuration and TLS key; print the pin that clients trust it by")
  .option(...root)
  .option('--listen <host:port>', 'the address to listen on, kept in agent.toml')
  .action(async (options: { root?: string; listen?: string }) => (await import('./setup.ts')).initHost(options))

program
  .command('run')
  .description('listen, and keep the apps of this host running')
  .option(...root)
  .option('--listen <host:port>', 'instead of the address in agent.toml')
  .option('--init <name>', 'systemd or embedded; found out when not given')
  .action(async (options: { root?: string; listen?: string; init?: string }) => {
    await (await import('./serve.ts')).serve(options)
    // A change that outlasted the wait would keep the process, with its ledger closed; the next start settles it.
    process.exit(0)
  })

const signers = program.command('signers').description('the people whose keys are let in')
signers
  .command('add')
  .description('let a person in')
  .argument('<name>', 'who this is')
  .argument('<public-key...>', "an OpenSSH public key line ('ssh-ed25519 AAAA…'), or a .pub file")
  .option(...root)
  .action(async (name: string, key: string[], options: { root?: string }) =>
    (await import('./setup.ts')).addSigner(name, key.join(' '), options),
  )
signers
  .command('list')
  .description('who is let in')
  .option(...root)
  .option('--json', 'for machines')
  .action(async (options: { root?: string; json?: boolean }) => (await import('./setup.ts')).listSigners(options))
signers
  .command('remove')
  .description('let a person in no longer, from the next request on')
  .argument('<name>', 'as signers list shows it')
  .option(...root)
  .action(async (name: string, options: { root?: string }) => (await import('./setup.ts')).removeSigner(name, options))

// Directories must let the apps' users through and objects be readable to them, whatever the caller's umask.
process.umask(0o022)

// No await at the top: the bundle is CommonJS, which has none.
void program.parseAsync().then(
  () => {
    process.exitCode = 0
  },
  (error: unknown) => {
    // A start that failed may have init's bus or one of two ports open, and would live on doing nothing.
    process.exit(exitCodeOf(error))
  },
)

function exitCodeOf(error: unknown): number {
  // commander has printed its own message; help and version are no failures.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
  const failure = asFailure('tarmac-agent', error, '/')
  if (failure !== undefined) {
    printFailure(failure)
    return failure.exit
  }
  print.error(`a bug in tarmac-agent: ${error instanceof Error ? error.stack : reasonOf(error)}`)
  return 1
}
