//! The scripted network: what each request comes to follows from its URL, how often it was asked for, and the seed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use haul::model::failure::{Failure, FailureReason};
use haul::net::{Body, BodySource, Profile, Request, Response, Transport};
use http::{HeaderMap, StatusCode, header};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

/// Requests in flight at one host and in all, and what they may be.
#[derive(Default)]
pub(crate) struct Seen {
    in_flight: HashMap<String, u32>,
    pub(crate) most_at_a_host: u32,
    asked: HashMap<String, u64>,
    pub(crate) requests: u64,
}

pub(crate) struct Network {
    seed: u64,
    pub(crate) seen: Mutex<Seen>,
    /// Set when faults stop: everything is answered with 200.
    pub(crate) calm: std::sync::atomic::AtomicBool,
}

struct InFlight {
    network: Arc<Network>,
    host: String,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut seen = self.network.seen.lock().unwrap();
        *seen.in_flight.get_mut(&self.host).unwrap() -= 1;
    }
}

struct Page(Option<Bytes>, #[allow(dead_code)] InFlight, #[allow(dead_code)] Request);

impl BodySource for Page {
    fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>> {
        std::future::ready(self.0.take().map(Ok)).boxed()
    }
}

pub(crate) struct Script(pub(crate) Arc<Network>);

impl Network {
    pub(crate) fn new(seed: u64) -> Arc<Network> {
        Arc::new(Network { seed, seen: Mutex::default(), calm: false.into() })
    }

    pub(crate) fn requests(&self) -> u64 {
        self.seen.lock().unwrap().requests
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.seen.lock().unwrap().in_flight.values().sum()
    }
}

impl Transport for Script {
    fn send<'a>(&'a self, request: Request, _: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        let network = self.0.clone();
        async move {
            let host = request.url.host_str().unwrap_or_default().to_owned();
            let nth = {
                let mut seen = network.seen.lock().unwrap();
                seen.requests += 1;
                let now = seen.in_flight.entry(host.clone()).or_default();
                *now += 1;
                let now = *now;
                seen.most_at_a_host = seen.most_at_a_host.max(now);
                let nth = seen.asked.entry(request.url.to_string()).or_default();
                *nth += 1;
                *nth
            };
            let guard = InFlight { network: network.clone(), host };
            answer(&network, request, nth, guard).await
        }
        .boxed()
    }
}

async fn answer(network: &Network, request: Request, nth: u64, guard: InFlight) -> Result<Response, Failure> {
    let calm = network.calm.load(std::sync::atomic::Ordering::Relaxed);
    let mut hash = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(&(network.seed, request.url.as_str(), nth), &mut hash);
    let mut rng = SmallRng::seed_from_u64(std::hash::Hasher::finish(&hash));
    tokio::time::sleep(Duration::from_micros(rng.random_range(0..20_000))).await;
    let kind = if calm { 0 } else { rng.random_range(0..100) };
    let mut headers = HeaderMap::new();
    let mut body = Bytes::from_static(b"{\"items\":[1,2]}");
    let status = match kind {
        0..50 => StatusCode::OK,
        50..62 => StatusCode::NOT_FOUND,
        62..72 => StatusCode::SERVICE_UNAVAILABLE,
        72..78 => {
            headers.insert(header::RETRY_AFTER, rng.random_range(0..5u32).into());
            StatusCode::TOO_MANY_REQUESTS
        }
        78..84 => {
            // To a host that may be paused by now.
            let to = format!("http://10.0.0.{}/moved/{}", rng.random_range(1..4), request.url.path().len());
            headers.insert(header::LOCATION, to.parse().unwrap());
            StatusCode::FOUND
        }
        84..90 => {
            tokio::time::sleep(Duration::from_secs(rng.random_range(1..200))).await;
            StatusCode::OK
        }
        90..95 => return Err(Failure::retryable(FailureReason::Connect, "the network is down")),
        _ => return Err(Failure::retryable(FailureReason::Truncated, "the connection broke")),
    };
    let pages = request.url.path().starts_with("/list");
    if pages && status == StatusCode::OK && nth_page(&request) < 4 {
        let mut next = request.url.clone();
        next.set_query(Some(&format!("page={}", nth_page(&request) + 1)));
        headers.insert(header::LINK, format!("<{next}>; rel=\"next\"").parse().unwrap());
    }
    if pages {
        body = Bytes::from_static(b"[1,2]");
        headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    }
    let url = request.url.clone();
    Ok(Response { status, headers, url, remote: None, body: Body(Box::new(Page(Some(body), guard, request))) })
}

fn nth_page(request: &Request) -> u32 {
    let page = request.url.query_pairs().find(|(name, _)| name == "page").map(|(_, value)| value.into_owned());
    page.and_then(|text| text.parse().ok()).unwrap_or(1)
}
