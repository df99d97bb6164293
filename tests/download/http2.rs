//! Downloads that share a connection of HTTP/2, of which some are read slowly: those hold up no others, and each file is
//! what it is to be, whatever is reset on the way.
//!
//! Seeds are fresh each run, and stand in every panic; `HAUL_SEED=N` plays one again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join, join_all};
use h2::server::SendResponse;
use haul::model::failure::{Failure, FailureReason};
use haul::model::outcome::AttemptEnd;
use haul::model::spec::DownloadSpec;
use haul::net::{Body, BodySource, Guard, HttpClient, Profile, Request, Response, Transport};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::rig::Rig;
use super::support::faults::{Dice, seeds};
use super::support::object::Object;
use super::support::tls::{Authority, Leaf};

const PLAYS: u64 = 4;
const SLOW: usize = 12;
const QUICK: usize = 4;
const ATTEMPTS_MAX: usize = 10;

/// An origin over HTTP/2 with an object at each path that is a number. Some of its first answers are reset within.
struct Peer {
    address: SocketAddr,
    authority: Authority,
    _tasks: JoinSet<()>,
}

fn object(path: &str) -> Object {
    let seed: u64 = path[1..].parse().unwrap();
    Object::new(seed, 2_500_000 + seed * 1000)
}

impl Peer {
    async fn start(seed: u64) -> Peer {
        let authority = Authority::new();
        let acceptor = TlsAcceptor::from(authority.server(Leaf { alpn: vec![b"h2".to_vec()], ..Leaf::good() }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let nth = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, nth) = (acceptor.clone(), Arc::clone(&nth));
                open.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    let mut answers = JoinSet::new();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let nth = nth.fetch_add(1, Ordering::SeqCst);
                        let mut dice = Dice::new(seed.wrapping_add(nth));
                        let cut = (nth < 12 && dice.one_in(3)).then(|| dice.below(2_000_000) as usize);
                        answers.spawn(answer(request, respond, cut));
                    }
                });
            }
        });
        Peer { address, authority, _tasks: tasks }
    }
}

async fn answer(request: http::Request<h2::RecvStream>, mut respond: SendResponse<Bytes>, cut: Option<usize>) {
    let object = object(request.uri().path());
    let range = request.headers().get("range").map(|value| value.to_str().unwrap().to_owned());
    let (first, last) =
        range.as_deref().and_then(|text| text.strip_prefix("bytes=")?.split_once('-')).unwrap_or(("0", ""));
    let (first, end) =
        (first.parse::<u64>().unwrap(), last.parse::<u64>().map_or(object.size(), |last| object.size().min(last + 1)));
    let head =
        http::Response::builder().header("etag", format!("\"{}\"", object.size())).header("accept-ranges", "bytes");
    let head = match range {
        Some(_) => head.status(206).header("content-range", format!("bytes {first}-{}/{}", end - 1, object.size())),
        None => head.status(200),
    };
    let head = head.header("content-length", end - first).body(()).unwrap();
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    let body = Bytes::from(object.slice(first..end));
    match cut.filter(|cut| *cut < body.len()) {
        None => drop(stream.send_data(body, true)),
        Some(cut) => {
            let _ = stream.send_data(body.slice(..cut), false);
            // So that some of it is on its way before the reset, which takes what is not.
            tokio::time::sleep(Duration::from_millis(20)).await;
            stream.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    }
    let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
}

/// A transport whose readers wait, behind the first bytes of a body, until they are let go.
struct Held {
    inner: Arc<HttpClient>,
    let_go: CancellationToken,
}

struct HeldBody {
    inner: Body,
    let_go: CancellationToken,
    has_begun: bool,
}

impl Transport for Held {
    fn send<'a>(&'a self, request: Request, profile: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        Box::pin(async move {
            let response = self.inner.send(request, profile).await?;
            let body = HeldBody { inner: response.body, let_go: self.let_go.clone(), has_begun: false };
            Ok(Response { body: Body(Box::new(body)), ..response })
        })
    }
}

impl BodySource for HeldBody {
    fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>> {
        Box::pin(async move {
            if std::mem::replace(&mut self.has_begun, true) {
                self.let_go.cancelled().await;
            }
            self.inner.chunk().await
        })
    }
}

#[tokio::test]
async fn slow_readers_hold_up_no_others_and_each_file_is_right() {
    for seed in seeds(PLAYS) {
        play(seed).await;
    }
}

async fn play(seed: u64) {
    let peer = Peer::start(seed).await;
    let mut rig = Rig::new();
    Arc::make_mut(&mut rig.profile).http.ca_pem = Some(peer.authority.pem());
    let client = Arc::new(HttpClient::new(Guard { allow_private: true, ..Guard::default() }));
    let let_go = CancellationToken::new();
    let held = Held { inner: Arc::clone(&client), let_go: let_go.clone() };
    let (rig, held, client, peer) = (&rig, &held, &*client, &peer);
    let one = async |nth: usize, transport: &dyn Transport| {
        let path = nth.to_string();
        let url = format!("https://localhost:{}/{path}", peer.address.port());
        let spec = DownloadSpec { url, path: path.clone(), ..DownloadSpec::default() };
        let mut told = Vec::new();
        for _ in 0..ATTEMPTS_MAX {
            let (end, report) = rig.attempt_through(transport, &path, &spec).await;
            if matches!(end, AttemptEnd::Done(_)) {
                assert_eq!(
                    rig.read(&format!("job/{path}")),
                    object(&format!("/{path}")).bytes(),
                    "seed {seed}: {path}"
                );
                return;
            }
            told.push(format!("{end:?} {report:?}"));
        }
        panic!("seed {seed}: {path} does not come: {}", told.join("\n"));
    };
    let slow = join_all((0..SLOW).map(|nth| one(nth, held)));
    let quick = async {
        join_all((SLOW..SLOW + QUICK).map(|nth| one(nth, client))).await;
        // Only now: they came while the others held what they had.
        let_go.cancel();
    };
    join(slow, quick).await;
}

/// What goes on behind its `Content-Length` contradicts itself (RFC 9113, section 8.1.1), wherever its frames end.
#[tokio::test]
async fn a_body_that_goes_on_behind_its_length_is_no_file() {
    let authority = Authority::new();
    let acceptor = TlsAcceptor::from(authority.server(Leaf { alpn: vec![b"h2".to_vec()], ..Leaf::good() }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            open.spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let length: usize = request.uri().path()[1..].parse().unwrap();
                    let head = http::Response::builder().header("content-length", length).body(()).unwrap();
                    let mut stream = respond.send_response(head, false).unwrap();
                    if length > 0 {
                        let _ = stream.send_data(Bytes::from(vec![1; length]), false);
                    }
                    let _ = stream.send_data(Bytes::from_static(b"more"), true);
                }
            });
        }
    });
    let mut rig = Rig::new();
    Arc::make_mut(&mut rig.profile).http.ca_pem = Some(authority.pem());
    let client = HttpClient::new(Guard { allow_private: true, ..Guard::default() });
    for length in ["0", "100"] {
        let url = format!("https://localhost:{port}/{length}");
        let spec = DownloadSpec { url, path: length.to_owned(), ..DownloadSpec::default() };
        for _ in 0..2 {
            let (end, _) = rig.attempt_through(&client, length, &spec).await;
            let AttemptEnd::Failed(failure) = end else { panic!("{length}: {end:?}") };
            assert_eq!((failure.reason, failure.retryable), (FailureReason::Protocol, true), "{length}: {failure}");
        }
    }
}
