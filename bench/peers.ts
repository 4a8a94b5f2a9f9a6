import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Ran, shell } from './programs.ts'
import type { Site } from './site.ts'

// What a person would use instead, typed as she would type it: each ends with the new release in place.

export type PeerName = 'tarmac' | 'rsync' | 'tar-zstd' | 'casync' | 'tar-gz'

export interface Peer {
  name: PeerName
  /** What is typed, for the report. */
  does: string
  /** An empty host, and a person who never pushed there. */
  reset(): Promise<void>
  /** The site's source becomes the current release. */
  push(): Promise<Ran>
  /** The release before becomes current. */
  rollback(): Promise<Ran>
  /** The current release's files. */
  current(): string
  /** All that lies on the host for the app. */
  onDisk(): string
  end(): Promise<void>
}

type Line = (names: { host: string; id: string; isFirst: boolean }) => string

/** Of the same kind as Tarmac's own: the link appears whole. */
const swap = (host: string, id: string) =>
  `ln -s releases/${id} ${host}/current.new && mv -T ${host}/current.new ${host}/current`

function sshPeer(
  site: Site,
  { name, does, line, prepare }: Pick<Peer, 'name' | 'does'> & { line: Line; prepare?: string },
): Peer {
  const host = join(site.host, name)
  const where = { env: site.env, netns: site.link.clientNetns }
  let pushed: string[] = []
  let count = 0
  return {
    name,
    does,
    async reset() {
      site.setAside(host)
      mkdirSync(join(host, 'releases'), { recursive: true })
      pushed = []
      if (prepare !== undefined) writeFileSync(join(site.dir, `${name}-ssh`), prepare, { mode: 0o755 })
    },
    async push() {
      const id = String(++count)
      const ran = await shell(line({ host, id, isFirst: pushed.length === 0 }), where)
      pushed.push(id)
      return ran
    },
    async rollback() {
      const [before = '', now = ''] = pushed.slice(-2)
      pushed.splice(-2, 2, now, before)
      return shell(`${site.ssh} '${swap(host, before)}'`, where)
    },
    current: () => join(host, 'current'),
    onDisk: () => host,
    end: async () => {},
  }
}

export function rsync(site: Site): Peer {
  const sshOnly = site.ssh.slice(0, -' host'.length)
  return sshPeer(site, {
    name: 'rsync',
    does: 'rsync -a --link-dest=CURRENT over ssh, then the symlink by ssh',
    line: ({ host, id, isFirst }) => {
      const linked = isFirst ? '' : `--link-dest=${host}/current/ `
      const sent = `rsync -a ${linked}-e '${sshOnly}' ${site.source}/ host:${host}/releases/${id}/`
      return `${sent} && ${site.ssh} '${swap(host, id)}'`
    },
  })
}

export function tarZstd(site: Site): Peer {
  return sshPeer(site, {
    name: 'tar-zstd',
    does: 'tar | zstd -3 | ssh | zstd -d | tar, then the symlink',
    line: ({ host, id }) => {
      const there = `mkdir ${host}/releases/${id} && zstd -dc | tar -C ${host}/releases/${id} -xf - && ${swap(host, id)}`
      return `tar -C ${site.source} -cf - . | zstd -3 -c | ${site.ssh} '${there}'`
    },
  })
}

export function tarGz(site: Site): Peer {
  return sshPeer(site, {
    name: 'tar-gz',
    does: "Capistrano's copy: tar czf, the archive over ssh, unpacked, the symlink",
    line: ({ host, id }) => {
      const archive = join(site.dir, `${id}.tar.gz`)
      const there = `mkdir ${host}/releases/${id} && tar -C ${host}/releases/${id} -xzf ${host}/${id}.tar.gz && rm ${host}/${id}.tar.gz && ${swap(host, id)}`
      return `tar -C ${site.source} -czf ${archive} . && ${site.ssh} 'cat > ${host}/${id}.tar.gz' < ${archive} && rm ${archive} && ${site.ssh} '${there}'`
    },
  })
}

/** Archives with times, modes and links, as the others do; the host keeps the chunks and the running release as seed. */
export function casync(site: Site): Peer {
  const sshOnly = site.ssh.slice(0, -' host'.length)
  return sshPeer(site, {
    name: 'casync',
    does: 'casync make to a store over ssh, casync extract there with the running release as seed, the symlink',
    prepare: `#!/bin/sh\nexec ${sshOnly} "$@"\n`,
    line: ({ host, id, isFirst }) => {
      const index = `${host}/${id}.caidx`
      const store = `--store=${host}/default.castr`
      const seed = isFirst ? '' : `--seed=${host}/current/ `
      const made = `CASYNC_SSH_PATH=${join(site.dir, 'casync-ssh')} casync make --with=unix host:${index} ${site.source}`
      const there = `casync extract ${store} ${seed}${index} ${host}/releases/${id} && ${swap(host, id)}`
      return `${made} >/dev/null && ${site.ssh} '${there}'`
    },
  })
}
