//! The accept loop: the only one of the network, for whatever is served.
//!
//! It only accepts: whatever a peer may delay happens in the task of its connection. An error ends neither the loop nor
//! the server; where descriptors are used up, connections that say nothing are closed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::listen::ListenSettings;
use crate::listen::calls::Answers;
use crate::listen::connection::Common;
use crate::listen::places::Places;
use crate::listen::tls::Tls;

/// How long to wait after an error that is not that of one connection: it would come again at once.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// How often such errors, and connections for which there is no place, are written to the log.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Serves what connects, over TLS where there is any, until `closing`, and then until all connections have ended.
pub async fn serve<S: Answers>(
    listener: TcpListener,
    service: S,
    tls: Option<Arc<Tls>>,
    settings: ListenSettings,
    closing: CancellationToken,
) {
    let places = Places::new(settings.connections_max, settings.connections_per_address_max);
    let calls = TaskTracker::new();
    let common = Arc::new(Common::new(service, tls, settings, calls.clone(), closing.clone()));
    let mut connections = JoinSet::new();
    let mut complaints = Complaints::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = closing.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => match places.take(address.ip()) {
                Some(place) => {
                    // Small messages must not wait for each other; where that cannot be set they do.
                    let _ = stream.set_nodelay(true);
                    let common = common.clone();
                    connections.spawn(async move { common.serve(stream, address, place).await });
                }
                None => complaints.note(|| format!("no place for a connection from {address}: all of them have calls")),
            },
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                complaints.note(|| format!("connections cannot be accepted just now: {error}"));
                places.displace();
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

/// Returns whether the next connection can be accepted all the same.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, TimedOut, WouldBlock};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | TimedOut | WouldBlock
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
