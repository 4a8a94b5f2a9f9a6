import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { parseProject } from '../../client/project.ts'
import type { ServiceName } from '../../shared/names.ts'

const checkout = join(import.meta.dirname, '../..')
const read = (path: string) => readFileSync(join(checkout, path), 'utf8')
const blocks = [...read('README.md').matchAll(/^```toml\n(.*?)^```$/gms)].map(([, text]) => text ?? '')
const parse = (text: string) => parseProject(text, { name: 'README.md', dir: '/' })
const WEB = 'web' as ServiceName

test('every tarmac.toml in README.md is one', () => {
  assert.equal(blocks.length, 2)
  for (const block of blocks) assert.equal(parse(block).app, 'shop')
})

test('README.md names every key of tarmac.toml, and the defaults that are in force', () => {
  const reference = blocks.find((block) => block.includes('[restart]')) ?? ''
  const keys = (schema: unknown): string[] => {
    if (typeof schema !== 'object' || schema === null) return []
    const own = 'properties' in schema ? Object.keys(schema.properties as object) : []
    return [...own, ...Object.values(schema).flatMap(keys)]
  }
  const all = new Set(keys(JSON.parse(read('docs/tarmac.schema.json'))))
  // A host as an object is for tools; a version is for those who number theirs.
  for (const rare of ['url', 'pin', 'version']) all.delete(rare)
  for (const key of all) assert.match(reference, new RegExp(`(^|[[.])${key}(\\.|\\]| = )`, 'm'), key)

  const said = parse(reference).head
  const inForce = parse('app = "shop"\n[services.web]\ncommand = "x"\nport = 3000\n').head
  const { intervalMs, timeoutMs, settleMs } = said.services[WEB]?.health ?? {}
  assert.deepEqual({ intervalMs, timeoutMs, settleMs }, inForce.services[WEB]?.health)
  assert.deepEqual(said.services[WEB]?.restart, inForce.services[WEB]?.restart)
  assert.deepEqual(said.services[WEB]?.stopTimeoutMs, inForce.services[WEB]?.stopTimeoutMs)
  assert.deepEqual(said.keep, inForce.keep)
})
