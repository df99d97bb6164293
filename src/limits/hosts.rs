//! What every host is doing for all jobs together: requests in flight, rate, pause, breaker.
//!
//! A host that fails to connect again and again is paused (the breaker opens); then one request at a time probes it
//! (half-open); when one gets through, each answer allows one request more at once, which doubles them with each round trip
//! (slow start, RFC 5681), up to the host's limit: a million waiting tasks do not fall on a host that has just come back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::limits::Blocked;
use crate::limits::rate::{ByteRate, Gcra};
use crate::model::host::Host;
use crate::model::limits::{HostLimits, Limits};
use crate::model::time::Timestamp;

/// Connect failures in a row that open the breaker.
const BREAKER_FAILURES: u32 = 8;
/// The first pause of an open breaker; doubled with each failed probe.
const BREAKER_PAUSE_MIN: Duration = Duration::from_millis(500);
/// The longest pause of an open breaker: a host that is back is noticed within this.
const BREAKER_PAUSE_MAX: Duration = Duration::from_secs(10);
/// The longest pause that an attempt which has begun waits for, with all that it holds.
const PAUSE_PATIENCE: Duration = Duration::from_secs(1);
/// Hosts that are remembered; the idle ones beyond are forgotten.
const HOSTS_MAX: usize = 10_000;

/// All hosts.
#[derive(Debug)]
pub struct Hosts {
    inner: Mutex<Inner>,
    clock: Clock,
    /// Woken when a host may have room again; see [`Hosts::take_freed`].
    freed: Notify,
    /// Woken with each release and change, for those who wait inside an attempt.
    waiters: Notify,
}

#[derive(Debug)]
struct Inner {
    limits: Arc<Limits>,
    hosts: HashMap<Host, HostState>,
    freed: Vec<Host>,
}

#[derive(Debug)]
struct HostState {
    limits: HostLimits,
    rate: Gcra,
    bytes: Arc<ByteRate>,
    in_flight: u32,
    /// Requests at once while the host comes back; `u32::MAX` when it is well.
    ramp: u32,
    connect_failures: u32,
    breaker_pause: Duration,
    paused_until: Option<Timestamp>,
    pause_reason: String,
    recent_error: Option<(Timestamp, String)>,
}

/// A host as an operator sees it.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The contract's names.
pub struct HostView {
    pub host: Host,
    pub running: u32,
    pub limits: HostLimits,
    pub paused_until: Option<Timestamp>,
    pub pause_reason: String,
    pub recent_error: Option<(Timestamp, String)>,
}

/// The right to have one request in flight. Dropping it gives it back.
#[derive(Debug)]
pub struct HostPermit {
    hosts: Arc<Hosts>,
    host: Host,
}

impl HostPermit {
    /// Whom it is for.
    pub fn host(&self) -> &Host {
        &self.host
    }
}

impl Drop for HostPermit {
    fn drop(&mut self) {
        self.hosts.release(&self.host);
    }
}

impl HostState {
    fn new(limits: HostLimits) -> HostState {
        HostState {
            rate: Gcra::new(limits.requests_per_second, limits.burst),
            bytes: Arc::new(ByteRate::new(limits.bytes_per_second)),
            limits,
            in_flight: 0,
            ramp: u32::MAX,
            connect_failures: 0,
            breaker_pause: BREAKER_PAUSE_MIN,
            paused_until: None,
            pause_reason: String::new(),
            recent_error: None,
        }
    }

    fn check(&self, now: Timestamp) -> Result<(), Blocked> {
        if let Some(until) = self.paused_until.filter(|until| *until > now) {
            return Err(Blocked::Paused(until));
        }
        if self.in_flight >= self.limits.max_concurrent.min(self.ramp) {
            return Err(Blocked::Full);
        }
        self.rate.check(now).map_err(Blocked::Rate)
    }

    fn is_idle(&self, now: Timestamp) -> bool {
        self.in_flight == 0 && self.ramp == u32::MAX && self.paused_until.is_none_or(|until| until <= now)
    }
}

impl Hosts {
    /// No host yet, under these limits.
    pub fn new(limits: Limits, clock: Clock) -> Arc<Hosts> {
        let inner = Inner { limits: Arc::new(limits), hosts: HashMap::new(), freed: Vec::new() };
        Arc::new(Hosts { inner: Mutex::new(inner), clock, freed: Notify::new(), waiters: Notify::new() })
    }

    /// The limits in force.
    pub fn limits(&self) -> Arc<Limits> {
        self.lock().limits.clone()
    }

    /// Changes the limits at once. Requests in flight beyond a lower limit go on; none starts until they are fewer.
    pub fn set_limits(&self, limits: Limits) {
        let mut inner = self.lock();
        let Inner { hosts, freed, .. } = &mut *inner;
        for (host, state) in hosts.iter_mut() {
            state.limits = limits.for_host(host);
            state.rate.set(state.limits.requests_per_second, state.limits.burst);
            state.bytes.set(state.limits.bytes_per_second);
            freed.push(host.clone());
        }
        inner.limits = Arc::new(limits);
        drop(inner);
        self.freed.notify_one();
        self.waiters.notify_waiters();
    }

    /// Whether a request to `host` could start now.
    pub fn check(&self, host: &Host) -> Result<(), Blocked> {
        let now = self.clock.now();
        self.lock().state(host, now).check(now)
    }

    /// Starts a request to `host`, or says why not.
    pub fn try_start(self: &Arc<Self>, host: &Host) -> Result<HostPermit, Blocked> {
        let now = self.clock.now();
        let mut inner = self.lock();
        let state = inner.state(host, now);
        state.check(now)?;
        state.rate.take(now);
        state.in_flight += 1;
        Ok(HostPermit { hosts: self.clone(), host: host.clone() })
    }

    /// Waits until a request to `host` may start, and starts it. For what an attempt asks beside its first request. A
    /// pause that lasts is not waited for: until when it does is the error.
    pub async fn start(self: &Arc<Self>, host: &Host) -> Result<HostPermit, Timestamp> {
        loop {
            let woken = self.waiters.notified();
            tokio::pin!(woken);
            // Registered before the check, so that a release in between is not missed.
            woken.as_mut().enable();
            let until = match self.try_start(host) {
                Ok(permit) => return Ok(permit),
                Err(Blocked::Full) => None,
                Err(Blocked::Paused(until)) if until.since(self.clock.now()) > PAUSE_PATIENCE => return Err(until),
                Err(Blocked::Rate(until) | Blocked::Paused(until)) => Some(until),
            };
            let wait = until.map_or(Duration::from_secs(60), |until| until.since(self.clock.now()));
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// The rate of bytes from `host`.
    pub fn byte_rate(&self, host: &Host) -> Arc<ByteRate> {
        let now = self.clock.now();
        self.lock().state(host, now).bytes.clone()
    }

    /// Leaves `host` alone until then, for every job. A shorter pause does not shorten a longer one.
    pub fn pause(&self, host: &Host, until: Timestamp, reason: &str) {
        let now = self.clock.now();
        let mut inner = self.lock();
        let state = inner.state(host, now);
        if state.paused_until.is_none_or(|there| there < until) {
            state.paused_until = Some(until);
            reason.clone_into(&mut state.pause_reason);
        }
    }

    /// `host` answered: any answer closes its breaker.
    pub fn answered(&self, host: &Host) {
        let now = self.clock.now();
        let mut inner = self.lock();
        let state = inner.state(host, now);
        state.connect_failures = 0;
        state.breaker_pause = BREAKER_PAUSE_MIN;
        if state.ramp != u32::MAX {
            let more = state.ramp.saturating_add(1);
            state.ramp = if more >= state.limits.max_concurrent { u32::MAX } else { more };
            inner.freed.push(host.clone());
            drop(inner);
            self.freed.notify_one();
            self.waiters.notify_waiters();
        }
    }

    /// A connection to `host` could not be made; opens the breaker when that was once too often.
    pub fn failed_to_connect(&self, host: &Host, error: &str) {
        let now = self.clock.now();
        let mut inner = self.lock();
        let state = inner.state(host, now);
        state.recent_error = Some((now, error.to_owned()));
        state.connect_failures += 1;
        let paused = state.paused_until.is_some_and(|until| until > now);
        if state.connect_failures >= BREAKER_FAILURES && !paused {
            state.paused_until = Some(now.plus(state.breaker_pause));
            state.pause_reason = format!("{} connections in a row failed: {error}", state.connect_failures);
            state.breaker_pause = (state.breaker_pause * 2).min(BREAKER_PAUSE_MAX);
            state.ramp = 1;
        }
    }

    /// Remembers an error for [`Hosts::views`].
    pub fn note_error(&self, host: &Host, error: &str) {
        let now = self.clock.now();
        self.lock().state(host, now).recent_error = Some((now, error.to_owned()));
    }

    /// Waits until some host may have room again.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    /// The hosts that may have room since the last call.
    pub fn take_freed(&self) -> Vec<Host> {
        std::mem::take(&mut self.lock().freed)
    }

    /// All hosts by name.
    pub fn views(&self) -> Vec<HostView> {
        let now = self.clock.now();
        let inner = self.lock();
        let mut views: Vec<HostView> = inner
            .hosts
            .iter()
            .map(|(host, state)| {
                let paused_until = state.paused_until.filter(|until| *until > now);
                HostView {
                    host: host.clone(),
                    running: state.in_flight,
                    limits: state.limits.clone(),
                    paused_until,
                    pause_reason: paused_until.map(|_| state.pause_reason.clone()).unwrap_or_default(),
                    recent_error: state.recent_error.clone(),
                }
            })
            .collect();
        views.sort_by(|a, b| a.host.cmp(&b.host));
        views
    }

    fn release(&self, host: &Host) {
        let mut inner = self.lock();
        if let Some(state) = inner.hosts.get_mut(host) {
            state.in_flight = state.in_flight.saturating_sub(1);
        }
        inner.freed.push(host.clone());
        drop(inner);
        self.freed.notify_one();
        self.waiters.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Counters and stamps: whoever panicked left them usable.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn state(&mut self, host: &Host, now: Timestamp) -> &mut HostState {
        if self.hosts.len() >= HOSTS_MAX && !self.hosts.contains_key(host) {
            self.hosts.retain(|_, state| !state.is_idle(now));
        }
        let limits = &self.limits;
        self.hosts.entry(host.clone()).or_insert_with(|| HostState::new(limits.for_host(host)))
    }
}
