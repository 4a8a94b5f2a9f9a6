'use strict'
// Runs inside the app's own process, before the app: NODE_OPTIONS="--require /abs/path/listen-preload.cjs".
//
// An app that says `server.listen(3000)` is served from the socket its init system keeps open through every switch,
// answers its own probe before it is public, and leaves without dropping a request. The app is not changed.
//
// Told by the environment, as in sd_listen_fds(3). Descriptors are known by name, never by number: systemd's order varies.
//   port-<N>   public listening sockets of port N: `listen(N)` is served from them
//   probe      unix socket: answered by the same server as the first such port, also while held
//   control    unix socket, a line each: activate → ok (failed, draining) · status → JSON · drain → drained, when it is
//              done · anything else → unknown
//   private    two of them: a systemd socket unit has one name for all its addresses, and keeps their order; the first is
//              the probe, the second the control
//   TARMAC_HOLD=1       the public sockets are left alone until `activate`
//   TARMAC_LINGER_MS    how long idle connections stay open after SIGTERM
//
// Plain CommonJS for Node 18 and later, in one file: it is loaded by its path, into processes that know nothing of us.
// Whatever goes wrong here is one line on stderr, and the app goes on.

/** sd_listen_fds(3): descriptors are passed from here on, without a gap. */
const FIRST_FD = 3
/** Longer than Node's own keepAliveTimeout (5 s, checked each second): most idle clients are gone by then by themselves. */
const LINGER_MS = 6000
/** How soon after its last connection a lingering process ends. */
const SWEEP_MS = 20
/** A connection the primary of a cluster has passed to a worker may still be on its way when both get their SIGTERM. */
const WORKER_GRACE_MS = 100
/** listen(2) sets the length of the shared queue anew; the kernel cuts it to net.core.somaxconn, the machine's limit. */
const BACKLOG = 65_535
/** Commands are words; whoever sends more is not the agent. */
const MAX_COMMAND_CHARS = 256
/** RFC 9113 6.8: "no new streams, please", without refusing those that are on their way. */
const NO_LAST_STREAM = 2 ** 31 - 1
/** The longest delay of a timer: one that only keeps the process alive. */
const FOR_EVER_MS = 2 ** 31 - 1
/** Set by us for the workers of a cluster, which inherit no descriptors but must linger too. */
const WORKER_MARK = 'TARMAC_CLUSTER_WORKER'
const OUR_VARIABLES = [
  'LISTEN_FDS',
  'LISTEN_FDNAMES',
  'LISTEN_PID',
  'LISTEN_PIDFDID',
  'TARMAC_HOLD',
  'TARMAC_LINGER_MS',
  WORKER_MARK,
]

const kConnection = Symbol('tarmac.connection')

function install() {
  const told = takeEnvironment(process.env)
  if (told === undefined) return
  const net = require('node:net')
  // Both are there for others to use: node:cluster calls the one, and net calls the other by this name "to avoid
  // breaking code that wraps this method". Should they go one day, the app must hear of it from us.
  if (typeof net.Server.prototype._listen2 !== 'function' || typeof net._createServerHandle !== 'function') {
    throw new Error(`Node ${process.version} has no net.Server._listen2`)
  }
  const traffic = new Traffic(told.lingerMs)
  const sockets = new InheritedSockets(net, told)
  const drain = drainOnce(told, sockets, traffic)
  wrapListen(net, told, sockets, traffic)
  deferSigterm(drain)
  if (told.isWorker) return
  passOnToClusterWorkers(told.lingerMs)
  for (const fd of told.controlFds) serveControl(net, fd, { sockets, traffic, drain })
}

/**
 * What we were told, removed from the environment so that no child of the app takes it for its own; undefined, and
 * nothing touched, when none of it is for this process.
 */
function takeEnvironment(env) {
  const isWorker = env[WORKER_MARK] !== undefined
  const named = isWorker ? [] : namedDescriptors(env)
  if (!isWorker && (named.length === 0 || !isForThisProcess(env.LISTEN_PID))) return undefined

  const usable = named.filter(isSocket)
  const told = { isWorker, ports: new Map(), probeFds: [], controlFds: [], held: env.TARMAC_HOLD === '1' }
  for (const { name, fd } of usable) {
    if (name === 'probe') told.probeFds.push(fd)
    else if (name === 'control') told.controlFds.push(fd)
    else told.ports.set(portOf(name), [...(told.ports.get(portOf(name)) ?? []), fd])
  }
  if (told.held && told.controlFds.length === 0) {
    say('TARMAC_HOLD is set, but there is no control socket that could end it: the port is public at once')
    told.held = false
  }
  told.lingerMs = Number(env.TARMAC_LINGER_MS) || LINGER_MS
  for (const name of OUR_VARIABLES) delete env[name]
  removeFromNodeOptions(env)
  return told
}

/** Names that are not ours belong to an app that speaks LISTEN_FDS itself. */
function namedDescriptors(env) {
  const privateNames = ['probe', 'control']
  return (env.LISTEN_FDNAMES ?? '')
    .split(':')
    .slice(0, Number(env.LISTEN_FDS) || 0)
    .map((name, index) => ({ name: name === 'private' ? privateNames.shift() : name, fd: FIRST_FD + index }))
    .filter(({ name }) => name === 'probe' || name === 'control' || portOf(name) !== undefined)
}

function portOf(name) {
  const digits = /^port-(\d+)$/.exec(name)?.[1]
  return digits === undefined ? undefined : Number(digits)
}

function isSocket({ name, fd }) {
  try {
    if (require('node:fs').fstatSync(fd).isSocket()) return true
    say(`descriptor ${fd} is named ${name}, but is no socket`)
  } catch (error) {
    say(`descriptor ${fd} is named ${name}, but cannot be used: ${error.message}`)
  }
  return false
}

/**
 * In `sh -c 'x && node app.js'` init has told the shell. It means us when the shell is an ancestor and its first
 * descriptor is the very socket we have there: any other process has LISTEN_* by accident, and its descriptors are
 * somebody else's files.
 */
function isForThisProcess(listenPid) {
  if (listenPid === String(process.pid)) return true
  try {
    const { readFileSync, readlinkSync } = require('node:fs')
    const socket = readlinkSync(`/proc/self/fd/${FIRST_FD}`)
    if (!socket.startsWith('socket:') || socket !== readlinkSync(`/proc/${listenPid}/fd/${FIRST_FD}`)) return false
    let pid = String(process.ppid)
    while (Number(pid) > 1 && pid !== listenPid) {
      // pid (comm) state ppid …: comm may hold blanks and parentheses, so from the last one on.
      pid = readFileSync(`/proc/${pid}/stat`, 'utf8')
        .replace(/^.*\) /s, '')
        .split(' ')[1]
    }
    return pid === listenPid
  } catch {
    return false // no such process, or none of ours
  }
}

/** Compared by file name: the path we were loaded from has its links resolved, the one in NODE_OPTIONS need not. */
function removeFromNodeOptions(env) {
  const { basename } = require('node:path')
  const required = /\s*(?:--require|-r)(?:=|\s+)("(?:[^"\\]|\\.)*"|\S+)/g
  const rest = (env.NODE_OPTIONS ?? '').replace(required, (option, path) =>
    basename(path.replace(/^"|"$/g, '')) === basename(__filename) ? '' : option,
  )
  if (rest.trim() === '') delete env.NODE_OPTIONS
  else env.NODE_OPTIONS = rest.trim()
}

// ── Listening ───────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Every form of listen() ends in _listen2 with the port as a number: options, strings, DNS, abort signals and "already
 * listening" are done with by then, by Node itself. It takes a handle that is there for its own, which is how a worker
 * of node:cluster gets its faux handle, and how a server gets ours.
 */
function wrapListen(net, told, sockets, traffic) {
  const listen2 = net.Server.prototype._listen2
  net.Server.prototype._listen2 = function (address, port, ...rest) {
    guarded(`the app listens on port ${port} by itself`, () => {
      if (told.isWorker) {
        if (port > 0) traffic.watch(this)
        return
      }
      const entrance = this._handle ? undefined : sockets.entranceFor(this, port, address)
      if (entrance === undefined) return
      traffic.watch(this)
      this._handle = entrance
    })
    return Reflect.apply(listen2, this, [address, port, ...rest])
  }
}

/** The listening sockets we inherited, and which server of the app each leads to. */
class InheritedSockets {
  constructor(net, { ports, probeFds, held }) {
    this.net = net
    this.held = held
    this.closed = false
    /** Given to the first port that is opened. */
    this.probeFds = probeFds
    this.ports = new Map(
      [...ports].map(([number, fds]) => [number, { number, fds, doors: undefined, entrance: undefined, waiting: [] }]),
    )
  }

  get listening() {
    return [...this.ports.values()].some(({ entrance }) => entrance !== undefined)
  }

  /** What stands for a listening handle in `server`; undefined when the port is none of ours. */
  entranceFor(server, number, address) {
    const port = this.ports.get(number)
    if (port === undefined) return undefined
    // A second server on a port that is served, such as fastify's for ::1 beside the one for 127.0.0.1, gets no
    // connections: those of every address come in through the first. Nor does one that comes when all is closed,
    // such as that of a cluster worker forked anew while the old ones leave.
    if (this.closed || port.entrance !== undefined) {
      const family = this.net.isIPv4(address) ? 'IPv4' : 'IPv6'
      return this.entrance(undefined, server, { address: address ?? '::', family, port: number })
    }
    port.doors ??= port.fds.map((fd) => this.door(fd, `port ${number}`))
    const door = port.doors.find(({ isProbe }) => !isProbe)
    if (door === undefined) {
      say(`port ${number} was closed by the app: its inherited socket cannot be opened a second time`)
      return undefined
    }
    const publicAddress = {}
    door.handle.getsockname(publicAddress)
    port.entrance = this.entrance(port, server, publicAddress)
    return port.entrance
  }

  /** A handle for net.Server, as faithful as that of node:cluster's workers: it has no descriptor of its own. */
  entrance(port, server, address) {
    let alive
    const entrance = {
      listen: () => {
        alive = setInterval(() => {}, FOR_EVER_MS) // all our handles are unref'ed: what ref() and unref() mean is this
        // Not at once: whoever only asks whether the port is free (detect-port, portfinder, get-port) closes again in
        // 'listening', and libuv cannot stop accepting but by closing a descriptor, which does not come back.
        if (port !== undefined)
          setImmediate(() => guarded(`port ${port.number} is not served`, () => this.open(port, entrance)))
        return 0
      },
      close: () => {
        clearInterval(alive)
        if (port?.entrance === entrance) this.leave(port, server)
      },
      ref: () => alive?.ref(),
      unref: () => alive?.unref(),
      getsockname: (out) => {
        Object.assign(out, address)
        return 0
      },
    }
    return entrance
  }

  /** A descriptor as a libuv handle that does not accept yet. */
  door(fd, name, isProbe = false) {
    const handle = this.net._createServerHandle(null, null, null, fd)
    if (typeof handle === 'number') throw new Error(`descriptor ${fd} of ${name}: libuv error ${handle}`)
    return { handle, name, isProbe, accepting: false }
  }

  open(port, entrance) {
    if (port.entrance !== entrance || this.closed) return
    for (const fd of this.probeFds.splice(0)) port.doors.push(this.door(fd, 'probe', true))
    for (const client of port.waiting.splice(0)) entrance.onconnection(0, client)
    this.accept(port)
  }

  /** Accepts on all that may; false when one of the descriptors cannot be listened on. */
  accept(port) {
    let all = true
    for (const door of port.doors) {
      if (door.accepting || (this.held && !door.isProbe)) continue
      // Through net's own onconnection: limits, counts and events are as if the connection came by the server's handle.
      door.handle.onconnection = (error, client) => {
        if (port.entrance !== undefined) port.entrance.onconnection(error, client)
        else if (client !== undefined) port.waiting.push(client)
      }
      const error = door.handle.listen(BACKLOG)
      door.handle.unref()
      door.accepting = error === 0
      if (error !== 0) say(`${door.name}: its inherited socket cannot be listened on: libuv error ${error}`)
      all = all && error === 0
    }
    return all
  }

  /** Open ports become public now, others as soon as the app listens. */
  activate() {
    this.held = false
    return [...this.ports.values()].filter(({ entrance }) => entrance !== undefined).every((port) => this.accept(port))
  }

  leave(port, server) {
    const entrance = port.entrance
    port.entrance = undefined
    // The primary of a cluster closes when its last worker is gone, and listens anew for the next one. It has taken the
    // handle from the server it was made for; until it is back, connections wait here.
    if (server._handle === entrance || this.closed) this.shut(port)
  }

  /** What accepted is gone for good; what did not can be listened on later. */
  shut(port) {
    for (const { handle, accepting } of port.doors ?? []) if (accepting) handle.close()
    port.doors = port.doors?.filter(({ accepting }) => !accepting)
    for (const client of port.waiting.splice(0)) client.close()
  }

  /** The sockets live on with init and the next release; the app's servers stay open, on nothing. */
  close() {
    this.closed = true
    for (const port of this.ports.values()) this.shut(port)
  }
}

// ── Leaving ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Every connection of the servers it watches, and how they end without a client noticing. */
class Traffic {
  constructor(lingerMs) {
    this.lingerMs = lingerMs
    this.lingeringSince = undefined
    this.connections = new Set()
    this.watched = new WeakSet()
    // Told for every HTTP/1 request, also those that reach the app by 'checkContinue', and without a listener on its
    // server. The channel is held here: in older Node an unreferenced one loses its subscribers.
    this.requestStart = require('node:diagnostics_channel').channel('http.server.request.start')
    this.requestStart.subscribe(({ socket, response }) => {
      const connection = connectionOf(socket)
      if (connection === undefined) return
      this.begin(connection, response)
      if (this.lingeringSince !== undefined) endConnectionAfter(response)
    })
  }

  watch(server) {
    if (this.watched.has(server)) return
    this.watched.add(server)
    server.prependListener('connection', (socket) => {
      const connection = { socket, answering: new Set(), session: undefined, idleSince: performance.now() }
      socket[kConnection] = connection
      this.connections.add(connection)
      socket.once('close', () => this.connections.delete(connection))
    })
    // HTTP/2 only: no other server of Node's has such events.
    server.prependListener('session', (session) => {
      const connection = connectionOf(session?.socket)
      if (connection === undefined) return
      connection.session = session
      if (this.lingeringSince !== undefined) announceEnd(session)
    })
    server.prependListener('stream', (stream) => {
      const connection = connectionOf(stream?.session?.socket)
      if (connection !== undefined) this.begin(connection, stream)
    })
  }

  begin(connection, answer) {
    connection.answering.add(answer)
    answer.once('close', () => {
      connection.answering.delete(answer)
      connection.idleSince = performance.now()
    })
  }

  counts() {
    let requests = 0
    for (const { answering } of this.connections) requests += answering.size
    return { connections: this.connections.size, requests }
  }

  /**
   * Resolves when no connection is left. Idle ones are not closed at once: a request may be on its way in that very
   * instant, which is the whole of what server.close() with closeIdleConnections() loses. It is answered, and its
   * answer says that it was the last.
   */
  linger(graceMs) {
    this.lingeringSince = performance.now()
    for (const { answering, session } of this.connections) {
      for (const answer of answering) endConnectionAfter(answer)
      if (session !== undefined) announceEnd(session)
    }
    return new Promise((resolve) => {
      const sweep = () => {
        const lingeredMs = performance.now() - this.lingeringSince
        if (lingeredMs >= this.lingerMs) this.closeIdle()
        if (this.connections.size > 0 || lingeredMs < graceMs) return
        clearInterval(timer)
        resolve()
      }
      const timer = setInterval(sweep, SWEEP_MS)
      sweep()
    })
  }

  /** Also those that are no HTTP or no longer: nothing says when a WebSocket or an event stream would end. */
  closeIdle() {
    for (const { socket, session, answering, idleSince } of this.connections) {
      // A session closes once its open streams are answered.
      if (session !== undefined) session.close()
      else if ([...answering].every(isEventStream) && performance.now() - idleSince >= this.lingerMs) socket.destroy()
    }
  }
}

/** Of a TLS or HTTP/2 socket as well: the one below it is what the server accepted. */
function connectionOf(socket) {
  return socket?.[kConnection] ?? socket?._parent?.[kConnection]
}

/** Also when the app, or a proxy inside it, has a Connection header of its own. */
function endConnectionAfter(response) {
  if (response.headersSent || typeof response.writeHead !== 'function') return
  response.shouldKeepAlive = false
  const { writeHead } = response
  response.writeHead = function (...args) {
    if (!this.headersSent && this.hasHeader('connection')) this.setHeader('connection', 'close')
    return Reflect.apply(writeHead, this, args.map(withoutKeepAlive))
  }
}

/** Arrays of headers are left alone: who writes those seldom writes this one. */
function withoutKeepAlive(argument) {
  if (typeof argument !== 'object' || argument === null || Array.isArray(argument)) return argument
  const name = Object.keys(argument).find((name) => name.toLowerCase() === 'connection')
  return name === undefined ? argument : { ...argument, [name]: 'close' }
}

function isEventStream(answer) {
  return /^content-type: *text\/event-stream/im.test(answer._header ?? '')
}

function announceEnd(session) {
  if (session.closed || session.destroyed) return
  guarded('its client is not told that the server ends', () => session.goaway(0, NO_LAST_STREAM))
}

/** One drain, however many ask for it; whatever fails in it, it has an end. */
function drainOnce(told, sockets, traffic) {
  const drain = async () => {
    sockets.close()
    await Promise.all([
      traffic.linger(told.isWorker ? WORKER_GRACE_MS : 0),
      told.isWorker ? undefined : endClusterWorkers(),
    ])
  }
  let drained
  return () => {
    drained ??= drain().catch((error) => say(`${error.message}; the connections are not waited for`))
    return drained
  }
}

/**
 * The app hears of SIGTERM when its last connection has gone; without handlers of its own it would have ended, so it
 * does. Signals are emitted through the `process.emit` of the moment when the first listener is added: ours.
 */
function deferSigterm(drain) {
  const { emit } = process
  const listener = () => {}
  let asked = false
  let drained = false
  process.emit = function (event, ...args) {
    if (event !== 'SIGTERM' || drained) return Reflect.apply(emit, this, [event, ...args])
    if (asked) return true
    asked = true
    const handOver = () => {
      drained = true
      // Away before the app's handlers run: `signal-exit`, in many packages, ends the process only when it finds
      // nobody else listening.
      process.removeListener('SIGTERM', listener)
      if (process.listenerCount('SIGTERM') === 0) process.exit(0)
      process.emit('SIGTERM', ...args)
    }
    // In a turn of its own, after whoever asked on the control socket has been answered; and not in a promise, where an
    // error of the app's handler would be another kind of error.
    drain().then(() => setImmediate(handOver))
    return true
  }
  process.on('SIGTERM', listener)
}

/** They inherit the environment, from which we are removed, and their connections from the primary. */
function passOnToClusterWorkers(lingerMs) {
  const cluster = require('node:cluster')
  const { fork } = cluster
  const required = `--require "${__filename.replace(/["\\]/g, '\\$&')}"`
  cluster.fork = function (env) {
    const options = env?.NODE_OPTIONS ?? process.env.NODE_OPTIONS ?? ''
    const ours = { NODE_OPTIONS: `${options} ${required}`.trim(), TARMAC_LINGER_MS: lingerMs, [WORKER_MARK]: '1' }
    return Reflect.apply(fork, this, [{ ...env, ...ours }])
  }
}

/** Those there are now: whoever is forked meanwhile gets no connections, and ends with the primary. */
async function endClusterWorkers() {
  const workers = Object.values(require('node:cluster').workers ?? {})
  await Promise.all(
    workers.map(
      (worker) =>
        new Promise((resolve) => {
          worker.once('exit', resolve)
          worker.exitedAfterDisconnect = true // what apps look at before they fork another in its place
          worker.process.kill('SIGTERM')
        }),
    ),
  )
}

// ── Control ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Served from the start: the agent may ask before the app listens, or has even been loaded. */
function serveControl(net, fd, parts) {
  const server = net.createServer((connection) => {
    let text = ''
    connection.unref() // the agent's interest does not keep a finished app alive
    connection.setEncoding('utf8')
    connection.on('error', () => {}) // the client has gone: its own affair
    connection.on('data', (data) => {
      const lines = (text + data).split('\n')
      text = lines.pop()
      for (const line of lines) reply(connection, line.trim(), parts)
      if (text.length > MAX_COMMAND_CHARS) connection.destroy()
    })
  })
  server.on('error', (error) => say(`control socket: ${error.message}`))
  server.listen({ fd })
  server.unref()
}

async function reply(connection, command, { sockets, traffic, drain }) {
  const write = (answer) => connection.writable && connection.write(`${answer}\n`)
  if (command === 'activate') {
    write(sockets.closed ? 'draining' : sockets.activate() ? 'ok' : 'failed')
  } else if (command === 'status') {
    const { held, closed, listening } = sockets
    write(JSON.stringify({ pid: process.pid, held, draining: closed, listening, ...traffic.counts() }))
  } else if (command === 'drain') {
    await drain()
    write('drained')
  } else {
    write('unknown')
  }
}

// ── When something fails ────────────────────────────────────────────────────────────────────────────────────────────

function guarded(consequence, action) {
  try {
    action()
  } catch (error) {
    say(`${error.message}; ${consequence}`)
  }
}

/** Not process.stderr, which the app may replace, and which would be set up by us before the app could. */
function say(text) {
  try {
    require('node:fs').writeSync(2, `tarmac: ${text.replace(/\s+/g, ' ')}\n`)
  } catch {
    // nobody to tell
  }
}

if (process.env.LISTEN_FDS !== undefined || process.env[WORKER_MARK] !== undefined) {
  guarded('the app listens by itself', install)
}
