import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { tempDir } from './helpers/ssh.ts'
import { builtPrograms } from './helpers/world.ts'

const checkout = join(import.meta.dirname, '..')

test('the bench measures each case it can without a network of its own', async (t) => {
  const out = join(tempDir(t), 'result.json')
  const { client } = await builtPrograms(t)
  const argv = ['--tree', 'tiny', '--peer', 'tarmac', '--link', 'local', '--rounds', '1', '--out', out]
  const argvOfPrograms = ['--programs', join(client, '..')]
  await promisify(execFile)(process.execPath, [join(checkout, 'bench/main.ts'), ...argv, ...argvOfPrograms])
  const { rows } = JSON.parse(readFileSync(out, 'utf8'))
  const cases = rows.map((row: { case: string }) => row.case)
  assert.deepEqual(cases, ['first', 'nothing', 'push-5', 'rollback', 'status'])
  for (const row of rows) assert.ok(row.peers.tarmac.ms > 0, row.case)
})
