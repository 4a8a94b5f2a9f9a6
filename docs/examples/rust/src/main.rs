//! Takes its socket from init and leaves without losing a request. The standard library alone, so HTTP is by hand (GET
//! only); what matters here works the same with a framework of yours.

use std::io::{BufRead, BufReader, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::io::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use std::{env, process, thread};

/// A connection that is idle for so long is closed; so the server has left so long after SIGTERM at the latest.
const IDLE: Duration = Duration::from_secs(5);

static LEAVING: AtomicBool = AtomicBool::new(false);
static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

fn main() -> Result<()> {
    let listener = inherited_listener()?;
    // Also the next release takes connections from this socket: the one we were woken for may be gone.
    listener.set_nonblocking(true)?;
    posix::on_sigterm(leave);
    println!("listens on {}", listener.local_addr()?);

    while !LEAVING.load(SeqCst) {
        posix::await_readable(listener.as_raw_fd(), Duration::from_millis(200));
        if let Ok((stream, _)) = listener.accept() {
            CONNECTIONS.fetch_add(1, SeqCst);
            thread::spawn(move || {
                let _ = answer(&stream); // its client has gone
                drop(stream);
                CONNECTIONS.fetch_sub(1, SeqCst);
            });
        }
    }

    // Our descriptor alone: the next release goes on accepting with its own.
    drop(listener);
    // Idle connections are left open: what still comes on them is answered, with "Connection: close".
    while CONNECTIONS.load(SeqCst) > 0 {
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

extern "C" fn leave(_: i32) {
    LEAVING.store(true, SeqCst);
}

/// The socket that init keeps open through every switch (sd_listen_fds(3)); without an init, one of its own.
fn inherited_listener() -> Result<TcpListener> {
    if env::var("LISTEN_PID").as_deref() == Ok(&process::id().to_string()) {
        return Ok(unsafe { TcpListener::from_raw_fd(3) });
    }
    TcpListener::bind(format!(
        "[::]:{}",
        env::var("PORT").unwrap_or("3000".into())
    ))
}

fn answer(mut stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(request) = lines.next().transpose()? {
        let mut last = false;
        while let Some(header) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
            last |= header.eq_ignore_ascii_case("connection: close");
        }
        last |= LEAVING.load(SeqCst);
        let body = match request.split(' ').nth(1) {
            Some("/health") => "ok\n".to_string(),
            _ => format!(
                "rust, release {}\n",
                env::var("TARMAC_RELEASE").unwrap_or_default()
            ),
        };
        let (length, connection) = (body.len(), if last { "close" } else { "keep-alive" });
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: {connection}\r\n\r\n"
        );
        stream.write_all((head + &body).as_bytes())?;
        if last {
            break;
        }
    }
    Ok(())
}

/// Two calls the standard library has no words for; the crates `libc`, `signal-hook` and `mio` have them.
mod posix {
    use std::{os::raw::*, time::Duration};

    #[repr(C)]
    struct PollFd {
        fd: c_int,
        events: c_short,
        revents: c_short,
    }

    extern "C" {
        fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
        fn poll(fds: *mut PollFd, count: c_ulong, timeout_ms: c_int) -> c_int;
    }

    const SIGTERM: c_int = 15;
    const POLLIN: c_short = 1;

    pub fn on_sigterm(handler: extern "C" fn(c_int)) {
        unsafe { signal(SIGTERM, handler) };
    }

    /// Until there is a connection, a signal comes, or the time is over.
    pub fn await_readable(fd: c_int, timeout: Duration) {
        let mut fds = PollFd {
            fd,
            events: POLLIN,
            revents: 0,
        };
        unsafe { poll(&mut fds, 1, timeout.as_millis() as c_int) };
    }
}
