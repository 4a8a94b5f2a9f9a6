// Runs in the place of the agent, inside the sandbox of its unit: tries what the agent must do and what it must not,
// and writes down how each went, as JSON {what: 'ok' or the error's code}.
import { execFileSync } from 'node:child_process'
import * as fs from 'node:fs'
import { createServer } from 'node:net'
import { networkInterfaces } from 'node:os'

const UNIT = '/etc/systemd/system/tarmac-probe.service'
const FILE = '/var/lib/tarmac/apps/probe'
const went = {}

await attempt('write a unit', () =>
  fs.writeFileSync(UNIT, '[Service]\nExecStart=/bin/echo from the probe\nUser=tarmac-probe\n'),
)
await attempt('make a user', () =>
  run('systemd-run --quiet --wait --pipe --collect systemd-sysusers -', 'u tarmac-probe - "probe" /nonexistent\n'),
)
await attempt('reload and start', () => run('systemctl daemon-reload') + run('systemctl start tarmac-probe.service'))
await attempt('read a unit', () => run('systemctl show tarmac-probe.service'))
await attempt(
  'enable and disable',
  () => run('systemctl enable tarmac-agent.service') + run('systemctl disable tarmac-agent.service'),
)
await attempt('read the journal', () => run('journalctl --no-pager -n 1 --unit tarmac-probe.service'))
await attempt('make a directory apps get through', () => {
  fs.mkdirSync('/var/lib/tarmac/apps', { mode: 0o755 })
  if ((fs.statSync('/var/lib/tarmac/apps').mode & 0o777) !== 0o755) throw Object.assign(new Error(), { code: 'UMASK' })
})
await attempt('give a file away', () => {
  fs.writeFileSync(FILE, 'x', { mode: 0o600 })
  const [uid, gid] = ['-u', '-g'].map((flag) => Number(run(`id ${flag} tarmac-probe`)))
  fs.chownSync(FILE, uid, gid)
})
await attempt('write and set modes of what was given away', () => {
  fs.appendFileSync(FILE, 'y')
  fs.chmodSync(FILE, 0o640)
})
await attempt('link and rename', () => {
  fs.linkSync(FILE, `${FILE}.link`)
  fs.renameSync(`${FILE}.link`, `${FILE}.moved`)
})
await attempt('write its configuration', () => fs.writeFileSync('/etc/tarmac/probe', ''))
await attempt('list interfaces', () => networkInterfaces())
await attempt(
  'listen',
  () =>
    new Promise((resolve, reject) => {
      const server = createServer().on('error', reject)
      server.listen(7433, '0.0.0.0', () => server.close(resolve))
    }),
)

await attempt('deny: write /etc', () => fs.writeFileSync('/etc/tarmac-probe', ''))
await attempt('deny: write /usr', () => fs.writeFileSync('/usr/local/bin/probe', ''))
await attempt('deny: read /root', () => fs.readFileSync('/root/secret'))
await attempt('deny: make a setuid file', () => fs.chmodSync(FILE, 0o4755))
await attempt('deny: mount', () => run('mount -t tmpfs tmpfs /mnt'))
await attempt('deny: a user namespace', () => run('unshare --user true'))
await attempt('deny: kernel settings', () => fs.writeFileSync('/proc/sys/kernel/hostname', 'probe'))
await attempt('deny: become another user', () => process.setuid(12345))
await attempt('deny: see PID 1 in full', () => fs.readFileSync('/proc/1/environ'))

fs.writeFileSync('/var/lib/tarmac/probe.json', JSON.stringify(went))

async function attempt(what, act) {
  try {
    await act()
    went[what] = 'ok'
  } catch (error) {
    went[what] = String(error.code ?? error.stderr ?? error)
  }
}

function run(line, input = '') {
  const [program, ...args] = line.match(/\S+/g)
  try {
    return execFileSync(program, args, { input, encoding: 'utf8', stdio: 'pipe', timeout: 20_000 })
  } catch (error) {
    throw Object.assign(error, { code: `exit ${error.status}: ${error.stderr}` })
  }
}
