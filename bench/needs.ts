import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'

/** What the peers and the links are made of, and the Debian and Ubuntu package that has it. */
const NEEDED: Record<string, string> = {
  '/usr/bin/rsync': 'rsync',
  '/usr/bin/casync': 'casync',
  '/usr/sbin/sshd': 'openssh-server',
  '/usr/bin/ssh': 'openssh-client',
  '/usr/bin/zstd': 'zstd',
  '/usr/bin/vmtouch': 'vmtouch',
  '/usr/bin/nsenter': 'util-linux',
  '/usr/sbin/ethtool': 'ethtool',
  '/usr/sbin/tc': 'iproute2',
  '/usr/bin/wrk': 'wrk',
}

/** Installs what is missing, with apt-get. `isAlone`: Tarmac on 127.0.0.1, which takes neither root nor programs. */
export function makeReady({ isAlone }: { isAlone: boolean }): void {
  if (isAlone) return
  if (process.getuid?.() !== 0)
    throw new Error('bench: network namespaces take root; without it: --link local --peer tarmac')
  const missing = Object.entries(NEEDED).filter(([program]) => !existsSync(program))
  if (missing.length === 0) return
  const packages = missing.map(([, name]) => name)
  console.error(`bench: installing ${packages.join(' ')}`)
  for (const args of [['update'], ['install', '--yes', '--no-install-recommends', ...packages]]) {
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
    const { status } = spawnSync('apt-get', ['--quiet', ...args], { env, stdio: ['ignore', 'ignore', 'inherit'] })
    if (status !== 0) throw new Error(`bench: please install ${packages.join(' ')}`)
  }
}
