import type { Command } from 'commander'
import type { Run } from '../context.ts'

/** `env list`, `env set` and `env unset`. What they do is loaded when one of them is typed. */
export function addEnv(program: Command, run: Run): void {
  const env = program
    .command('env')
    .description("the app's environment: a new revision at each change, applied by a switch")
  env
    .command('list')
    .description('what is set; of each value its length and a digest')
    .action(() => run(async (context) => (await import('./env.ts')).envList(context)))
  env
    .command('set')
    .description('set variables; the app is switched to them, and goes back if it is not healthy with them')
    .argument('[variables...]', 'NAME=VALUE, or NAME with the value on stdin')
    .option('--file <file>', 'NAME=value lines, as of .env')
    .addHelpText(
      'after',
      `
A VALUE in the command shows in lists of processes and in the shell's history. A secret is better read from stdin, less
one newline at its end, or typed at a prompt that does not show it:
  tarmac env set SESSION_KEY < key.txt`,
    )
    .action((given: string[], options: { file?: string }) =>
      run(async (context) => (await import('./env.ts')).envSet(context, given, options)),
    )
  env
    .command('unset')
    .description('remove variables')
    .argument('<names...>')
    .action((names: string[]) => run(async (context) => (await import('./env.ts')).envUnset(context, names)))
}
