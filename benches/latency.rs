//! One body over a path of 100 ms: `cargo bench --bench latency [MIB]`.
//!
//! A relay keeps what passes for half of the time each way. Over HTTP/2 the peer may send only as much as the windows of the
//! stream allow, and they have to grow to what the path holds, as TCP's own do for HTTP/1.1. What counts is the ratio.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // A program for people at a terminal, where a panic says enough.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::missing_panics_doc)] // What tests share has more than is needed here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use haul::net::{Guard, HttpClient, Profile, Request, Transport};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

#[path = "../tests/support/relay.rs"]
mod relay;
#[path = "../tests/support/tls.rs"]
mod tls;

use relay::Relay;
use tls::{Authority, Leaf};

const ROUND_TRIP: Duration = Duration::from_millis(100);
const ROUNDS: usize = 3;

fn main() {
    let mib: usize = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(128);
    // The origin and the relay have a thread of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let body = Bytes::from(vec![7; mib << 20]);
        let authority = Authority::new();
        let mut best = [0f64; 2];
        for _ in 0..ROUNDS {
            for (rate, protocol) in best.iter_mut().zip(["http/1.1", "h2"]) {
                let (address, _tasks) = origin(&authority, protocol, body.clone()).await;
                let relay = Relay::start(address, ROUND_TRIP).await;
                let took = download(&authority, relay.address, mib << 20).await;
                let reached = mib as f64 / took.as_secs_f64();
                println!("{protocol}: {reached:.1} MiB/s");
                *rate = rate.max(reached);
            }
        }
        println!("{:.1} MiB/s over HTTP/2 at {ROUND_TRIP:?}, {:.2} x HTTP/1.1", best[1], best[1] / best[0]);
    });
}

async fn origin(authority: &Authority, protocol: &str, body: Bytes) -> (SocketAddr, JoinSet<()>) {
    let leaf = Leaf { alpn: vec![protocol.as_bytes().to_vec()], ..Leaf::good() };
    let acceptor = TlsAcceptor::from(authority.server(leaf));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, body) = (acceptor.clone(), body.clone());
            open.spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |_| {
                    let answer = http::Response::new(Full::new(body.clone()));
                    async move { Ok::<_, std::convert::Infallible>(answer) }
                });
                let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                builder.http2().max_send_buf_size(64 << 20);
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, tasks)
}

async fn download(authority: &Authority, address: SocketAddr, bytes: usize) -> Duration {
    let client = HttpClient::new(Guard { allow_private: true, ..Guard::default() });
    let mut profile = Profile::default();
    profile.http.ca_pem = Some(authority.pem());
    let (url, profile) = (format!("https://localhost:{}/", address.port()).parse().unwrap(), Arc::new(profile));
    let started = Instant::now();
    let mut answer = client.send(Request::get(url), &profile).await.unwrap();
    let mut came = 0;
    while let Some(chunk) = answer.body.chunk().await {
        came += chunk.unwrap().len();
    }
    assert_eq!(came, bytes);
    started.elapsed()
}
