import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { writeResult } from './results.ts'

// From init's giving up to the older release serving, under real systemd: what the system test boots, plays and tells.

const TEST = join(import.meta.dirname, '..', 'test', 'system', 'crash-loop.test.ts')
const TOLD = /(restart|slots): it served again (\d+) ms after init gave up/g

export async function crashLoop(): Promise<void> {
  const text = await told()
  const served = [...text.matchAll(TOLD)].map(([, mode = '', ms]) => ({ switch: mode, ms: Number(ms) }))
  if (served.length === 0) throw new Error(`crash-loop: nothing was measured: ${text.slice(-2_000)}`)
  for (const one of served) console.log(`${one.switch}: served again ${one.ms} ms after init gave up`)
  console.log(`all of it: ${await writeResult('crash-loop', { served })}`)
}

function told(): Promise<string> {
  const child = spawn(process.execPath, ['--test', TEST], { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
  })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', () => resolve(text))
  })
}
