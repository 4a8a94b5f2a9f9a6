import type { Ora } from 'ora'
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
  // A terminal of no width, as `script` makes one, takes ora for ever.
  if (!print.isInteractive || !process.stderr.columns) return { say: () => {}, end: () => {} }
  let said = text
  let isOver = false
  let spinner: Ora | undefined
  // Loaded at a terminal alone: it takes 50 ms.
  void import('ora').then(({ default: ora }) => {
    // A path or a file name may be in it, and ora writes it as it is.
    if (!isOver) spinner = ora({ text: printableLine(said), stream: process.stderr, discardStdin: false }).start()
  })
  return {
    say: (now) => {
      said = now
      if (spinner) spinner.text = printableLine(now)
    },
    end: () => {
      isOver = true
      spinner?.stop()
    },
  }
}
