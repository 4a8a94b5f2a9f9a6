import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { expressApp } from './helpers/express-app.ts'

test('the fixture app answers with its version and release, and stops when asked', async (t) => {
  const dir = await expressApp(t)
  await writeFile(join(dir, 'VERSION'), 'two\n')
  const files = (await readdir(dir, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile())
  assert.ok(files.length > 2000 && files.length < 4000, `${files.length} files`)

  const app = spawn(process.execPath, ['server.js'], { cwd: dir, env: { PORT: '0', TARMAC_RELEASE: 'r1' } })
  t.after(() => app.kill('SIGKILL'))
  const [said] = await once(app.stdout, 'data')
  const port = /listens on (\d+)/.exec(String(said))?.[1]
  const answer = await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } })
  assert.equal(await answer.text(), 'Shop two r1\n')
  assert.equal((await fetch(`http://127.0.0.1:${port}/health`, { headers: { connection: 'close' } })).status, 200)
  app.kill('SIGTERM')
  assert.deepEqual(await once(app, 'exit'), [0, null])
})
