import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { removeBigTree, removeTree } from '../../agent/state/remove.ts'

function tree(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), 'tarmac-remove-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  for (const path of ['tree/a/b', 'tree/c', 'mine']) mkdirSync(join(dir, path), { recursive: true })
  for (const path of ['tree/a/b/file', 'tree/c/file', 'mine/file']) writeFileSync(join(dir, path), path)
  return dir
}

for (const remove of [removeTree, removeBigTree]) {
  test(`${remove.name}: all of a tree goes, and what is not there is fine`, async (t) => {
    const dir = tree(t)
    await remove(join(dir, 'tree'))
    assert.deepEqual([existsSync(join(dir, 'tree')), existsSync(join(dir, 'mine/file'))], [false, true])
    await remove(join(dir, 'tree'))
  })

  test(`${remove.name}: what somebody mounted in a tree stays, and is told`, {
    skip: process.getuid?.() === 0 ? false : 'to mount takes root',
  }, async (t) => {
    const dir = tree(t)
    for (const mount of [
      ['-t', 'tmpfs', 'tmpfs'],
      ['--bind', join(dir, 'mine')],
    ]) {
      const at = join(dir, 'tree/with a space')
      mkdirSync(join(dir, 'tree/c'), { recursive: true })
      writeFileSync(join(dir, 'tree/c/file'), 'goes')
      mkdirSync(at)
      execFileSync('mount', [...mount, at])
      try {
        writeFileSync(join(at, 'theirs'), 'kept')
        await assert.rejects(remove(join(dir, 'tree')), { code: 'EBUSY', path: at })
        assert.deepEqual([existsSync(join(at, 'theirs')), existsSync(join(dir, 'tree/c/file'))], [true, false])
      } finally {
        execFileSync('umount', [at])
      }
      await remove(join(dir, 'tree'))
      assert.deepEqual([existsSync(join(dir, 'tree')), existsSync(join(dir, 'mine/file'))], [false, true])
    }
  })
}
