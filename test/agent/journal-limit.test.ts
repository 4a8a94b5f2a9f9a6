import assert from 'node:assert/strict'
import { test } from 'node:test'
import { limitOf } from '../../agent/init/journal-limit.ts'

// Text as `systemd-analyze cat-config` prints it: every file, one after the other.

const of = (text: string, isPersistent = true) =>
  limitOf(`# /etc/systemd/journald.conf\n[Journal]\n${text}`, { isPersistent })

test('with nothing but comments journald keeps to its defaults, and that is well', () => {
  const { state, what, hint } = of('#SystemMaxUse=\n;Storage=none\n#RateLimitBurst=0\n')
  assert.deepEqual([state, hint], ['ok', null])
  assert.match(what, /a tenth of its file system and 4 GB/)
})

test('a limit that was set is told, the one of the last drop-in, and an empty one takes it back', () => {
  assert.equal(of('SystemMaxUse=100M').what, 'journald keeps 100M')
  assert.equal(of(' SystemMaxUse = 1G \n# /run/…/a.conf\n[Journal]\nSystemMaxUse=2G').what, 'journald keeps 2G')
  assert.match(of('SystemMaxUse=1G\nSystemMaxUse=').what, /its default/)
  assert.match(of('RuntimeMaxUse=64M').what, /its default/, 'that is the one of /run')
})

test('output that is kept nowhere is bad; kept in memory, or without a rate limit, somebody should know', () => {
  assert.equal(of('Storage=none').state, 'bad')
  for (const text of ['Storage=volatile', 'Storage=volatile\nSystemMaxUse=1G']) {
    assert.deepEqual([of(text).state, /in memory/.test(of(text).what)], ['warn', true])
  }
  assert.equal(of('', false).state, 'warn', 'there is no /var/log/journal')
  assert.match(of('RuntimeMaxUse=64M', false).what, /^journald keeps 64M, in memory/)
  assert.equal(of('Storage=persistent', false).state, 'ok')
  for (const text of ['RateLimitBurst=0', 'RateLimitIntervalSec=0s']) assert.equal(of(text).state, 'warn')
  assert.equal(of('RateLimitBurst=10000\nRateLimitIntervalSec=30s').state, 'ok')
})
