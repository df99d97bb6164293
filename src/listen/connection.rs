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
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::listen::ListenSettings;
use crate::listen::budget::{Budget, Share};
use crate::listen::calls::{Answers, Calls};
use crate::listen::first::First;
use crate::listen::peer::Peer;
use crate::listen::places::Place;
use crate::listen::tls::{Client, Tls};

/// How long the head of an HTTP/1 request may take, and how long a connection of HTTP/1 may wait for another one.
const HEAD_TIME: Duration = Duration::from_secs(20);
/// The silence after which the peer of an HTTP/2 connection is pinged, and the time without an answer after which the
/// connection is closed.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(20));
/// How long the peer of an idle connection that lost its place has to take the news.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the connections of a listener share.
pub(super) struct Common<S> {
    pub(super) service: S,
    pub(super) settings: ListenSettings,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) budget: Arc<Budget>,
    /// The protocols of HTTP, and the tasks that they start for the calls of a connection.
    pub(super) http: Builder<Calling>,
    pub(super) closing: CancellationToken,
}

impl<S: Answers> Common<S> {
    pub(super) fn new(
        service: S,
        tls: Option<Arc<Tls>>,
        settings: ListenSettings,
        calls: TaskTracker,
        closing: CancellationToken,
    ) -> Self {
        let mut http = Builder::new(Calling(calls));
        http.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.streams_max)
            .keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1);
        let budget = Arc::new(Budget::new(settings.inbound_bytes_max));
        Common { service, settings, tls, budget, http, closing }
    }

    /// Serves a connection until it ends: TLS first, where there is any.
    pub(super) async fn serve(&self, stream: TcpStream, address: SocketAddr, place: Place) {
        let Some(tls) = &self.tls else {
            return self.speak(stream, Some(address), None, Arc::default(), place).await;
        };
        let loaded = tls.current();
        let handshake = TlsAcceptor::from(loaded.config.clone()).accept(stream);
        let accepted = tokio::select! {
            accepted = tokio::time::timeout(self.settings.handshake_time, handshake) => accepted,
            () = place.displaced() => return,
            () = self.closing.cancelled() => return,
        };
        match accepted {
            Ok(Ok(stream)) => {
                let client = tls.client(stream.get_ref().1);
                // On the heap, so that connections without TLS do not reserve the room for it.
                Box::pin(self.speak(stream, Some(address), Some(client), loaded.names.clone(), place)).await;
            }
            Ok(Err(error)) => tracing::debug!(%address, "a TLS handshake failed: {error}"),
            Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
        }
    }

    /// Serves a connection of the server's own user until it ends.
    pub(super) async fn serve_owner(&self, stream: UnixStream, place: Place) {
        self.speak(stream, None, None, Arc::default(), place).await;
    }

    async fn speak<T>(
        &self,
        stream: T,
        address: Option<SocketAddr>,
        client: Option<Client>,
        certificate_names: Arc<[String]>,
        place: Place,
    ) where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let place = Arc::new(place);
        let share = Arc::new(Share::new(self.budget.clone(), self.settings.inbound_bytes_per_connection_max));
        let peer = Arc::new(Peer { address, client, certificate_names, share });
        let calls = Calls { service: self.service.clone(), peer, place: place.clone() };
        let said = Arc::new(AtomicBool::new(false));
        let io = TokioIo::new(First::new(stream, said.clone()));
        let mut connection = pin!(self.http.serve_connection(io, calls));
        let mut silence = pin!(tokio::time::sleep(self.settings.handshake_time));
        let mut age = pin!(tokio::time::sleep(jittered(self.settings.age_max)));
        let (mut is_heard, mut is_ending) = (false, false);
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(?address, "a connection failed: {error}");
                    }
                    return;
                }
                () = silence.as_mut(), if !is_heard => {
                    if !said.load(Ordering::Relaxed) && !place.has_called() {
                        tracing::debug!(?address, "a connection said nothing and is closed");
                        return;
                    }
                    is_heard = true;
                }
                () = place.displaced() => {
                    // Whoever never called loses nothing; others get a GOAWAY, so that they connect anew.
                    if place.has_called() {
                        connection.as_mut().graceful_shutdown();
                        let _ = tokio::time::timeout(FAREWELL, connection.as_mut()).await;
                    }
                    return;
                }
                () = age.as_mut(), if !is_ending => {
                    is_ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = self.closing.cancelled(), if !is_ending => {
                    is_ending = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
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
