//! An HTTP/1.1 origin over raw sockets that serves what a test scripts, misbehaves on demand, and records what it saw.
//!
//! It runs on a thread of its own, so that it does not depend on the test's runtime: blocked, paused or none.
//!
//! ```ignore
//! let origin = Origin::start();
//! origin.object("/file", Object::new(7, 1 << 20));            // ranges, validators, conditions: all correct
//! origin.reply("/slow", Reply::ok("late").delay(SECOND));     // always the same
//! origin.handle("/flaky", |request| {                         // scripted: `nth` counts requests of this path from 0
//!     if request.nth == 0 { Reply::status(503) } else { Reply::ok("fine") }
//! });
//! let object = Object::new(1, 1 << 20);                       // a correct object with a fault on top
//! origin.handle("/cut", move |request| object.respond(request).cut_at(1000, Cut::Reset));
//! // … run the code under test against `origin.url("/file")` …
//! assert_eq!(origin.requests("/file").len(), 1);
//! ```
//!
//! Scripting a path again replaces what it serves, from the next request on: that is how a resource changes its version.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::answer::{Counts, write_reply};
use super::object::Object;
use super::reply::Reply;
pub use super::request::Request;
use super::request::{Wire, read_request};

type Handler = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

#[derive(Default)]
struct Seen {
    requests: Vec<Request>,
    by_path: HashMap<String, usize>,
}

impl Seen {
    /// Numbers the request among those of its path, and keeps it.
    fn record(&mut self, request: &mut Request) {
        let count = self.by_path.entry(request.path.clone()).or_default();
        request.nth = *count;
        *count += 1;
        self.requests.push(request.clone());
    }
}

struct State {
    handlers: Mutex<HashMap<String, Handler>>,
    seen: Mutex<Seen>,
    started: Instant,
    in_flight: AtomicUsize,
    peak: AtomicUsize,
    accepted: AtomicUsize,
    open: AtomicUsize,
    resumed: AtomicUsize,
    counts: Counts,
    kill: Mutex<CancellationToken>,
    tls: Option<tokio_rustls::TlsAcceptor>,
}

/// A running origin; dropping it closes its port and every connection.
pub struct Origin {
    address: SocketAddr,
    state: Arc<State>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Origin {
    /// On a free port of 127.0.0.1.
    pub fn start() -> Origin {
        Origin::start_at((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// On a free port of another loopback address, such as 127.0.0.2: another host with limits of its own.
    pub fn start_on(ip: impl Into<IpAddr>) -> Origin {
        Origin::start_at((ip.into(), 0).into())
    }

    /// On this very address: an origin that comes back where another one was.
    pub fn start_at(address: SocketAddr) -> Origin {
        Origin::run(StdListener::bind(address).unwrap(), None)
    }

    /// With TLS; see `super::tls` for configurations. Its [`Origin::url`] says `https://localhost`.
    pub fn start_tls(config: Arc<rustls::ServerConfig>) -> Origin {
        Origin::run(StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), Some(config.into()))
    }

    fn run(listener: StdListener, tls: Option<tokio_rustls::TlsAcceptor>) -> Origin {
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            handlers: Mutex::default(),
            seen: Mutex::default(),
            started: Instant::now(),
            in_flight: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            resumed: AtomicUsize::new(0),
            counts: Counts::default(),
            kill: Mutex::default(),
            tls,
        });
        let stop = CancellationToken::new();
        let (inner, ended) = (Arc::clone(&state), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                tokio::select! {
                    () = accept(listener, inner) => {}
                    () = ended.cancelled() => {}
                }
            });
        });
        Origin { address, state, stop, thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path (and query) here.
    pub fn url(&self, path: &str) -> String {
        match self.state.tls {
            Some(_) => format!("https://localhost:{}{path}", self.address.port()),
            None => format!("http://{}{path}", self.address),
        }
    }

    /// Answers requests of `path` (without query) by `handler`. A path that ends in `*` stands for all that begin so;
    /// an exact one goes before, then the longest. Without a match: 404.
    pub fn handle(&self, path: &str, handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
        self.state.handlers.lock().unwrap().insert(path.into(), Arc::new(handler));
    }

    /// Always the same answer.
    pub fn reply(&self, path: &str, reply: Reply) {
        self.handle(path, move |_| reply.clone());
    }

    /// These answers in order, then the last one for ever.
    pub fn replies(&self, path: &str, replies: Vec<Reply>) {
        self.handle(path, move |request| replies[request.nth.min(replies.len() - 1)].clone());
    }

    /// A correct resource.
    pub fn object(&self, path: &str, object: Object) {
        self.handle(path, move |request| object.respond(request));
    }

    /// Limits each connection's bodies to this rate; 0 lifts it.
    pub fn limit_connections(&self, bytes_per_second: u64) {
        self.state.counts.connection_rate.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Every request so far, in order of arrival.
    pub fn all_requests(&self) -> Vec<Request> {
        self.state.seen.lock().unwrap().requests.clone()
    }

    /// The requests of one path.
    pub fn requests(&self, path: &str) -> Vec<Request> {
        self.all_requests().into_iter().filter(|request| request.path == path).collect()
    }

    /// Requests in flight now.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight.load(Ordering::SeqCst)
    }

    /// The most requests that were in flight at once.
    pub fn peak(&self) -> usize {
        self.state.peak.load(Ordering::SeqCst)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// TLS handshakes that resumed an earlier session.
    pub fn resumed(&self) -> usize {
        self.state.resumed.load(Ordering::SeqCst)
    }

    /// Bytes of bodies written so far.
    pub fn body_bytes(&self) -> u64 {
        self.state.counts.body_bytes.load(Ordering::SeqCst)
    }

    /// Resets every open connection.
    pub fn kill_connections(&self) {
        std::mem::take(&mut *self.state.kill.lock().unwrap()).cancel();
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: StdListener, state: Arc<State>) {
    let listener = TcpListener::from_std(listener).unwrap();
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, peer)) = listener.accept().await else { continue };
        let number = state.accepted.fetch_add(1, Ordering::SeqCst);
        connections.spawn(connection(stream, peer, number, Arc::clone(&state)));
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, number: usize, state: Arc<State>) {
    let _open = Count::one(&state.open);
    let _ = stream.set_nodelay(true);
    let kill = state.kill.lock().unwrap().clone();
    // A second handle of the socket lets a kill reset it, whatever the task below is doing.
    let Ok(handle) = socket2::SockRef::from(&stream).try_clone() else { return };
    let serve = async {
        match &state.tls {
            None => serve(stream, peer, number, &state).await,
            Some(acceptor) => match acceptor.accept(stream).await {
                Ok(stream) => {
                    let is_resumed = stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
                    state.resumed.fetch_add(usize::from(is_resumed), Ordering::SeqCst);
                    serve(stream, peer, number, &state).await
                }
                Err(error) => Err(error),
            },
        }
    };
    tokio::select! {
        _ = serve => {}
        () = kill.cancelled() => {
            let _ = handle.set_linger(Some(Duration::ZERO));
        }
    }
}

/// Requests one after another until one of the two has enough.
async fn serve(stream: impl Wire, peer: SocketAddr, number: usize, state: &State) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(64 << 10, stream);
    while let Some(mut request) = read_request(&mut stream, peer, number).await? {
        let in_flight = Count::one(&state.in_flight);
        request.concurrent = in_flight.at_start;
        request.at = state.started.elapsed();
        state.peak.fetch_max(in_flight.at_start, Ordering::SeqCst);
        state.seen.lock().unwrap().record(&mut request);
        let handler = find(&state.handlers.lock().unwrap(), &request.path);
        let reply = handler.map_or_else(|| Reply::status(404), |handler| handler(&request));
        let goes_on = write_reply(&mut stream, &request, reply, &state.counts).await?;
        drop(in_flight);
        let asked = request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if !goes_on || asked {
            stream.get_mut().shutdown().await?;
            return Ok(());
        }
    }
    Ok(())
}

fn find(handlers: &HashMap<String, Handler>, path: &str) -> Option<Handler> {
    handlers.get(path).cloned().or_else(|| {
        let fits = |pattern: &str| pattern.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix));
        let longest = handlers.iter().filter(|(pattern, _)| fits(pattern)).max_by_key(|(pattern, _)| pattern.len());
        longest.map(|(_, handler)| Arc::clone(handler))
    })
}

/// Counts one up for as long as it lives.
struct Count<'a> {
    counter: &'a AtomicUsize,
    at_start: usize,
}

impl Count<'_> {
    fn one(counter: &AtomicUsize) -> Count<'_> {
        Count { counter, at_start: counter.fetch_add(1, Ordering::SeqCst) + 1 }
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::SeqCst);
    }
}
