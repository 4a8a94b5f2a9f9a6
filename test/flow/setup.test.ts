import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { hostsFrom } from '../../client/config.ts'
import { openConnection } from '../../client/connection.ts'
import { makeKey, sshSign, startAgent } from '../helpers/ssh.ts'
import { makeWorld } from '../helpers/world.ts'

const OTHER_PIN = `sha256//${Buffer.alloc(32, 7).toString('base64')}`

test('an agent nobody trusts yet is refused where nobody can be asked, and a wrong pin is not remembered', async (t) => {
  const world = await makeWorld(t, { trusted: false })
  await world.agentCommand('signers', 'add', 'ann', world.publicKey)
  await world.startAgent()
  const known = join(world.dir, 'home/.config/tarmac/known_agents')
  for (const argv of [['push'], ['push', '--yes'], ['trust', world.url]]) {
    const { exit, stderr } = await world.tarmac(...argv)
    assert.equal(exit, 3)
    assert.ok(stderr.includes(world.pin), 'it shows what to compare')
    assert.ok(stderr.includes(`tarmac trust ${world.url} --pin`))
  }
  assert.equal((await world.tarmac('trust', world.url, '--pin', OTHER_PIN)).exit, 3)
  assert.equal((await world.tarmac('trust', world.url, '--pin', 'sha256//short')).exit, 2)
  assert.ok(!existsSync(known))

  assert.equal((await world.tarmac('trust', world.url, '--pin', world.pin)).exit, 0)
  assert.deepEqual(JSON.parse((await world.tarmac('trust', '--json')).stdout), {
    agents: [{ url: world.url, pin: world.pin }],
  })
  assert.equal(statSync(known).mode & 0o077, 0)
  assert.equal((await world.tarmac('push')).exit, 0)
})

test('an agent that comes back with another key is refused until a person says so', async (t) => {
  const world = await makeWorld(t)
  assert.equal((await world.tarmac('push')).exit, 0)
  await world.stopAgent()
  rmSync(join(world.root, 'tls'), { recursive: true })
  const made = await world.agentCommand('init')
  const pin = /^pin (\S+)$/m.exec(made.stdout)?.[1] ?? ''
  assert.notEqual(pin, world.pin)
  await world.startAgent()
  const { exit, stderr } = await world.tarmac('status')
  assert.equal(exit, 3)
  assert.ok(stderr.includes(pin) && stderr.includes(world.pin))
  assert.equal((await world.tarmac('trust', world.url)).exit, 3, 'the new key is not taken silently')
  assert.equal((await world.tarmac('trust', world.url, '--pin', pin)).exit, 0)
  assert.equal((await world.tarmac('status')).exit, 0)
})

test('agent init makes a lost certificate anew, with the key that clients know, and no key in the place of a damaged one', async (t) => {
  const world = await makeWorld(t)
  await world.stopAgent()
  const [key, cert] = [join(world.root, 'tls/key.pem'), join(world.root, 'tls/cert.pem')]
  rmSync(cert)
  assert.equal((await world.agentCommand('init')).stdout, `pin ${world.pin}\n`)
  await world.startAgent()
  assert.equal((await world.tarmac('status')).exit, 0)

  rmSync(cert)
  writeFileSync(key, '')
  const refused = await world.agentCommand('init')
  assert.equal(refused.exit, 2, refused.stderr)
  assert.match(refused.stderr, /key\.pem: it is no P-256 key/)
  assert.deepEqual([readFileSync(key, 'utf8'), existsSync(cert)], ['', false])
})

test('a pin in tarmac.toml is enough, and stands above what was remembered', async (t) => {
  const world = await makeWorld(t, { trusted: false })
  await world.agentCommand('signers', 'add', 'ann', world.publicKey)
  await world.startAgent()
  const text = readFileSync(join(world.project, 'tarmac.toml'), 'utf8')
  const withPin = (pin: string) => text.replace(`"${world.url}"`, `{ url = "${world.url}", pin = "${pin}" }`)
  world.write({ 'tarmac.toml': withPin(world.pin) })
  assert.equal((await world.tarmac('status')).exit, 0)
  assert.equal((await world.tarmac('trust', world.url, '--pin', world.pin)).exit, 0)
  world.write({ 'tarmac.toml': withPin(OTHER_PIN) })
  assert.equal((await world.tarmac('status')).exit, 3)
})

test('agent init again prints the same pin and keeps what the admin wrote, and secrets are for the agent alone', async (t) => {
  const world = await makeWorld(t)
  const config = join(world.root, 'etc/agent.toml')
  writeFileSync(config, '# mine\ninit = "embedded"\n\n[disk]\nreserve_bytes = 7\n')
  const again = await world.agentCommand('init')
  assert.equal(again.stdout, `pin ${world.pin}\n`)
  const moved = await world.agentCommand('init', '--listen', '127.0.0.1:7499')
  assert.equal(moved.stdout, `pin ${world.pin}\n`)
  assert.match(
    readFileSync(config, 'utf8'),
    /^# mine\ninit = "embedded"\n\nlisten = "127.0.0.1:7499"\n\[disk\]\nreserve_bytes = 7\n$/,
  )
  await world.agentCommand('init', '--listen', '127.0.0.1:7500')
  assert.equal(
    readFileSync(config, 'utf8')
      .match(/listen = .*/g)
      ?.join(),
    'listen = "127.0.0.1:7500"',
  )
  assert.match((await world.agentCommand('signers', 'list')).stdout, /^ann {2}SHA256:\S+ {2}ssh-ed25519\n$/)
  await world.tarmac('push')
  for (const secret of ['ledger.db', 'ledger.db-wal', 'tls/key.pem', 'embedded', 'apps/shop/env', 'apps/shop/staging'])
    assert.equal(statSync(join(world.root, secret)).mode & 0o077, 0, secret)
})

test('signers are added from a line or a .pub file, listed, and removed from the next request on', async (t) => {
  const world = await makeWorld(t, { trusted: false })
  const none = await world.agentCommand('run', '--init', 'embedded')
  assert.equal(none.exit, 3)
  assert.match(none.stderr, /no signers are known[\s\S]*hint: name one: tarmac-agent signers add/)
  assert.ok(!none.stdout.includes('listening'))

  const added = await world.agentCommand('signers', 'add', 'ann', `${world.keyFile}.pub`)
  assert.match(added.stdout, /^ann SHA256:\S+ is let in\n$/)
  const again = await world.agentCommand('signers', 'add', 'ann', ...world.publicKey.split(' '))
  assert.deepEqual([again.exit, /is known already/.test(again.stdout)], [0, true])
  const stolen = await world.agentCommand('signers', 'add', 'bob', world.publicKey)
  assert.deepEqual([stolen.exit, /belongs to ann already/.test(stolen.stderr)], [2, true])
  const bob = makeKey(t, world.dir, { type: 'ecdsa', name: 'bob' })
  assert.equal((await world.agentCommand('signers', 'add', 'bob', bob.publicLine)).exit, 0)
  const rsa = makeKey(t, world.dir, { type: 'rsa' })
  const refused = await world.agentCommand('signers', 'add', 'carl', rsa.publicLine)
  assert.equal(refused.exit, 3)
  assert.match(refused.stderr, /hint: .*ssh-keygen -t ed25519/)
  const capital = await world.agentCommand('signers', 'add', 'Ann', makeKey(t, world.dir).publicLine)
  assert.notEqual(capital.exit, 0, 'a file with both would be refused as a whole')

  const list = JSON.parse((await world.agentCommand('signers', 'list', '--json')).stdout)
  assert.deepEqual(
    list.signers.map((signer: Record<string, unknown>) => [signer.name, signer.type, Object.keys(signer).length]),
    [
      ['ann', 'ssh-ed25519', 5],
      ['bob', 'ecdsa-sha2-nistp256', 5],
    ],
  )
  await world.startAgent()
  await world.tarmac('trust', world.url, '--pin', world.pin)
  assert.equal((await world.tarmac('status')).exit, 0)
  assert.equal((await world.tarmac('status', '--key', bob.file)).exit, 0)
  assert.equal((await world.agentCommand('signers', 'remove', 'ann')).exit, 0)
  assert.equal((await world.agentCommand('signers', 'remove', 'ann')).exit, 2)
  const gone = await world.tarmac('status')
  assert.equal(gone.exit, 3)
  assert.match(gone.stderr, /nobody here has the key SHA256:\S+\n {2}on the host: tarmac-agent signers add/)
  assert.equal((await world.tarmac('status', '--key', bob.file)).exit, 0)
  assert.equal((await world.tarmac('status', '--key', rsa.file)).exit, 3)
})

test('a configuration or a list of signers that others may write is refused, by a running agent too', async (t) => {
  const world = await makeWorld(t)
  const signers = join(world.root, 'etc/allowed_signers')
  chmodSync(signers, 0o666)
  const asked = await world.tarmac('status', '--json')
  assert.equal(asked.exit, 3)
  assert.match(asked.stdout, /"policy_unreadable".*others may write it/)
  await world.stopAgent()
  assert.equal((await world.agentCommand('run', '--init', 'embedded')).exit, 3)
  chmodSync(signers, 0o644)
  const config = join(world.root, 'etc/agent.toml')
  chmodSync(config, 0o664)
  const { exit, stderr } = await world.agentCommand('run', '--init', 'embedded')
  assert.equal(exit, 2)
  assert.ok(stderr.includes(`others may write it (mode 664)\nhint: chmod go-w ${config}`))
  chmodSync(config, 0o644)
  writeFileSync(config, 'lisen = "127.0.0.1:1"\n')
  assert.match((await world.agentCommand('run')).stderr, /agent\.toml: .*lisen/)
})

test('a key of the ssh-agent signs, with no key file in sight', async (t) => {
  const world = await makeWorld(t)
  const agent = await startAgent(t)
  const key = makeKey(t, world.dir, { name: 'agent' })
  agent.add(key)
  for (const file of [key.file, world.keyFile, `${world.keyFile}.pub`]) rmSync(file)
  assert.equal((await world.tarmac('push')).exit, 3)
  await world.agentCommand('signers', 'add', 'token', key.publicLine)
  const env = { PATH: process.env.PATH, HOME: join(world.dir, 'home'), SSH_AUTH_SOCK: agent.socket }
  const client = join(import.meta.dirname, '../../client/main.ts')
  const tarmac = (...argv: string[]) =>
    spawnSync(process.execPath, [client, ...argv], { env, cwd: world.project, encoding: 'utf8' })
  const pushed = tarmac('push')
  assert.equal(pushed.status, 0, pushed.stderr)
  const { keys } = JSON.parse(tarmac('keys', '--json').stdout)
  assert.deepEqual([keys[0].from, keys[0].chosen], ['ssh-agent', true])
})

test('a connection over which an app says nothing is kept alive by empty lines', async (t) => {
  const world = await makeWorld(t)
  await world.tarmac('push')
  const [host] = hostsFrom([{ url: world.url, pin: world.pin }])
  if (host === undefined) throw new Error('no host')
  const connection = await openConnection(host, {
    pinOf: async () => world.pin,
    signSession: async (statement) => sshSign(world.keyFile, 'tarmac-session', statement),
  })
  t.after(() => connection.close())
  const { body } = await connection.request('GET', '/v1/apps/shop/logs?n=0&follow=1')
  const began = Date.now()
  for await (const chunk of body) {
    assert.equal(chunk.toString(), '\n')
    break
  }
  assert.ok(Date.now() - began < 10_000)
})

test('an app directory that root must not enter as others is told before anything runs', async (t) => {
  if (process.getuid?.() !== 0) return t.skip('only as root do apps run as other users')
  const world = await makeWorld(t, { started: false })
  const closed = join(world.dir, 'closed')
  mkdirSync(closed, { mode: 0o700 })
  chmodSync(world.dir, 0o700)
  const { exit, stderr } = await world.agentCommand('run', '--init', 'embedded')
  assert.equal(exit, 2)
  assert.ok(stderr.includes(`hint: chmod o+x ${world.dir}`))
})
