//! Limits around a transport: every request takes a permit of its host and a start of each rate, and every body pays for
//! its bytes. The permit goes with the request: the network releases it when the origin can no longer count it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use url::Url;

use crate::clock::Clock;
use crate::limits::Blocked;
use crate::limits::hosts::Hosts;
use crate::limits::pause::Voice;
use crate::limits::permits::{AttemptPlace, HostPermit, HostReader, NotNow, Waiting};
use crate::limits::rate::{ByteRate, Gcra};
use crate::model::failure::{Failure, FailureReason};
use crate::model::host::Host;
use crate::model::limits::RateLimit;
use crate::model::secret;
use crate::model::tenant::Party;
use crate::model::time::Timestamp;
use crate::net::classify;
use crate::net::{Body, BodySource, Permit, Profile, Request, Response, Transport};
use crate::telemetry::metrics::{Count, Kind, Metrics};

/// A connection that took at least so long to be made, and was not, counts against the host.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);

/// The rates of one job, or of a tenant, shared by all its attempts.
#[derive(Debug)]
pub struct JobRates {
    starts: Mutex<Gcra>,
    bytes: ByteRate,
}

impl JobRates {
    /// Returns the rates that somebody asks for.
    pub fn new(limit: RateLimit) -> JobRates {
        JobRates {
            starts: Mutex::new(Gcra::new(limit.requests_per_second, limit.burst)),
            bytes: ByteRate::new(limit.bytes_per_second),
        }
    }

    /// Changes them at `now`.
    pub fn set(&self, limit: RateLimit, now: Timestamp) {
        self.lock().set(limit.requests_per_second, limit.burst, now);
        self.bytes.set(limit.bytes_per_second);
    }

    /// Returns whether a request could start.
    ///
    /// # Errors
    ///
    /// The time from which on it could.
    pub fn check(&self, now: Timestamp) -> Result<(), Timestamp> {
        self.lock().check(now)
    }

    /// Counts a start at `now`.
    pub fn take(&self, now: Timestamp) {
        self.lock().take(now);
    }

    /// Waits until a request may start, and counts it.
    ///
    /// # Errors
    ///
    /// There is no room to wait; the time at which to ask again.
    async fn start(&self, clock: &Clock, waiting: &mut Option<Waiting<'_>>) -> Result<(), Timestamp> {
        loop {
            let now = clock.now();
            let until = {
                let mut starts = self.lock();
                match starts.check(now) {
                    Ok(()) => {
                        starts.take(now);
                        return Ok(());
                    }
                    Err(until) => until,
                }
            };
            if let Some(waiting) = waiting {
                waiting.begin()?;
            }
            tokio::time::sleep(until.since(now).min(Duration::from_secs(1))).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Gcra> {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transport for one attempt that asks before it sends.
pub struct Limited {
    /// What really sends.
    pub inner: Arc<dyn Transport>,
    /// All hosts.
    pub hosts: Arc<Hosts>,
    /// The rates of the job.
    pub job: Arc<JobRates>,
    /// Those of its tenant, where it has some.
    pub tenant: Option<Arc<JobRates>>,
    /// For whom the attempt is made.
    pub party: Party,
    /// Bytes of the whole server.
    pub server_bytes: Arc<ByteRate>,
    /// The permit that the scheduler took for the first request.
    pub first: Mutex<Option<HostPermit>>,
    /// The attempt's place among those that work; `None`: it needs none.
    pub place: Option<Arc<AttemptPlace>>,
    /// Whether the attempt has named a proxy: what others meet on their way says nothing of its own.
    pub has_proxy: bool,
    /// Since when the attempt waits for hosts that it comes to: it shares the failures of their probes from then on.
    pub since: Timestamp,
    /// The host of `first`, where that request has failed with a probe before it began.
    pub lost: OnceLock<Host>,
    /// For dates in `Retry-After`.
    pub clock: Clock,
    /// The longest pause that an origin may ask for.
    pub retry_after_max: Duration,
    /// Where bytes of bodies are counted.
    pub metrics: Arc<Metrics>,
    /// What the attempt is for.
    pub kind: Kind,
}

impl Limited {
    /// Waits until a request to `host` may start.
    async fn start(&self, host: &Host) -> Result<HostPermit, Failure> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        match first {
            // The scheduler has counted this start against the rates of job and tenant too.
            Some(permit) if permit.host() == host => match permit.failure() {
                None => Ok(permit),
                Some(failure) => {
                    let _ = self.lost.set(host.clone());
                    Err(failure.clone())
                }
            },
            other => {
                // Given back before another is asked for, so that two hosts that redirect to each other cannot lock up.
                drop(other);
                let paused = |until| self.shared_failure(host).unwrap_or_else(|| self.paused(host, until));
                // Looked at first, or a request that is not sent would wait for the rates and take a start of each.
                if let Some(until) = self.hosts.long_pause(host, self.party.tenant) {
                    return Err(paused(until));
                }
                let mut waiting = self.place.as_ref().map(|place| place.wait());
                for rates in [Some(&self.job), self.tenant.as_ref()].into_iter().flatten() {
                    rates.start(&self.clock, &mut waiting).await.map_err(|until| self.crowded(host, until))?;
                }
                let mut permit = self.hosts.start(host, self.party.tenant, waiting).await.map_err(|why| match why {
                    NotNow::Paused(until) => paused(until),
                    NotNow::Crowded(until) => self.crowded(host, until),
                })?;
                permit.is_for(self.party);
                Ok(permit)
            }
        }
    }

    /// Why the attempt fails that has waited for a probe of `host`.
    fn shared_failure(&self, host: &Host) -> Option<Failure> {
        if self.has_proxy { None } else { self.hosts.shared_failure(host, self.party.tenant, self.since) }
    }

    /// Whether the attempt has been at `host` as far as one can be: it shares a failure there, and does not wait.
    fn is_lost(&self, host: &Host) -> bool {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let is_about_to = first.as_ref().is_some_and(|permit| permit.host() == host && permit.failure().is_some());
        is_about_to || self.lost.get() == Some(host)
    }

    fn paused(&self, host: &Host, until: Timestamp) -> Failure {
        let message = self.hosts.explain_pause(host, self.party.tenant, until);
        let paused_host = Some(host.clone());
        Failure { paused_until: Some(until), paused_host, ..Failure::retryable(FailureReason::HttpStatus, message) }
    }

    fn crowded(&self, host: &Host, until: Timestamp) -> Failure {
        let wait = until.since(self.clock.now());
        let message = format!("too many others wait for a request to `{host}`, so it is tried again in {wait:.0?}");
        Failure { paused_until: Some(until), ..Failure::retryable(FailureReason::HttpStatus, message) }
    }

    /// Notes what became of a request; `is_own`: a connection that hangs says nothing of the host.
    fn note(&self, host: &Host, result: &Result<Response, Failure>, is_own: bool) {
        match result {
            Ok(response) => {
                self.hosts.answered(host, self.party.tenant);
                if !matches!(response.status.as_u16(), 429 | 503) {
                    return;
                }
                let failure =
                    classify::judge_status(response.status, &response.headers, self.clock.now(), self.retry_after_max);
                self.hosts.note_error(host, &failure.message);
                self.hosts.note_own_error(host, self.party, &failure.message);
                if let Some(wait) = failure.retry_after {
                    let reason = format!("answered {} and asked to wait {} s", response.status, wait.as_secs());
                    let voice = if self.has_proxy { Voice::Other } else { Voice::Host };
                    self.hosts.asked(host, self.party.tenant, self.clock.now().plus(wait), &reason, voice);
                }
            }
            Err(failure) => {
                self.hosts.note_own_error(host, self.party, &failure.message);
                self.note_failure(host, failure, is_own);
            }
        }
    }

    /// Counts a connection that could not be made. One that ended before its answer was made all the same: an origin may drop
    /// requests that it dislikes.
    fn note_failure(&self, host: &Host, failure: &Failure, is_own: bool) {
        match failure.reason {
            FailureReason::Dns | FailureReason::Connect | FailureReason::TimeoutConnect
                if failure.is_unsent && !is_own =>
            {
                self.hosts.failed_to_connect(host, self.party.tenant, failure);
            }
            _ => self.hosts.note_error(host, &failure.message),
        }
    }
}

impl Transport for Limited {
    fn permit<'a>(&'a self, url: &'a Url) -> BoxFuture<'a, Result<Permit, Failure>> {
        async move { Ok(Permit::new(self.start(&host_of(url)?).await?)) }.boxed()
    }

    fn send<'a>(&'a self, mut request: Request, profile: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        async move {
            let host = host_of(&request.url)?;
            if request.permit.held::<HostPermit>().is_none_or(|permit| *permit.host() != host) {
                request.permit = Permit::new(self.start(&host).await?);
            }
            let is_by_proxy = self.goes_by_proxy(&request.url, profile);
            let is_impatient = profile.timeouts.connect < CONNECT_PATIENCE;
            let result = self.inner.send(request, profile).await;
            // Somebody's own impatience, or a proxy, says nothing of the host, which others ask as well.
            let is_own = |failure: &Failure| {
                failure.is_own || is_by_proxy || (is_impatient && failure.reason == FailureReason::TimeoutConnect)
            };
            self.note(&host, &result, result.as_ref().is_err_and(is_own));
            let mut response = result?;
            let source = LimitedBody {
                inner: response.body,
                job: self.job.clone(),
                tenant: self.tenant.clone(),
                server_bytes: self.server_bytes.clone(),
                host: self.hosts.read(&host, self.party),
                received: self.metrics.received.of(self.kind).clone(),
                received_here: self.metrics.host(host.as_str(), host.name()).map(|own| own.received.clone()),
            };
            response.body = Body(Box::new(source));
            Ok(response)
        }
        .boxed()
    }

    fn rest(&self) {
        drop(self.first.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn settle(&self) {
        if let Some(place) = &self.place {
            place.settle();
        }
    }

    fn goes_by_proxy(&self, url: &Url, profile: &Profile) -> bool {
        self.inner.goes_by_proxy(url, profile)
    }

    fn is_paused(&self, url: &Url) -> bool {
        let is_paused = |host: &Host| matches!(self.hosts.check(host, self.party.tenant), Err(Blocked::Paused(_)));
        let is_shared = |host: &Host| self.shared_failure(host).is_some();
        Host::of(url).is_some_and(|host| is_paused(&host) && !self.is_lost(&host) && !is_shared(&host))
    }
}

fn host_of(url: &Url) -> Result<Host, Failure> {
    Host::of(url).ok_or_else(|| {
        let message = format!("`{}` names no host", secret::redacted(url));
        Failure::fatal(FailureReason::Protocol, message)
    })
}

struct LimitedBody {
    inner: Body,
    job: Arc<JobRates>,
    tenant: Option<Arc<JobRates>>,
    server_bytes: Arc<ByteRate>,
    host: HostReader,
    received: Arc<Count>,
    received_here: Option<Arc<Count>>,
}

impl BodySource for LimitedBody {
    fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>> {
        async move {
            let chunk = self.inner.chunk().await;
            if let Some(Ok(bytes)) = &chunk {
                let count = bytes.len() as u64;
                self.received.add(count);
                if let Some(here) = &self.received_here {
                    here.add(count);
                }
                self.job.bytes.take(count).await;
                if let Some(tenant) = &self.tenant {
                    tenant.bytes.take(count).await;
                }
                self.host.take(count).await;
                self.server_bytes.take(count).await;
            }
            chunk
        }
        .boxed()
    }

    fn origin_wait(&self) -> Duration {
        self.inner.0.origin_wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limits::Limits;
    use crate::model::tenant::DEFAULT_NO;

    struct Nowhere;

    impl Transport for Nowhere {
        fn send<'a>(&'a self, _: Request, _: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
            std::future::pending().boxed()
        }
    }

    /// Each request fails in the same way, by a proxy or without one.
    struct Fails {
        is_by_proxy: bool,
        failure: Failure,
    }

    impl Transport for Fails {
        fn send<'a>(&'a self, _: Request, _: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
            std::future::ready(Err(self.failure.clone())).boxed()
        }

        fn goes_by_proxy(&self, _: &Url, _: &Profile) -> bool {
            self.is_by_proxy
        }
    }

    fn limited(inner: impl Transport, hosts: &Arc<Hosts>, clock: &Clock) -> Limited {
        Limited {
            inner: Arc::new(inner),
            hosts: hosts.clone(),
            job: Arc::new(JobRates::new(RateLimit::default())),
            tenant: None,
            party: Party::default(),
            server_bytes: Arc::default(),
            first: Mutex::default(),
            place: None,
            has_proxy: false,
            since: clock.now(),
            lost: OnceLock::new(),
            clock: clock.clone(),
            retry_after_max: Duration::ZERO,
            metrics: Arc::default(),
            kind: Kind::Fetch,
        }
    }

    #[tokio::test]
    async fn only_connections_that_could_not_be_made_say_something_of_the_host() {
        use FailureReason::{Connect, TimeoutConnect};
        let clock = Clock::system();
        let (own, others) = (true, false);
        for (reason, is_unsent, is_by_proxy, connect, is_own, is_counted) in [
            (TimeoutConnect, true, false, 30, others, true),
            (TimeoutConnect, true, true, 30, others, false),
            (TimeoutConnect, true, false, 0, others, false),
            (Connect, true, false, 0, others, true),
            (Connect, true, true, 30, others, false),
            // No descriptor was left here.
            (Connect, true, false, 30, own, false),
            // The connection was there, and the origin closed it in place of an answer.
            (Connect, false, false, 30, others, false),
        ] {
            let hosts = Hosts::new(Limits::default(), clock.clone());
            let failure = Failure { is_unsent, is_own, ..Failure::retryable(reason, "no connection") };
            let limited = limited(Fails { is_by_proxy, failure }, &hosts, &clock);
            let mut profile = Profile::default();
            profile.timeouts.connect = Duration::from_secs(connect);
            let profile = Arc::new(profile);
            for _ in 0..8 {
                let request = Request::get(Url::parse("http://a/").unwrap());
                assert!(limited.send(request, &profile).await.is_err());
            }
            let is_paused = matches!(hosts.check(&Host::new("a:80"), DEFAULT_NO), Err(Blocked::Paused(_)));
            let what = format!(
                "{reason:?}, unsent: {is_unsent}, by a proxy: {is_by_proxy}, patience: {connect} s, own: {is_own}"
            );
            assert_eq!(is_paused, is_counted, "{what}");
        }
    }

    /// Each request is answered in the same way.
    struct Asks;

    impl Transport for Asks {
        fn send<'a>(&'a self, request: Request, _: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
            let headers = [(http::header::RETRY_AFTER, http::HeaderValue::from_static("500"))].into_iter().collect();
            let (status, body) = (http::StatusCode::TOO_MANY_REQUESTS, Body(Box::new(Nothing)));
            std::future::ready(Ok(Response { status, headers, url: request.url, remote: None, body })).boxed()
        }
    }

    struct Nothing;

    impl BodySource for Nothing {
        fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>> {
            std::future::ready(None).boxed()
        }
    }

    /// Whoever names a proxy may have made it answer so.
    #[tokio::test]
    async fn what_comes_by_the_proxies_of_two_tenants_is_not_for_all() {
        let (clock, host) = (Clock::system(), Host::new("a:80"));
        let ask = async |hosts: &Arc<Hosts>, tenant, has_proxy| {
            let party = Party { tenant, principal: 0 };
            let retry_after_max = Duration::from_secs(3600);
            let limited = Limited { party, has_proxy, retry_after_max, ..limited(Asks, hosts, &clock) };
            let request = Request::get(Url::parse("http://a/").unwrap());
            limited.send(request, &Arc::new(Profile { tenant, ..Profile::default() })).await.unwrap();
        };
        let is_paused = |hosts: &Hosts, tenant| matches!(hosts.check(&host, tenant), Err(Blocked::Paused(_)));
        for (proxies, is_for_all) in [([false; 2], true), ([false, true], false), ([true; 2], false)] {
            let hosts = Hosts::new(Limits::default(), clock.clone());
            for (tenant, has_proxy) in [16, 17].into_iter().zip(proxies) {
                ask(&hosts, tenant, has_proxy).await;
            }
            let paused = [16, 17, 18].map(|tenant| is_paused(&hosts, tenant));
            assert_eq!(paused, [true, true, is_for_all], "{proxies:?}");
        }
    }

    #[tokio::test]
    async fn a_request_to_a_paused_host_takes_nothing_of_a_rate() {
        let (clock, host) = (Clock::system(), Host::new("a:80"));
        let hosts = Hosts::new(Limits::default(), clock.clone());
        let rate = RateLimit { requests_per_second: 0.001, ..RateLimit::default() };
        let limited = Limited { job: Arc::new(JobRates::new(rate)), ..limited(Nowhere, &hosts, &clock) };
        hosts.pause(&host, DEFAULT_NO, clock.now().plus(Duration::from_secs(60)), "asked");
        for _ in 0..2 {
            let failure = limited.start(&host).now_or_never().expect("it is known at once").unwrap_err();
            assert!(failure.paused_until.is_some());
        }
        assert_eq!(limited.job.check(clock.now()), Ok(()));
    }

    #[tokio::test]
    async fn who_settles_leaves_its_place_to_others_and_needs_one_to_ask_again() {
        let clock = Clock::system();
        let hosts = Hosts::new(Limits { max_concurrent_tasks: 1, ..Limits::default() }, clock.clone());
        let host = Host::new("a:80");
        let place = Arc::new(hosts.take_place().unwrap());
        let permit = hosts.try_start(&host, DEFAULT_NO, 0).unwrap();
        let limited = Limited { place: Some(place), ..limited(Nowhere, &hosts, &clock) };
        assert!(!hosts.has_place());
        limited.settle();
        drop(permit);
        assert!(hosts.has_place());
        let other = hosts.take_place().unwrap();
        assert!(!hosts.has_place());
        let mut again = std::pin::pin!(limited.start(&host));
        assert!(futures_util::poll!(&mut again).is_pending());
        drop(other);
        assert!(again.await.is_ok());
    }

    #[tokio::test]
    async fn who_rests_holds_no_place_of_others() {
        let clock = Clock::system();
        let hosts = Hosts::new(Limits { max_per_host: 1, ..Limits::default() }, clock.clone());
        let host = Host::new("a:80");
        let limited = limited(Nowhere, &hosts, &clock);
        *limited.first.lock().unwrap() = hosts.try_start(&host, DEFAULT_NO, 0).ok();
        assert!(hosts.try_start(&host, DEFAULT_NO, 0).is_err());
        limited.rest();
        assert!(hosts.try_start(&host, DEFAULT_NO, 0).is_ok());
        assert!(limited.start(&host).await.is_ok(), "and asks for its own when it goes on");
    }
}
