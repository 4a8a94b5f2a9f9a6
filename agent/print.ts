import type { Failure } from '../shared/failure.ts'
import { printable } from '../shared/printable.ts'

// What the agent's commands say to the admin: results on stdout, the rest on stderr.
export const print = {
  line: (text: string) => void process.stdout.write(`${printable(text)}\n`),
  note: (text: string) => void process.stderr.write(`${printable(text)}\n`),
  error: (text: string) => void process.stderr.write(`error: ${printable(text)}\n`),
}

export function printFailure(failure: Failure): void {
  print.error(failure.message)
  if (failure.hint !== undefined) print.note(`hint: ${failure.hint}`)
}
