import ora from 'ora'
import { printableLine } from '../shared/printable.ts'
import type { Print } from './print.ts'

export interface Progress {
  /** What goes on now; replaces what was said before. */
  say(text: string): void
  /** Leaves nothing behind. */
  end(): void
}

/** One moving line at a terminal; nothing where nobody watches: CI logs get the steps, not every percent. */
export function startProgress(print: Print, text: string): Progress {
  if (!print.isInteractive) return { say: () => {}, end: () => {} }
  // A path or a file name may be in it, and ora writes it as it is.
  const spinner = ora({ text: printableLine(text), stream: process.stderr, discardStdin: false }).start()
  return {
    say: (now) => {
      spinner.text = printableLine(now)
    },
    end: () => void spinner.stop(),
  }
}
