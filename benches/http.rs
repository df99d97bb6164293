//! What the network layer costs for a small response: `cargo bench --bench http [REQUESTS]`.
//!
//! One thread asks for 1 KiB, 64 requests at once, over kept connections; another is the origin, over raw sockets. What
//! counts is the CPU time of the asking thread for each request, beside that of bare hyper connections in the same run.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // A program for people at a terminal, where a panic says enough.

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use haul::net::{Body, Guard, HttpClient, Profile, Request, Session, Transport, exchange};
use http::{HeaderValue, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use url::Url;

const SLOTS: u32 = 64;
const ROUNDS: u32 = 3;

fn main() {
    let requests = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(200_000);
    let address = start_origin();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut best = [f64::MAX; 3];
    for _ in 0..ROUNDS {
        let measured = runtime.block_on(async {
            [bare(address, requests).await, sent(address, requests).await, exchanged(address, requests).await]
        });
        for (best, us) in best.iter_mut().zip(measured) {
            *best = best.min(us);
        }
    }
    let [bare, sent, exchanged] = best;
    println!(
        "best of {ROUNDS}, us CPU each: bare hyper {bare:.2}, HttpClient {sent:.2} ({:.2} x), exchange {exchanged:.2} ({:.2} x)",
        sent / bare,
        exchanged / bare
    );
}

/// A connection for each slot, without a pool, timeouts or anything else.
async fn bare(address: SocketAddr, requests: u32) -> f64 {
    let host = HeaderValue::from_str(&address.to_string()).unwrap();
    let mut drivers = JoinSet::new();
    let mut senders = Vec::new();
    for _ in 0..SLOTS {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        drivers.spawn(driver);
        senders.push(sender);
    }
    let ask = async |sender: &mut hyper::client::conn::http1::SendRequest<Full<Bytes>>| {
        let mut request = http::Request::new(Full::default());
        *request.uri_mut() = "/some/path?of=usual&length=1".parse().unwrap();
        request.headers_mut().insert(header::HOST, host.clone());
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("haul/0.1.0"));
        sender.ready().await.unwrap();
        let body = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes().len(), 1024);
    };
    measure("bare hyper", requests, senders, ask).await
}

/// One hop through the pool.
async fn sent(address: SocketAddr, requests: u32) -> f64 {
    let (client, profile, url) = parts(address);
    let ask = async |(): &mut ()| {
        let mut request = request(&url);
        request.headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        request.headers.insert(header::USER_AGENT, HeaderValue::from_static("haul/0.1.0"));
        read(client.send(request, &profile).await.unwrap().body).await;
    };
    measure("HttpClient", requests, vec![(); SLOTS as usize], ask).await
}

/// With what a profile adds, and everything that redirects and cookies would need.
async fn exchanged(address: SocketAddr, requests: u32) -> f64 {
    let (client, profile, url) = parts(address);
    let ask = async |(): &mut ()| {
        let mut session = Session::new(url.as_str());
        read(exchange(&client, request(&url), &profile, &mut session).await.unwrap().body).await;
    };
    measure("exchange", requests, vec![(); SLOTS as usize], ask).await
}

fn parts(address: SocketAddr) -> (HttpClient, Arc<Profile>, Url) {
    let client = HttpClient::new(Guard { allow_private: true, ..Guard::default() });
    (client, Arc::default(), format!("http://{address}/some/path?of=usual&length=1").parse().unwrap())
}

fn request(url: &Url) -> Request {
    Request::get(url.clone())
}

async fn read(mut body: Body) {
    let mut bytes = 0;
    while let Some(chunk) = body.chunk().await {
        bytes += chunk.unwrap().len();
    }
    assert_eq!(bytes, 1024);
}

/// Asks from all slots at once until `requests` are through. Microseconds of this thread for each.
async fn measure<S>(what: &str, requests: u32, slots: Vec<S>, ask: impl AsyncFn(&mut S)) -> f64 {
    let left = Cell::new(requests);
    let (start, before) = (Instant::now(), cpu());
    let loops = slots.into_iter().map(|mut slot| {
        let (left, ask) = (&left, &ask);
        async move {
            while left.get() > 0 {
                left.set(left.get() - 1);
                ask(&mut slot).await;
            }
        }
    });
    futures_util::future::join_all(loops).await;
    let us = cpu().saturating_sub(before).as_secs_f64() * 1e6 / f64::from(requests);
    println!("{what:<12} {:>9.0}/s {us:>7.2} us CPU each", f64::from(requests) / start.elapsed().as_secs_f64());
    us
}

/// Time that this thread has run, as the scheduler counts it.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

/// Answers everything with 1 KiB. It reads requests only as far as finding their end.
fn start_origin() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream));
            }
        });
    });
    address
}

fn serve(mut stream: TcpStream) -> impl Future<Output = ()> {
    let mut answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n".to_vec();
    answer.resize(answer.len() + 1024, b'x');
    async move {
        stream.set_nodelay(true).unwrap();
        let mut request = Vec::with_capacity(4096);
        while stream.read_buf(&mut request).await.is_ok_and(|count| count > 0) {
            if request.ends_with(b"\r\n\r\n") {
                request.clear();
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
        }
    }
}
