import assert from 'node:assert/strict'
import { userInfo } from 'node:os'
import { test } from 'node:test'
import { hostsFrom, parseHostUrl, parsePin, readSurroundings } from '../../client/config.ts'
import { Failure } from '../../shared/failure.ts'

const usage = (error: unknown) => error instanceof Failure && error.code === 'usage'

test('a host is https, a name and a port, 7433 when none is given', () => {
  const known = {
    '10.0.0.1': 'https://10.0.0.1:7433',
    'web.example': 'https://web.example:7433',
    'web.example:8443': 'https://web.example:8443',
    'https://web.example': 'https://web.example:7433',
    'https://web.example/': 'https://web.example:7433',
    'https://web.example:443': 'https://web.example:443',
    'HTTPS://Web.Example:1': 'https://web.example:1',
    'https://[::1]:9': 'https://[::1]:9',
    '[::1]': 'https://[::1]:7433',
  }
  for (const [text, url] of Object.entries(known)) assert.equal(parseHostUrl(text), url, text)
  const odd = [
    '',
    'http://a',
    'https://a/path',
    'https://a?x',
    'https://a#x',
    'https://u:p@a',
    'ftp://a',
    'a b',
    'a:99999',
  ]
  for (const text of odd) assert.throws(() => parseHostUrl(text), usage, text)
})

test('hosts are shown by name, with the port where two would look alike', () => {
  const names = (...urls: string[]) => hostsFrom(urls.map((url) => ({ url }))).map(({ name }) => name)
  assert.deepEqual(names('10.0.0.1', '10.0.0.2:9'), ['10.0.0.1', '10.0.0.2'])
  assert.deepEqual(names('10.0.0.1:8', '10.0.0.1:9', 'b'), ['10.0.0.1:8', '10.0.0.1:9', 'b'])
})

test('a pin is sha256// and 44 characters of base64', () => {
  const pin = `sha256//${Buffer.alloc(32, 1).toString('base64')}`
  assert.equal(parsePin(pin), pin)
  for (const text of ['', pin.slice(0, -1), `${pin}=`, pin.replace('//', ':'), ` ${pin}`, `sha256//${'A'.repeat(44)}`])
    assert.throws(() => parsePin(text), usage, text)
})

test('directories follow XDG, and an empty variable counts as none', () => {
  const home = readSurroundings({
    HOME: '/home/ann',
    XDG_CONFIG_HOME: '',
    SSH_AUTH_SOCK: '',
    CI: 'false',
    NO_COLOR: '',
  })
  assert.deepEqual(
    [home.configDir, home.cacheDir, home.defaultKeyFile],
    ['/home/ann/.config/tarmac', '/home/ann/.cache/tarmac', '/home/ann/.ssh/id_ed25519'],
  )
  assert.deepEqual([home.hasSshAgent, home.isCi, home.noColor], [false, false, false])
  const other = readSurroundings({
    HOME: '/h',
    XDG_CONFIG_HOME: '/c',
    XDG_CACHE_HOME: '/k',
    SSH_AUTH_SOCK: '/s',
    CI: '1',
    NO_COLOR: '1',
  })
  assert.deepEqual(
    [other.configDir, other.cacheDir, other.hasSshAgent, other.isCi, other.noColor],
    ['/c/tarmac', '/k/tarmac', true, true, true],
  )
})

test('a home that is not absolute counts for nothing: pins that a checkout brings along are not trusted', () => {
  const { homedir } = userInfo()
  for (const HOME of [undefined, '', '.', 'home']) {
    const { configDir, cacheDir, defaultKeyFile } = readSurroundings({ HOME, XDG_CONFIG_HOME: '.config' })
    assert.deepEqual(
      [configDir, cacheDir, defaultKeyFile],
      [`${homedir}/.config/tarmac`, `${homedir}/.cache/tarmac`, `${homedir}/.ssh/id_ed25519`],
    )
  }
})
