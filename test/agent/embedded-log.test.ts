import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { MAX_LINE_BYTES, MAX_LOG_BYTES } from '../../agent/init/embedded-log.ts'
import type { InitSystem } from '../../agent/init/init-system.ts'
import { embeddedIn, freshRoot, key, pidsIn, testWithoutRoot, unitIn } from '../helpers/embedded-trial.ts'
import { eventually, firstRelease } from '../helpers/init-trial.ts'

describe('embedded: what services say', () => {
  test('a line of 100 MB without an end costs neither memory nor the disk', { timeout: 60_000 }, async (t) => {
    const root = await freshRoot(t)
    const init = await embeddedIn(t, root)
    await init.install(
      await unitIn(
        root,
        'head -c 100000000 /dev/zero | tr "\\0" x; echo; echo the end; echo $$ > "$OUT/pids"; exec sleep 1000',
      ),
    )
    const before = process.memoryUsage().rss
    await init.start(key)
    await pidsIn(root, 1)
    const last = await eventually('the last line', async () => {
      const lines = await messagesOf(init, 3)
      return lines.at(-1) === 'the end' ? lines : undefined
    })
    // Garbage of what passed through is some 45 MB; a line that was held would be all of it, and its copies.
    const grown = process.memoryUsage().rss - before
    assert.ok(grown < 90_000_000, `${grown} bytes`)
    assert.equal(last[0]?.length, MAX_LINE_BYTES)
    assert.ok((await bytesOfLogs(root)) <= MAX_LOG_BYTES)
  })

  test('a follower sees each line once and in order while the log is rotated under it', {
    timeout: 60_000,
  }, async (t) => {
    const root = await freshRoot(t)
    const init = await embeddedIn(t, root)
    const count = 150_000
    const wide = 'x'.repeat(60)
    await init.install(
      await unitIn(root, `i=0; while [ $i -lt ${count} ]; do i=$((i+1)); echo "$i ${wide}"; done; exec sleep 1000`),
    )
    const enough = new AbortController()
    const following = (async () => {
      let seen = 0
      for await (const { message } of init.logs({ app: key.app, lines: 10, follow: true }, enough.signal)) {
        seen++
        if (message !== `${seen} ${wide}`) return assert.fail(`line ${seen} is ${message}`)
        if (seen === count) enough.abort()
      }
      return seen
    })()
    await init.start(key)
    assert.equal(await following, count)
    assert.ok(count * (wide.length + 30) > MAX_LOG_BYTES, 'enough to rotate twice')
    assert.ok((await bytesOfLogs(root)) <= MAX_LOG_BYTES)
    const newest = await messagesOf(init, 50_000)
    assert.equal(newest.length, 50_000, 'lines of the older half are there too')
    assert.equal(newest[0], `${count - 49_999} ${wide}`)
  })

  test('bytes that are no text, blank lines and a last line without an end are kept as lines', async (t) => {
    const root = await freshRoot(t)
    const init = await embeddedIn(t, root)
    await init.install(
      await unitIn(root, 'printf "\\377\\000\\n\\n\\r\\nno end"; [ -e "$OUT/x" ] && exec sleep 1000; touch "$OUT/x"'),
    )
    await init.start(key)
    const lines = await eventually('both starts', async () => {
      const all = await messagesOf(init, 100)
      return all.length >= 3 ? all : undefined
    })
    assert.deepEqual(lines.slice(0, 3), ['\ufffd\0', 'no end', '\ufffd\0'])
  })

  test('a forgotten release has no logs, and one that runs is logged on', async (t) => {
    const root = await freshRoot(t)
    const init = await embeddedIn(t, root)
    await init.install(await unitIn(root, 'echo hello; exec sleep 1000'))
    await init.start(key)
    await eventually('a line', async () => ((await messagesOf(init, 9)).length === 1 ? true : undefined))
    await init.stop(key)
    await init.forgetRelease(key.app, firstRelease)
    assert.deepEqual(await messagesOf(init, 9), [])
    assert.deepEqual(await readdir(join(root, 'embedded', 'logs', key.app)), [])
    await init.start(key)
    await eventually('a line', async () => ((await messagesOf(init, 9)).length === 1 ? true : undefined))
  })
})

testWithoutRoot(import.meta.url)

async function messagesOf(init: InitSystem, lines: number): Promise<string[]> {
  const messages: string[] = []
  for await (const line of init.logs({ app: key.app, lines }, AbortSignal.timeout(10_000))) messages.push(line.message)
  return messages
}

async function bytesOfLogs(root: string): Promise<number> {
  const dir = join(root, 'embedded', 'logs', key.app, firstRelease)
  const files = await Promise.all((await readdir(dir)).map((name) => readFile(join(dir, name))))
  return files.reduce((sum, file) => sum + file.length, 0)
}
