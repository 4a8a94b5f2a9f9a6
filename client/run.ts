import { spawn } from 'node:child_process'
import { Failure } from '../shared/failure.ts'

// The only file of the client that starts programs: the user's own, in the user's own environment.

export interface Ran {
  exit: number | null
  stdout: string
  stderr: string
}

/**
 * Runs a program to its end with `input` on its stdin; `signal` ends it and rejects, and nobody waits for what it may
 * have started itself. Lines of stderr that match `show` are passed on as they come.
 */
export function runProgram(
  argv: string[],
  options: {
    env: NodeJS.ProcessEnv
    cwd?: string
    input?: string | Uint8Array
    signal?: AbortSignal | undefined
    show?: (text: string) => void
  },
): Promise<Ran> {
  const [program = '', ...args] = argv
  return new Promise((resolve, reject) => {
    const { env, cwd, signal } = options
    signal?.throwIfAborted()
    const child = spawn(program, args, { env, cwd, signal, killSignal: 'SIGKILL', stdio: ['pipe', 'pipe', 'pipe'] })
    signal?.addEventListener('abort', () => {
      for (const stream of child.stdio) stream?.destroy()
      child.unref()
    })
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text
      options.show?.(text)
    })
    child.on('error', (cause) => reject(new Failure('program_failed', `run ${program}: ${cause.message}`, { cause })))
    child.on('close', (exit) => resolve({ exit, stdout, stderr }))
    // A program that ends without reading gives EPIPE here; its exit says what there is to say.
    child.stdin.on('error', () => {})
    child.stdin.end(options.input ?? '')
  })
}

/** Runs the project's own build command by a shell; what it says goes to our stderr, since stdout is for results. */
export function runBuild(
  command: string,
  options: { env: NodeJS.ProcessEnv; cwd: string; quiet: boolean },
): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn('/bin/sh', ['-c', command], {
      env: options.env,
      cwd: options.cwd,
      stdio: ['ignore', options.quiet ? 'ignore' : 2, 2],
    })
    child.on('error', (cause) => reject(new Failure('build_failed', `build: ${cause.message}`, { cause })))
    child.on('close', (exit, signal) => {
      if (exit === 0) return resolve()
      reject(
        new Failure(
          'build_failed',
          `build ${JSON.stringify(command)}: ${signal === null ? `exited ${exit}` : `was ended by ${signal}`}`,
          { hint: 'nothing was sent' },
        ),
      )
    })
  })
}
