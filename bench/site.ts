import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type Link, type LinkName, makeLink } from './link.ts'
import { type Background, endAll, run, startBackground } from './programs.ts'

// A person's machine and a host, for all peers: one directory on one disk, one link, one key, one sshd.

/** Not /tmp, which may be memory. */
const BELOW = '/var/tmp'
export const SSH_PORT = 2222
/** Room for all that is pushed in three rounds by five peers; it takes of the disk below what is written to it. */
const DISK_SIZE = '48G'

export interface Site {
  dir: string
  /** Of the person: her key, her project. */
  home: string
  source: string
  /** The disk of the host. */
  host: string
  link: Link
  keyFile: string
  /** What is typed before a command for the host: `ssh -F … host`. */
  ssh: string
  env: NodeJS.ProcessEnv
  /** Out of the way, and not deleted before the end: see `freshDisk`. */
  setAside(path: string): void
  /** What must not be left behind, however it ends. */
  atEnd(step: () => Promise<unknown>): void
  end(): Promise<void>
}

export async function makeSite(linkName: LinkName): Promise<Site> {
  const dir = mkdtempSync(join(BELOW, 'tarmac-bench-'))
  const undo: (() => Promise<unknown>)[] = [
    // Again, when what was just ended has written meanwhile.
    () => rm(dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 }),
  ]
  if (linkName !== 'local') undo.unshift(await freshDisk(dir))
  let ending: Promise<void> | undefined
  const end = () => {
    // Whoever is second waits for the first: a signal, and what fails because of it.
    ending ??= (async () => {
      for (const step of undo) await step()
    })()
    return ending
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, () => {
      endAll()
      void end().finally(() => process.exit(1))
    })
  }
  try {
    // The app runs as a user of its own, who must get to it.
    chmodSync(dir, 0o711)
    const home = join(dir, 'home')
    const host = join(dir, 'host')
    const source = join(dir, 'source')
    for (const path of [join(home, '.ssh'), host, source]) mkdirSync(path, { recursive: true })
    const link = await makeLink(linkName)
    undo.unshift(() => link.end())
    const keyFile = join(home, '.ssh', 'id_ed25519')
    await run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', 'ann', '-f', keyFile])
    const env = { PATH: process.env.PATH ?? '', HOME: home, LANG: 'C.UTF-8', TMPDIR: dir }
    if (linkName !== 'local') {
      const sshd = await startSshd(dir, { link, keyFile })
      undo.unshift(() => sshd.stop())
    }
    const atEnd = (step: () => Promise<unknown>) => void undo.unshift(step)
    const aside = join(dir, 'aside')
    mkdirSync(aside)
    let asides = 0
    const setAside = (path: string) => {
      if (existsSync(path)) renameSync(path, join(aside, String(asides++)))
    }
    const ssh = `ssh -F ${join(dir, 'ssh_config')} host`
    return { dir, home, source, host, link, keyFile, ssh, env, setAside, atEnd, end }
  } catch (error) {
    await end()
    throw error
  }
}

/**
 * An ext4 of its own for each site, on which nothing was ever deleted. For some minutes after many files were, ext4 looks
 * at each of them again before it makes a new one: making a file then takes five times as long, and whoever comes after
 * a deletion pays for it. Gives what takes it away again.
 */
async function freshDisk(dir: string): Promise<() => Promise<unknown>> {
  const image = `${dir}.img`
  await run(['truncate', '-s', DISK_SIZE, image])
  await run(['mkfs.ext4', '-q', '-F', '-E', 'lazy_itable_init=0,lazy_journal_init=0', image])
  // Not through the page cache once more.
  const device = (await run(['losetup', '--find', '--show', '--direct-io=on', image])).stdout.trim()
  await run(['mount', device, dir])
  return async () => {
    await run(['umount', '--lazy', dir])
    await run(['losetup', '--detach', device])
    await rm(image)
  }
}

/** Debian's defaults but for where things lie. A new connection for each command, as where nobody set ControlMaster. */
async function startSshd(dir: string, { link, keyFile }: Pick<Site, 'link' | 'keyFile'>): Promise<Background> {
  const hostKey = join(dir, 'host_key')
  const authorized = join(dir, 'authorized_keys')
  await run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', 'host', '-f', hostKey])
  writeFileSync(authorized, readFileSync(`${keyFile}.pub`), { mode: 0o600 })
  const known = readFileSync(`${hostKey}.pub`, 'utf8').split(' ').slice(0, 2).join(' ')
  writeFileSync(join(dir, 'known_hosts'), `[${link.address}]:${SSH_PORT} ${known}\n`)
  writeFileSync(
    join(dir, 'ssh_config'),
    `Host host
  HostName ${link.address}
  Port ${SSH_PORT}
  User root
  IdentityFile ${keyFile}
  IdentitiesOnly yes
  UserKnownHostsFile ${join(dir, 'known_hosts')}
  StrictHostKeyChecking yes
`,
  )
  writeFileSync(
    join(dir, 'sshd_config'),
    `Port ${SSH_PORT}
ListenAddress ${link.address}
HostKey ${hostKey}
AuthorizedKeysFile ${authorized}
PidFile ${join(dir, 'sshd.pid')}
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
UseDNS no
# As if root had no .bashrc, which may be slow and is nobody's doing here.
SetEnv SHLVL=1
`,
  )
  // Where sshd wants to have its empty directory, which the package makes at boot.
  mkdirSync('/run/sshd', { recursive: true, mode: 0o755 })
  return startBackground(['/usr/sbin/sshd', '-D', '-e', '-f', join(dir, 'sshd_config')], /listening on/, {
    netns: link.hostNetns,
  })
}
