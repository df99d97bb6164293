//! The accept loop: the only one, for whatever is listened on and served.
//!
//! It only accepts: whatever a peer may delay happens in the task of its connection. An error ends neither the loop nor
//! the server; where descriptors are used up, connections that no open call keeps are closed.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::listen::ListenSettings;
use crate::listen::budget::Budget;
use crate::listen::calls::Answers;
use crate::listen::connection::Common;
use crate::listen::peer::Origin;
use crate::listen::places::Places;
use crate::listen::socket::Socket;
use crate::listen::tls::Tls;

/// How long to wait after an error that is not that of one connection: it would come again at once.
const PAUSE: Duration = Duration::from_millis(100);
/// How often such errors, and connections for which there is no place, are written to the log.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// An address that stands for this machine, whose users have no bound of their own.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What is listened on.
#[derive(Debug)]
pub enum Listener {
    /// An address, over TLS where there is any.
    Network(TcpListener, Option<Arc<Tls>>),
    /// A Unix socket.
    Socket(Socket),
}

/// A connection that was accepted.
enum Arrival {
    Network(TcpStream, SocketAddr),
    Socket(UnixStream, Origin),
    /// One that must not be served.
    Refused,
}

impl Listener {
    /// Returns whether nobody but users of this machine can reach it.
    pub fn is_near(&self) -> bool {
        match self {
            Listener::Network(listener, _) => {
                listener.local_addr().is_ok_and(|it| it.ip().to_canonical().is_loopback())
            }
            Listener::Socket(_) => true,
        }
    }

    async fn accept(&self) -> io::Result<Arrival> {
        match self {
            Listener::Network(listener, _) => {
                listener.accept().await.map(|(stream, address)| Arrival::Network(stream, address))
            }
            Listener::Socket(socket) => {
                let accepted = socket.accept().await?;
                Ok(accepted.map_or(Arrival::Refused, |(stream, origin)| Arrival::Socket(stream, origin)))
            }
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listener::Network(listener, _) => match listener.local_addr() {
                Ok(address) => write!(f, "{address}"),
                Err(_) => f.write_str("?"),
            },
            Listener::Socket(socket) => write!(f, "unix:{}", socket.path().display()),
        }
    }
}

/// The places and the memory that listeners share.
#[derive(Clone, Debug)]
pub struct ConnectionRoom {
    places: Arc<Places>,
    inbound: Arc<Budget>,
    outbound: Arc<Budget>,
}

impl ConnectionRoom {
    /// Makes the room that these settings allow.
    pub fn new(settings: &ListenSettings) -> ConnectionRoom {
        ConnectionRoom {
            places: Places::new(settings.connections_max, settings.connections_per_address_max),
            inbound: Arc::new(Budget::new(settings.inbound_bytes_max)),
            outbound: Arc::new(Budget::new(settings.outbound_bytes_max)),
        }
    }
}

/// Serves what connects until `closing`, and then until all connections have ended.
pub async fn serve<S: Answers>(
    listener: Listener,
    service: S,
    room: ConnectionRoom,
    settings: ListenSettings,
    closing: CancellationToken,
) {
    let calls = TaskTracker::new();
    let tls = if let Listener::Network(_, tls) = &listener { tls.clone() } else { None };
    let common =
        Arc::new(Common::new(service, tls, [room.inbound, room.outbound], settings, calls.clone(), closing.clone()));
    let mut connections = JoinSet::new();
    let mut complaints = Complaints::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = closing.cancelled() => break,
        };
        let address = match &accepted {
            Ok(Arrival::Network(_, address)) => address.ip(),
            _ => HERE,
        };
        match accepted {
            Ok(Arrival::Refused) => complaints.note(|| format!("another user's connection to `{listener}` is refused")),
            Ok(arrival) => match room.places.take(address) {
                Some(place) => {
                    let common = common.clone();
                    connections.spawn(async move {
                        match arrival {
                            Arrival::Network(stream, address) => {
                                // Small messages must not wait for each other; where that cannot be set they do.
                                let _ = stream.set_nodelay(true);
                                common.serve(stream, address, place).await;
                            }
                            Arrival::Socket(stream, origin) => common.serve_socket(stream, origin, place).await,
                            Arrival::Refused => {}
                        }
                    });
                    if room.places.are_taken() {
                        // Whoever lost its place closes its descriptor before another one is taken.
                        tokio::task::yield_now().await;
                    }
                }
                None => complaints.note(|| {
                    format!("no place for a connection from {address}: all have calls, or known callers have all that one address may have")
                }),
            },
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                complaints.note(|| format!("connections cannot be accepted at `{listener}` just now: {error}"));
                room.places.displace();
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    // No client must connect to a server that does not answer it.
    drop(listener);
    while connections.join_next().await.is_some() {}
    calls.close();
    calls.wait().await;
}

/// Returns whether the next connection can be accepted all the same. Linux passes on errors of the network that the new
/// connection has met already.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted};
    use io::ErrorKind::{NetworkDown, NetworkUnreachable, TimedOut, WouldBlock};
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | TimedOut
            | WouldBlock
    ) || matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::PROTO | Errno::NOPROTOOPT | Errno::HOSTDOWN | Errno::NONET | Errno::OPNOTSUPP)
    )
}

/// What went wrong, said once in a while, however often it happens.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    /// Those since the last that was said.
    unsaid: u64,
}

impl Complaints {
    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.last.is_some_and(|last| last.elapsed() < LOG_INTERVAL) {
            self.unsaid += 1;
            return;
        }
        tracing::warn!(unsaid = self.unsaid, "{}", text());
        (self.last, self.unsaid) = (Some(Instant::now()), 0);
    }
}
