import { execFile, spawn } from 'node:child_process'
import type { Readable } from 'node:stream'
import { Failure, reasonOf } from '../shared/failure.ts'

// The only file of the agent that starts programs: argv arrays, never a shell; a deadline; and what the program said
// when it failed. Programs get a small environment of our own, so nothing of the agent's leaks into them and their
// messages are in English.

/** `systemctl show` of a hundred units is 1 MB; beyond this a program has gone mad. */
const MAX_OUTPUT_BYTES = 16 * 1024 * 1024
/** journald cuts lines at 48 KiB and JSON writes such a line as a list of numbers; LineMax= can be raised. */
const MAX_LINE_CHARS = 4 * 1024 * 1024
/** The reason stands in the last lines; more would hide it. */
const REASON_LINES = 5
const REASON_CHARS = 1000
const STDERR_KEPT_CHARS = 64 * 1024

const PROGRAM_ENV = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  LC_ALL: 'C',
  SYSTEMD_COLORS: '0',
  SYSTEMD_PAGER: '',
}

export interface RunOptions {
  /** SIGKILL and a failure when it is over. */
  timeoutMs: number
  /** Written to its stdin, which is empty otherwise. */
  input?: string
  /** Exit codes that are answers, not failures; 0 alone when not given. */
  okExits?: number[]
}

export interface Ran {
  stdout: string
  stderr: string
  exit: number
}

/**
 * Runs a program to its end. Throws `program_failed` with the command, the exit and the last lines it said.
 * `argv` stands in messages: no secrets in it.
 */
export function run(argv: string[], { timeoutMs, input = '', okExits = [0] }: RunOptions): Promise<Ran> {
  const [program = '', ...args] = argv
  const options = {
    env: PROGRAM_ENV,
    timeout: timeoutMs,
    killSignal: 'SIGKILL',
    maxBuffer: MAX_OUTPUT_BYTES,
    encoding: 'utf8',
  } as const
  return new Promise((resolve, reject) => {
    const child = execFile(program, args, options, (error, stdout, stderr) => {
      const exit = error === null ? 0 : error.code
      if (typeof exit === 'number' && okExits.includes(exit)) return resolve({ stdout, stderr, exit })
      let how = `exited ${exit}`
      if (typeof exit === 'string') how = `did not run (${exit})`
      else if (error?.killed) how = `took longer than ${timeoutMs} ms`
      else if (error?.signal) how = `was ended by ${error.signal}`
      reject(programFailed(argv, how, { said: stderr.trim() === '' ? stdout : stderr, cause: error }))
    })
    // A program that ends without reading gives EPIPE here; its exit says what there is to say.
    child.stdin?.on('error', () => {})
    child.stdin?.end(input)
  })
}

export interface ServiceProgram {
  argv: string[]
  cwd: string
  /** The whole environment: nothing of the agent's is added. */
  env: Record<string, string>
  /** Undefined: the agent's own. With a uid the agent's supplementary groups are dropped. */
  uid: number | undefined
  gid: number | undefined
  /** The descriptor that becomes stdout and stderr; the caller closes its own. */
  output: number
  /** Descriptors that it finds from 3 on, in this order. */
  inherit?: number[]
}

export interface ServiceProcess {
  pid: number
  exit: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
}

/**
 * Starts a program that is to run for long, in a session and process group of its own (`-pid` is the group), and
 * returns when it was executed. A relative program is found in `cwd`, a bare name by the PATH of `env`.
 * Throws `program_failed` naming the program when it could not be executed.
 */
export function spawnService({
  argv,
  cwd,
  env,
  uid,
  gid,
  output,
  inherit = [],
}: ServiceProgram): Promise<ServiceProcess> {
  const [program = '', ...args] = argv
  const account = { ...(uid === undefined ? {} : { uid }), ...(gid === undefined ? {} : { gid }) }
  const failed = (cause: unknown) => programFailed([program], `did not run in ${cwd}`, { said: reasonOf(cause), cause })
  return new Promise((resolve, reject) => {
    try {
      const child = spawn(program, args, {
        cwd,
        env,
        ...account,
        detached: true,
        stdio: ['ignore', output, output, ...inherit],
      })
      const exit = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((ended) => {
        child.once('exit', (code, signal) => ended({ code, signal }))
      })
      child.once('error', (error) => reject(failed(error)))
      child.once('spawn', () => resolve({ pid: child.pid ?? 0, exit }))
    } catch (error) {
      // Node throws some of what execve(2) says (E2BIG, EPERM) and emits the rest.
      reject(failed(error))
    }
  })
}

/** A bare Node is there in 40 ms; on a swapping host in a second or two. */
const LISTEN_TIMEOUT_MS = 20_000
/** What net.core.somaxconn cuts to the machine's limit; servers set it anew when they listen themselves. */
const LISTEN_BACKLOG = 511

/**
 * listen(2) on a bound socket without ever accepting from it, which libuv can only do together: another process, to
 * which the socket belongs too, listens and ends before its event loop turns once.
 */
export function listenOn(fd: number): Promise<void> {
  const script = `process.exit(-require('node:net')._createServerHandle(null,null,null,3).listen(${LISTEN_BACKLOG}))`
  const argv = [process.execPath, '-e', script]
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, argv.slice(1), {
      env: PROGRAM_ENV,
      stdio: ['ignore', 'ignore', 'ignore', fd],
      timeout: LISTEN_TIMEOUT_MS,
      killSignal: 'SIGKILL',
    })
    child.once('error', (cause) => reject(programFailed(argv, 'did not run', { said: reasonOf(cause), cause })))
    child.once('exit', (code) => (code === 0 ? resolve() : reject(programFailed(argv, `exited ${code}`, { said: '' }))))
  })
}

/**
 * The lines of a program that may run on for ever. Ends when the program does or the signal aborts; the program is
 * killed when the reader stops reading. Throws `program_failed` when it fails by itself.
 */
export async function* runLines(argv: string[], signal: AbortSignal): AsyncIterable<string> {
  if (signal.aborted) return
  const [program = '', ...args] = argv
  const child = spawn(program, args, { env: PROGRAM_ENV, stdio: ['ignore', 'pipe', 'pipe'] })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-STDERR_KEPT_CHARS)
  })
  const ended = new Promise<string>((resolve) => {
    child.on('error', (error) => resolve(`did not run (${error.message})`))
    child.on('close', (code, killedBy) => resolve(killedBy === null ? `exited ${code}` : `was ended by ${killedBy}`))
  })
  const kill = () => child.kill('SIGKILL')
  signal.addEventListener('abort', kill, { once: true })
  try {
    for await (const line of splitLines(child.stdout, argv)) {
      if (signal.aborted) return
      yield line
    }
    const how = await ended
    if (how !== 'exited 0' && !signal.aborted) throw programFailed(argv, how, { said })
  } finally {
    signal.removeEventListener('abort', kill)
    kill()
  }
}

// node:readline is no choice: it also splits at U+2028, which JSON text holds unescaped.
async function* splitLines(stream: Readable, argv: string[]): AsyncIterable<string> {
  stream.setEncoding('utf8')
  let rest = ''
  for await (const chunk of stream) {
    const lines = `${rest}${chunk}`.split('\n')
    rest = lines.pop() ?? ''
    yield* lines
    if (rest.length > MAX_LINE_CHARS) {
      throw programFailed(argv, `wrote a line of more than ${MAX_LINE_CHARS} characters`, { said: '' })
    }
  }
  if (rest !== '') yield rest
}

function programFailed(argv: string[], how: string, { said, cause }: { said: string; cause?: unknown }): Failure {
  const reason = said.trim().split('\n').slice(-REASON_LINES).join('\n').slice(-REASON_CHARS)
  return new Failure('program_failed', `${argv.join(' ')} ${how}${reason === '' ? '' : `: ${reason}`}`, { cause })
}
