import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { writeResult } from './results.ts'

// From init's giving up to the older release serving, under real systemd: what the system test boots, plays and tells.

const TEST = join(import.meta.dirname, '..', 'test', 'system', 'crash-loop.test.ts')
/** Of what the file plays, the part that tells. */
const PART = 'one that dies for good is left'
const ROUNDS = 3
const TOLD = /(restart|slots): it served again (\d+) ms after init gave up/g

export async function crashLoop(): Promise<void> {
  const served: { switch: string; ms: number }[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const text = await told()
    const found = [...text.matchAll(TOLD)].map(([, mode = '', ms]) => ({ switch: mode, ms: Number(ms) }))
    if (found.length === 0) throw new Error(`crash-loop: nothing was measured: ${text.slice(-2_000)}`)
    for (const one of found) console.log(`${one.switch}: served again ${one.ms} ms after init gave up`)
    served.push(...found)
  }
  console.log(`all of it: ${await writeResult('crash-loop', { served })}`)
}

function told(): Promise<string> {
  const child = spawn(process.execPath, ['--test', '--test-name-pattern', PART, TEST], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
  })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', () => resolve(text))
  })
}
