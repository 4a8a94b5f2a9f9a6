import assert from 'node:assert/strict'
import { test } from 'node:test'
import { reserveSize } from '../../agent/state/reserve.ts'

test('the reserve is 16 MiB in 64 files, and a thirty-second of a small disk', () => {
  const size = (gigabytes: number, inodes: number) =>
    reserveSize({ bsize: 4096, blocks: (gigabytes * 1024 ** 3) / 4096, files: inodes })
  assert.deepEqual(size(100, 6_000_000), { files: 64, fileBytes: 256 * 1024 })
  assert.deepEqual(size(0.25, 65_536), { files: 64, fileBytes: 128 * 1024 })
  assert.deepEqual(size(0.25, 320), { files: 10, fileBytes: 204 * 4096 }, 'few inodes: fewer and bigger ones')
  assert.deepEqual(size(100, 0), { files: 64, fileBytes: 256 * 1024 }, 'a file system that counts no inodes')
  assert.deepEqual(size(1 / 1024, 16), { files: 1, fileBytes: 8 * 4096 })
})
