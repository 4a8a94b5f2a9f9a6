import assert from 'node:assert/strict'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { layoutAt } from '../../agent/state/layout.ts'
import { straysUnder } from '../../agent/state/strays.ts'
import { tempDir } from '../helpers/ssh.ts'

test('what the agent puts under its root is none of the strays, and all else is, but for what shared/ holds', (t) => {
  const root = tempDir(t)
  const layout = layoutAt(root, join(root, 'etc'))
  const ids = ['20261122T233851Z-0000000a', '20261122T233852Z-0000000b'] as const
  const own = [
    ...['etc/agent.toml', 'tls/key.pem', 'lib/listen-preload.cjs', 'embedded/agent.json', 'lost+found/x'],
    ...['ledger.db', 'ledger.db-wal', 'ledger.db-shm', 'ledger.head', '.ledger.head.tmp'],
    ...['ledger.db.damaged-20261122T233851Z', 'ledger.db.damaged-20261122T233851Z-2-wal'],
    ...['apps/shop/objects/ab/cd', 'apps/shop/staging/x.part', 'apps/shop/env/1', 'apps/shop/shared/any/thing'],
    `apps/shop/releases/${ids[0]}/release.json`,
  ]
  const strays = [
    ...['backup.tar', 'ledger.db.bak', 'ledger.db-wal2', 'apps/Shop_old/x', 'apps/note', 'apps/shop/notes.txt'],
    ...['apps/shop/releases/old/release.json', `apps/shop/releases/${ids[1]}/tree`],
  ]
  for (const path of [...own, ...strays]) {
    mkdirSync(join(root, path, '..'), { recursive: true })
    writeFileSync(join(root, path), '')
  }
  const found = ['backup.tar', 'ledger.db.bak', 'ledger.db-wal2', 'apps/Shop_old', 'apps/note', 'apps/shop/notes.txt']
  const releases = ['old', ids[1]].map((name) => `apps/shop/releases/${name}`)
  assert.deepEqual(straysUnder(layout), [...found, ...releases].map((path) => join(root, path)).sort())
})

test('under a root that is not there yet nothing is found', (t) => {
  assert.deepEqual(straysUnder(layoutAt(join(tempDir(t), 'none'), '/none')), [])
})
