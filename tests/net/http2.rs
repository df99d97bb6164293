//! HTTP/2: one connection for many, and what happens when it goes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use haul::net::Profile;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::common::{client, fetch, one_thread_each, profile};
use crate::support::tls::{Authority, Leaf};

/// A server of HTTP/2 that ends each connection, by GOAWAY, after so many requests.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

async fn serve(authority: &Authority, requests_max: usize) -> Server {
    let leaf = Leaf { alpn: vec![b"h2".to_vec()], ..Leaf::good() };
    let acceptor = TlsAcceptor::from(authority.server(leaf));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            let acceptor = acceptor.clone();
            open.spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let served = Arc::new(AtomicUsize::new(0));
                let count = Arc::clone(&served);
                let service = service_fn(move |request: http::Request<Incoming>| {
                    count.fetch_add(1, Ordering::SeqCst);
                    async move {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        let text = format!("{} {:?}", request.uri(), request.version());
                        Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(text))))
                    }
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
                loop {
                    let tick = tokio::time::sleep(Duration::from_millis(2));
                    tokio::select! {
                        _ = connection.as_mut() => return,
                        () = tick => if served.load(Ordering::SeqCst) >= requests_max {
                            connection.as_mut().graceful_shutdown();
                        },
                    }
                }
            });
        }
    });
    Server { address, connections, _tasks: tasks }
}

/// A busy machine may take its time over a handshake, and who waits for another's turn long enough dials too.
fn patient(authority: &Authority) -> Arc<Profile> {
    profile(|profile| {
        profile.http.ca_pem = Some(authority.pem());
        profile.timeouts.connect = Duration::from_secs(600);
        profile.timeouts.response_headers = Duration::from_secs(600);
    })
}

#[tokio::test]
async fn many_requests_share_one_connection() {
    let authority = Authority::new();
    let server = serve(&authority, usize::MAX).await;
    let (client, profile) = (client(), patient(&authority));
    let url = format!("https://localhost:{}/x?y", server.address.port());
    let ends = join_all((0..50).map(|_| fetch(&client, &url, &profile))).await;
    for end in ends {
        assert_eq!(String::from_utf8(end.unwrap().1).unwrap(), format!("{url} HTTP/2.0"));
    }
    // Where a handshake takes long, the path is taken to be long, and streams have windows of which there is room for few.
    assert!(server.connections.load(Ordering::SeqCst) <= 3);
    let ends = join_all((0..150).map(|_| fetch(&client, &url, &profile))).await;
    assert!(ends.into_iter().all(|end| end.is_ok()));
    assert!((2..=6).contains(&server.connections.load(Ordering::SeqCst)), "one has room for 100");
    client.close().await;
}

#[test]
fn threads_share_what_is_unused_and_have_their_own_else() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let authority = Authority::new();
    let server = runtime.block_on(serve(&authority, usize::MAX));
    let (client, profile) = (client(), patient(&authority));
    let url = format!("https://localhost:{}/", server.address.port());
    one_thread_each(3, |runtime| {
        for _ in 0..2 {
            let ends = runtime.block_on(join_all((0..3).map(|_| fetch(&client, &url, &profile))));
            assert!(ends.into_iter().all(|end| end.is_ok()));
        }
    });
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_goaway_costs_nobody_anything() {
    let authority = Authority::new();
    let server = serve(&authority, 3).await;
    let (client, profile) = (client(), patient(&authority));
    let url = format!("https://localhost:{}/", server.address.port());
    for _ in 0..10 {
        let ends = join_all((0..4).map(|_| fetch(&client, &url, &profile))).await;
        for end in ends {
            end.unwrap();
        }
    }
    assert!(server.connections.load(Ordering::SeqCst) > 3);
}
