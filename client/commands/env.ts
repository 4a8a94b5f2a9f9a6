import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { parseEnv } from 'node:util'
import { Failure, reasonOf } from '../../shared/failure.ts'
import type { AppName } from '../../shared/names.ts'
import { MAX_STRING_BYTES, parseVariableChange, type VariableChange } from '../../shared/variables.ts'
import type { Line } from '../../shared/wire.ts'
import * as api from '../api.ts'
import { appOf, type Context, needProjectOrHost, openSigning, targetHosts } from '../context.ts'
import { followChange, type Outcome } from '../follow.ts'
import { askApp, changeHosts, exitOf } from '../hosts.ts'
import { cell } from '../print.ts'
import { askSecret } from '../prompt.ts'
import { summarise } from '../summary.ts'

const MASK = '••••'
const WAYS = 'tarmac env set NAME=VALUE, or NAME with its value on stdin, or --file .env'

/** Names, and of each value its length and a digest: the agent gives no value back. */
export async function envList(context: Context): Promise<number> {
  const { print } = context
  const { app, answers } = await askApp(context, (connection, app) => api.env(connection, app))
  if (print.json) {
    print.value({ hosts: answers.map(({ host, answer }) => ({ name: host.name, ...answer })) })
    return 0
  }
  const rows = answers.flatMap(({ host, answer }) =>
    answer.variables.map(({ name, bytes, digest }) => [host.name, cell(name), MASK, String(bytes), cell(digest)]),
  )
  if (rows.length > 0) await print.table(['host', 'name', 'value', 'bytes', 'digest'], rows)
  for (const { host, answer } of answers) {
    const { revision, newest, at, by, variables } = answer
    const what = variables.length === 0 ? `${app} has no variables` : `revision ${revision} of ${app}`
    const whose = at === null ? '' : `, by ${cell(by)} at ${cell(at)}`
    const next = newest === revision ? '' : `; a push takes revision ${newest}`
    print.note(`${host.name}: ${what}${whose}${next}`)
  }
  return 0
}

export async function envSet(context: Context, given: string[], { file }: { file?: string }): Promise<number> {
  const values = new Map<string, string>(file === undefined ? [] : readVariables(resolve(context.cwd, file)))
  const bare = given.filter((argument) => !argument.includes('='))
  if (bare.length > 1) {
    throw new Failure('usage', `env set: ${bare.length} names without a value; stdin can give one`, { hint: WAYS })
  }
  for (const argument of given) {
    const at = argument.indexOf('=')
    if (at >= 0) values.set(argument.slice(0, at), argument.slice(at + 1))
    else values.set(argument, '')
  }
  if (values.size === 0) throw new Failure('usage', 'env set: which variable?', { hint: WAYS })
  const changeOf = () => parseVariableChange({ set: [...values].map(([name, value]) => ({ name, value })), unset: [] })
  // The names first: nobody is to type a secret for one that is refused.
  changeOf()
  for (const name of bare) values.set(name, await readValue(context, name))
  return changeEnv(context, changeOf())
}

export async function envUnset(context: Context, names: string[]): Promise<number> {
  return changeEnv(context, parseVariableChange({ set: [], unset: [...new Set(names)] }))
}

async function changeEnv(context: Context, change: VariableChange): Promise<number> {
  const project = needProjectOrHost(context)
  const app = appOf(context, project)
  const hosts = targetHosts(context, project, 'change')
  const signing = await openSigning(context)
  const names = [...change.set.map(({ name }) => name), ...change.unset].join(', ')
  const outcomes = await changeHosts(context, { hosts, signing }, async (connection) => {
    const { host } = connection
    context.print.note(`env of ${app} on ${host.name}: ${change.set.length > 0 ? 'set' : 'unset'} ${names}`)
    const told: Told = {}
    const lines = noting(api.changeEnv(connection, app, change), told)
    return { ...(await followChange(context, { host, app, signing }, lines)), ...told }
  })
  summarise(context.print, outcomes, (outcome) => doneWords(app, outcome))
  return exitOf(outcomes)
}

type Told = Pick<Partial<Outcome>, 'revision' | 'code'>

/** The same lines, and what of them only a change of the environment has. */
async function* noting(lines: AsyncIterable<Line>, told: Told): AsyncGenerator<Line> {
  for await (const line of lines) {
    if ('revision' in line && line.revision !== undefined) told.revision = line.revision
    if (line.step === 'done' && line.unchanged) told.code = 'unchanged'
    yield line
  }
}

function doneWords(app: AppName, { release, revision, code }: Outcome): string {
  if (code === 'unchanged') return `the env of ${app} is so already: nothing was changed`
  const what = revision === undefined ? 'the new env' : `revision ${revision} of the env`
  return release === null ? `${what} of ${app} waits for its first push` : `${app} has ${what}, release ${release}`
}

/** As Node's --env-file reads it. */
function readVariables(file: string): [string, string][] {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (cause) {
    throw new Failure('usage', `read ${file}: ${reasonOf(cause)}`, { cause })
  }
  const variables = Object.entries(parseEnv(text)).map(([name, value]): [string, string] => [name, value ?? ''])
  if (variables.length > 0) return variables
  throw new Failure('usage', `read ${file}: there is no NAME=value in it`)
}

/** From stdin, so that it stands in no list of processes and no shell's history; asked for at a terminal. */
async function readValue({ options, surroundings }: Context, name: string): Promise<string> {
  const { stdin } = process
  if (stdin.isTTY === true) {
    if (options.yes || options.json || surroundings.isCi) {
      throw new Failure('usage', `env set ${name}: its value is expected on stdin, and that is a terminal`, {
        hint: `tarmac env set ${name} < FILE`,
      })
    }
    return askSecret(`The value of ${name}`)
  }
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of stdin as AsyncIterable<Buffer>) {
    chunks.push(chunk)
    bytes += chunk.length
    if (bytes > MAX_STRING_BYTES) throw new Failure('usage', `env set ${name}: more than ${MAX_STRING_BYTES} bytes`)
  }
  const value = textOf(Buffer.concat(chunks), name).replace(/\r?\n$/, '')
  if (value !== '') return value
  // Most often a variable of CI that was not there, or a program that failed.
  throw new Failure('usage', `env set ${name}: nothing came on stdin`, {
    hint: `to set it empty: tarmac env set ${name}=`,
  })
}

function textOf(bytes: Buffer, name: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch (cause) {
    throw new Failure('usage', `env set ${name}: what came on stdin is no UTF-8 text`, { cause })
  }
}
