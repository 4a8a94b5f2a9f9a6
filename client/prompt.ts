import { Failure } from '../shared/failure.ts'

// Questions to the person at the terminal. They go to stderr: stdout is for results.

/** Throws `cancelled` on Ctrl-C. */
export async function askText(question: { message: string; initial: string }): Promise<string> {
  const { text, isCancel } = await import('@clack/prompts')
  const answer = await text({ message: question.message, initialValue: question.initial, output: process.stderr })
  if (isCancel(answer)) throw new Failure('cancelled', 'cancelled: nothing was changed')
  return answer
}

/** What is typed is not shown. Throws `cancelled` on Ctrl-C. */
export async function askSecret(message: string): Promise<string> {
  const { password, isCancel } = await import('@clack/prompts')
  const answer = await password({ message, output: process.stderr })
  if (isCancel(answer)) throw new Failure('cancelled', 'cancelled: nothing was changed')
  return answer
}

/** Throws `cancelled` on Ctrl-C. No is the default: a yes must be meant. */
export async function askConfirm(message: string): Promise<boolean> {
  const { confirm, isCancel } = await import('@clack/prompts')
  const answer = await confirm({ message, initialValue: false, output: process.stderr })
  if (isCancel(answer)) throw new Failure('cancelled', 'cancelled: nothing was changed')
  return answer
}
