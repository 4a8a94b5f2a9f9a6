import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { schemaText } from '../../docs/make-schema.ts'

test('the published JSON schema of tarmac.toml is the one the client checks by', () => {
  const published = readFileSync(join(import.meta.dirname, '../../docs/tarmac.schema.json'), 'utf8')
  assert.deepEqual(JSON.parse(published), JSON.parse(schemaText()), 'write it anew: npm run schema')
})
