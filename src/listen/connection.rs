//! One connection, from the first byte to the last.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::listen::ListenSettings;
use crate::listen::budget::{Budget, Share};
use crate::listen::calls::{Answers, Calls};
use crate::listen::first_bytes::FirstBytes;
use crate::listen::peer::{ByAnybody, Origin, Peer};
use crate::listen::places::Place;
use crate::listen::tls::{Certified, Tls};
use crate::listen::turn;
use crate::listen::unread::Unread;

/// How long the head of an HTTP/1 request may take, and how long a connection of HTTP/1 may wait for another one.
const HEAD_TIME: Duration = Duration::from_secs(20);
/// The silence after which the peer of an HTTP/2 connection is pinged, and the time without an answer after which the
/// connection is closed.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(20));
/// How long the peer of an idle connection that lost its place, or of one that ends with the server, has to take the news.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long the calls of a connection have to end when the server ends: one whose request is never whole ends by nothing else.
const LEAVE_TIME: Duration = Duration::from_secs(5);

/// What the connections of a listener share.
pub(super) struct Common<S> {
    pub(super) service: S,
    pub(super) settings: ListenSettings,
    pub(super) tls: Option<Arc<Tls>>,
    /// For messages that come, and for answers that go.
    pub(super) budgets: [Arc<Budget>; 2],
    /// The protocols of HTTP, and the tasks that they start for the calls of a connection.
    pub(super) http: Builder<Calling>,
    pub(super) closing: CancellationToken,
}

impl<S: Answers> Common<S> {
    pub(super) fn new(
        service: S,
        tls: Option<Arc<Tls>>,
        budgets: [Arc<Budget>; 2],
        settings: ListenSettings,
        calls: TaskTracker,
        closing: CancellationToken,
    ) -> Self {
        let mut http = Builder::new(Calling(calls));
        http.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.streams_max)
            // Calls whose deadline is over before the server has looked at them. The library allows 20, and then ends the connection
            // under all other calls; so many that wait may be open as well.
            .max_pending_accept_reset_streams(settings.streams_max as usize)
            .keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1);
        Common { service, settings, tls, budgets, http, closing }
    }

    /// Serves a connection until it ends: TLS first, where there is any.
    ///
    /// What TLS needs is on the heap, so that connections without it, most of which are silent, do not reserve the room for it.
    pub(super) async fn serve(&self, stream: TcpStream, address: SocketAddr, place: Place) {
        let origin = Origin::Network(address);
        let Some(tls) = &self.tls else {
            return self.speak(stream, Ends { origin, tls: None }, place).await;
        };
        if let Some((stream, ended)) = Box::pin(self.encrypt(tls, stream, address, &place)).await {
            Box::pin(self.speak(stream, Ends { origin, tls: Some(ended) }, place)).await;
        }
    }

    /// Shakes hands; `None` where that fails, or the connection has to end.
    async fn encrypt(
        &self,
        tls: &Tls,
        stream: TcpStream,
        address: SocketAddr,
        place: &Place,
    ) -> Option<(Box<TlsStream<TcpStream>>, Ended)> {
        let (loaded, later) = tls.begin();
        let handshake = TlsAcceptor::from(loaded.config.clone()).accept(stream);
        let accepted = tokio::select! {
            accepted = tokio::time::timeout(self.settings.handshake_time, handshake) => accepted,
            () = place.displaced() => return None,
            () = self.closing.cancelled() => return None,
        };
        match accepted {
            Ok(Ok(stream)) => {
                let client = Certified::of(stream.get_ref().1, later);
                Some((Box::new(stream), Ended { names: loaded.names.clone(), client }))
            }
            Ok(Err(error)) => {
                tracing::debug!(%address, "a TLS handshake failed: {error}");
                None
            }
            Err(_) => {
                tracing::debug!(%address, "a TLS handshake took too long");
                None
            }
        }
    }

    /// Serves a connection of a Unix socket until it ends.
    pub(super) async fn serve_socket(&self, stream: UnixStream, origin: Origin, place: Place) {
        self.speak(stream, Ends { origin, tls: None }, place).await;
    }

    async fn speak<T>(&self, stream: T, Ends { origin, tls }: Ends, place: Place)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let place = Arc::new(place);
        let [inbound, outbound] = &self.budgets;
        let share = Arc::new(Share::new(inbound.clone(), self.settings.inbound_bytes_per_connection_max));
        let outbound = Arc::new(Share::new(outbound.clone(), self.settings.outbound_bytes_per_connection_max));
        let is_encrypted = tls.is_some();
        let (certificate_names, client) = tls.map(|tls| (tls.names, tls.client)).unwrap_or_default();
        let (certificate, mut client) = client.map(|client| (client.shown.clone(), client)).unzip();
        let by_anybody = ByAnybody::default();
        let peer = Arc::new(Peer { origin, is_encrypted, certificate, certificate_names, share, outbound, by_anybody });
        let unread = Unread::new();
        let unsent = unread.clone().silent();
        let calls = Calls { service: self.service.clone(), peer, place: place.clone(), unread: unread.clone() };
        let said = Arc::new(AtomicBool::new(false));
        let (stream, turns) = turn::kept(FirstBytes::new(stream, said.clone()));
        let io = TokioIo::new(stream);
        let mut connection = pin!(self.http.serve_connection(io, calls));
        let mut silence = pin!(tokio::time::sleep(self.settings.handshake_time));
        let mut age = pin!(tokio::time::sleep(jittered(self.settings.age_max)));
        let mut stuck = pin!(unread.stuck(self.settings.answer_idle_max));
        let mut leave = pin!(tokio::time::sleep(FOREVER));
        let (mut is_heard, mut is_ending, mut is_closing) = (false, false, false);
        loop {
            tokio::select! {
                ended = turns.drive(connection.as_mut(), &unsent) => {
                    if let Err(error) = ended {
                        tracing::debug!(?origin, "a connection failed: {error}");
                    }
                    return;
                }
                () = silence.as_mut(), if !is_heard => {
                    if !said.load(Ordering::Relaxed) && !place.has_called() {
                        tracing::debug!(?origin, "a connection said nothing and is closed");
                        return;
                    }
                    is_heard = true;
                }
                () = place.displaced() => {
                    // Whoever never called loses nothing; others get a GOAWAY, so that they connect anew. Calls that go on would
                    // have each take all of its time, so they are few.
                    let farewell = if place.has_called() { place.farewell() } else { None };
                    if let Some(_farewell) = farewell {
                        connection.as_mut().graceful_shutdown();
                        let _ = tokio::time::timeout(FAREWELL, turns.drive(connection.as_mut(), &unsent)).await;
                    }
                    return;
                }
                () = stuck.as_mut() => {
                    tracing::debug!(?origin, "a connection is closed, since its client reads no answer");
                    return;
                }
                why = lost(&mut client) => {
                    tracing::info!(?origin, "a connection is closed, since its certificate is not accepted any more: {why}");
                    return;
                }
                () = age.as_mut(), if !is_ending => {
                    is_ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = self.closing.cancelled(), if !is_closing => {
                    (is_ending, is_closing) = (true, true);
                    connection.as_mut().graceful_shutdown();
                    // Whoever reads is told how its calls end, and whoever does not cannot hold up the end of the server.
                    stuck.set(unread.stuck(FAREWELL));
                    leave.as_mut().reset(Instant::now() + LEAVE_TIME);
                }
                () = leave.as_mut() => {
                    tracing::debug!(?origin, "a connection is cut, since its calls do not end with the server");
                    return;
                }
            }
        }
    }
}

/// What is known of the two ends of a connection before anything is said on it.
struct Ends {
    origin: Origin,
    tls: Option<Ended>,
}

/// What a handshake of TLS has shown.
struct Ended {
    /// The DNS names of the server's certificate.
    names: Arc<[String]>,
    client: Option<Certified>,
}

/// Waits until the certificate of the client does not count any more; for ever where it has shown none.
async fn lost(client: &mut Option<Certified>) -> String {
    match client {
        Some(client) => client.lost().await,
        None => std::future::pending().await,
    }
}

/// A time that differs between connections by a tenth, so that those of one moment do not all end in one.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(rand::random_range(0.9..=1.0)).min(FOREVER)
}

/// What a timer can still count.
const FOREVER: Duration = Duration::from_secs(3_600 * 24 * 365 * 10);

/// Runs the calls of connections, each as a task that the listener awaits.
#[derive(Clone, Debug)]
pub(super) struct Calling(TaskTracker);

impl<F> hyper::rt::Executor<F> for Calling
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, call: F) {
        self.0.spawn(call);
    }
}
