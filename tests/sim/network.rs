//! The scripted network: what each request comes to follows from its URL, how often it was asked for, and the seed. It
//! counts what is in flight at a host, in all, and for a job with a limit of its own.

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
pub(crate) struct Seen {
    in_flight: HashMap<String, u32>,
    /// By the name of the job; see [`crate::clients`].
    of_jobs: HashMap<String, u32>,
    pub(crate) most_at_a_host: u32,
    pub(crate) most_in_all: u32,
    pub(crate) violations: Vec<String>,
    /// What was asked when, as one number, to compare a history with its repetition.
    pub(crate) digest: u64,
    asked: HashMap<String, u64>,
    pub(crate) requests: u64,
    start: tokio::time::Instant,
}

pub(crate) struct Network {
    seed: u64,
    /// Whether hosts are down now and then.
    dies: bool,
    pub(crate) seen: Mutex<Seen>,
    /// Set when faults stop: everything is answered with 200.
    pub(crate) calm: std::sync::atomic::AtomicBool,
}

struct InFlight {
    network: Arc<Network>,
    host: String,
    job: Option<String>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut seen = self.network.seen.lock().unwrap();
        *seen.in_flight.get_mut(&self.host).unwrap() -= 1;
        if let Some(job) = &self.job {
            *seen.of_jobs.get_mut(job).unwrap() -= 1;
        }
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
    pub(crate) fn new(seed: u64, dies: bool) -> Arc<Network> {
        let seen = Seen {
            in_flight: HashMap::new(),
            of_jobs: HashMap::new(),
            most_at_a_host: 0,
            most_in_all: 0,
            violations: Vec::new(),
            digest: 0,
            asked: HashMap::new(),
            requests: 0,
            start: tokio::time::Instant::now(),
        };
        Arc::new(Network { seed, dies, seen: Mutex::new(seen), calm: false.into() })
    }

    /// Whether nobody can connect to a host at this moment: for long enough now and then to open its breaker.
    fn is_dead(&self, host: &str) -> bool {
        let spell = self.seen.lock().unwrap().start.elapsed().as_secs() / 3;
        let mut hash = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(&(self.seed, host, spell), &mut hash);
        self.dies && std::hash::Hasher::finish(&hash).is_multiple_of(5)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.seen.lock().unwrap().requests
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.seen.lock().unwrap().in_flight.values().sum()
    }
}

/// The name of the job that a request is of, and how many of its requests may be in flight, if the request says so.
fn limited_job(request: &Request) -> Option<(String, u32)> {
    let value = |name| request.url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    Some((value("job")?, value("cap")?.parse().ok()?))
}

impl Seen {
    /// Counts a request. Returns how often its URL was asked for.
    fn request(&mut self, request: &Request, host: &str, job: Option<&(String, u32)>) -> u64 {
        self.requests += 1;
        let at_host = self.in_flight.entry(host.to_owned()).or_default();
        *at_host += 1;
        self.most_at_a_host = self.most_at_a_host.max(*at_host);
        self.most_in_all = self.most_in_all.max(self.in_flight.values().sum());
        if let Some((job, cap)) = job {
            let running = self.of_jobs.entry(job.clone()).or_default();
            *running += 1;
            // A panic would only fail the attempt.
            if *running > *cap {
                self.violations.push(format!("{running} requests of job {job} were in flight, which may have {cap}"));
            }
        }
        let mut hash = std::hash::DefaultHasher::new();
        let micros = tokio::time::Instant::now().duration_since(self.start).as_micros();
        std::hash::Hash::hash(&(self.digest, micros, request.url.as_str()), &mut hash);
        self.digest = std::hash::Hasher::finish(&hash);
        let nth = self.asked.entry(request.url.to_string()).or_default();
        *nth += 1;
        *nth
    }
}

impl Transport for Script {
    fn send<'a>(&'a self, request: Request, _: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        let network = self.0.clone();
        async move {
            let host = request.url.host_str().unwrap_or_default().to_owned();
            let job = limited_job(&request);
            let nth = network.seen.lock().unwrap().request(&request, &host, job.as_ref());
            let guard = InFlight { network: network.clone(), host, job: job.map(|(job, _)| job) };
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
    if !calm && network.is_dead(request.url.host_str().unwrap_or_default()) {
        return Err(Failure { is_unsent: true, ..Failure::retryable(FailureReason::Connect, "the host is down") });
    }
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
            tokio::time::sleep(Duration::from_secs(rng.random_range(1..40))).await;
            StatusCode::OK
        }
        90..95 => return Err(Failure::retryable(FailureReason::Connect, "the network is down")),
        _ => return Err(Failure::retryable(FailureReason::Truncated, "the connection broke")),
    };
    let pages = request.url.path().starts_with("/list");
    if pages && status == StatusCode::OK && nth_page(&request) < 4 {
        let mut next = request.url.clone();
        let others = request
            .url
            .query_pairs()
            .filter(|(name, _)| name != "page")
            .map(|(name, value)| (name.into_owned(), value.into_owned()));
        let others: Vec<(String, String)> = others.collect();
        next.query_pairs_mut().clear().extend_pairs(others).append_pair("page", &(nth_page(&request) + 1).to_string());
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
