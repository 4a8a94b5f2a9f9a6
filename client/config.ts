import { tmpdir, userInfo } from 'node:os'
import { isAbsolute, join } from 'node:path'
import { Failure } from '../shared/failure.ts'
import { DEFAULT_PORT } from '../shared/wire.ts'

// The environment of whoever types the command. Nothing else of the client reads it, and none of it reaches an app.

export interface Surroundings {
  /** Pins of agents: $XDG_CONFIG_HOME/tarmac. */
  configDir: string
  cacheDir: string
  /** For the contents of archives while they travel. */
  tmpDir: string
  defaultKeyFile: string
  hasSshAgent: boolean
  isCi: boolean
  noColor: boolean
  /** For ssh-keygen, git and the build command: they are the user's own programs. */
  env: NodeJS.ProcessEnv
}

/** Nothing lies there, and only root could make it. */
const NO_HOME = '/nonexistent'

export function readSurroundings(env: NodeJS.ProcessEnv = process.env): Surroundings {
  // What is not absolute counts for nothing: a checkout must not bring pins along. So too
  // https://specifications.freedesktop.org/basedir-spec of the XDG directories.
  const named = (name: string) => (isAbsolute(env[name] ?? '') ? env[name] : undefined)
  const home = named('HOME') ?? homeByName()
  const dir = (name: string, fallback: string) => named(name) ?? join(home, fallback)
  return {
    configDir: join(dir('XDG_CONFIG_HOME', '.config'), 'tarmac'),
    cacheDir: join(dir('XDG_CACHE_HOME', '.cache'), 'tarmac'),
    tmpDir: tmpdir(),
    defaultKeyFile: join(home, '.ssh', 'id_ed25519'),
    hasSshAgent: env.SSH_AUTH_SOCK !== undefined && env.SSH_AUTH_SOCK !== '',
    isCi: env.CI !== undefined && env.CI !== '' && env.CI !== 'false',
    noColor: env.NO_COLOR !== undefined && env.NO_COLOR !== '',
    env,
  }
}

/** As the user database says; a user who is in none has no home. */
function homeByName(): string {
  try {
    return userInfo().homedir
  } catch {
    return NO_HOME
  }
}

export interface Host {
  /** As shown: the host's name, with its port where two would look alike. */
  name: string
  /** `https://name:port`, nothing behind it. */
  url: string
  /** From the project file; else the pins this user trusts decide. */
  pin: string | undefined
}

const PIN = /^sha256\/\/[A-Za-z0-9+/]{43}=$/

export function parsePin(text: string): string {
  if (PIN.test(text)) return text
  throw new Failure('usage', `pin ${JSON.stringify(text)}: is not sha256//… with 44 characters of base64`, {
    hint: 'tarmac-agent init prints it on the host',
  })
}

/** `https://10.0.0.1:7433`, or just `10.0.0.1`. Plain http is refused: nothing would be proved to anybody. */
export function parseHostUrl(text: string): string {
  const withScheme = /^[a-z][a-z0-9+.-]*:\/\//i.test(text) ? text : `https://${text}`
  const url = URL.canParse(withScheme) ? new URL(withScheme) : undefined
  if (
    url === undefined ||
    url.protocol !== 'https:' ||
    url.pathname !== '/' ||
    url.search !== '' ||
    url.hash !== '' ||
    url.username !== ''
  ) {
    throw new Failure('usage', `host ${JSON.stringify(text)}: is not https://NAME:PORT`, {
      hint: `for example https://10.0.0.1:${DEFAULT_PORT}`,
    })
  }
  // URL hides https's own default port, which somebody may really have written.
  const port = url.port === '' ? (/:443\/?$/.test(withScheme) ? '443' : String(DEFAULT_PORT)) : url.port
  return `https://${url.hostname}:${port}`
}

export function hostsFrom(entries: { url: string; pin?: string | undefined }[]): Host[] {
  const urls = entries.map(({ url, pin }) => ({
    url: parseHostUrl(url),
    pin: pin === undefined ? undefined : parsePin(pin),
  }))
  const nameOf = (url: string) => new URL(url).hostname
  return urls.map(({ url, pin }) => {
    const alike = urls.filter((other) => nameOf(other.url) === nameOf(url)).length > 1
    return { name: alike ? url.slice('https://'.length) : nameOf(url), url, pin }
  })
}
