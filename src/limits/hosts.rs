//! What every host is doing for all jobs together: requests in flight, rate, pause, breaker. The decisions are those of
//! `limits::state`, and what is remembered those of `limits::table`; here they get the time, a lock, and wake-ups. What is
//! held of a host, and waited for, is in `limits::permits`.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::limits::Blocked;
use crate::limits::parties::{OwnView, PerParty};
use crate::limits::places::{AttemptNo, Places};
use crate::limits::queue::Queues;
use crate::limits::recent::Recent;
use crate::limits::state::{HostState, cut};
use crate::limits::table::{Row, Table};
use crate::limits::turns::Asker;
use crate::model::host::Host;
use crate::model::limits::{HostLimits, Limits};
use crate::model::tenant::{Parties, Party};
use crate::model::time::Timestamp;

/// All hosts.
#[derive(Debug)]
pub struct Hosts {
    inner: Mutex<Inner>,
    pub(super) per_party: PerParty,
    pub(super) clock: Clock,
    /// Woken when a host may have room again; see [`Hosts::take_freed`].
    pub(super) freed: Notify,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) rules: Rules,
    pub(super) table: Table,
    pub(super) queues: Queues,
    pub(super) places: Places,
    pub(super) recent: Recent<Host>,
    freed: Vec<Host>,
}

/// The limits in force.
#[derive(Debug)]
pub(super) struct Rules {
    limits: Arc<Limits>,
    /// The places in `limits.hosts` by the hosts named there.
    own: HashMap<String, usize>,
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
    pub bytes_per_second: u64,
    pub requests_per_second: f64,
    pub recent_failures: u32,
}

impl Rules {
    fn new(limits: Limits) -> Rules {
        // Of two entries for one name the first holds.
        let own = limits.hosts.iter().enumerate().rev().map(|(place, entry)| (entry.host.clone(), place)).collect();
        Rules { limits: Arc::new(limits), own }
    }

    /// Returns what holds for `host`. An entry with its port goes before one for every port.
    pub(super) fn of(&self, host: &Host) -> HostLimits {
        let place = self.own.get(host.as_str()).or_else(|| self.own.get(host.name()));
        self.limits.with_own(host, place.and_then(|place| self.limits.hosts.get(*place)))
    }
}

impl Inner {
    /// Changes the state of `host`, as an unknown one has it if need be.
    pub(super) fn change<T>(&mut self, host: &Host, now: Timestamp, change: impl FnOnce(&mut HostState) -> T) -> T {
        let rules = &self.rules;
        self.table.change(host, now, || HostState::new(&rules.of(host)), change)
    }

    /// Starts a request, as [`HostState::start`] does.
    pub(super) fn start(&mut self, host: &Host, asker: Asker, now: Timestamp) -> Result<(), Blocked> {
        self.change(host, now, |state| state.start(asker, now))?;
        self.recent.requested(host, now);
        Ok(())
    }

    /// Lets the next attempt in the queue of `host` look for room after another has started. When the host is full the
    /// next release wakes it, and until then it wants room without having asked.
    pub(super) fn pass_on(&mut self, host: &Host, now: Timestamp) {
        if !self.queues.is_behind(host, None) {
            return;
        }
        self.change(host, now, |state| state.wanted_by(Asker::Attempt));
        if !self.is_full(host, now) {
            self.queues.wake(host);
        }
    }

    pub(super) fn places_max(&self) -> usize {
        self.rules.limits.max_concurrent_tasks as usize
    }

    fn view(&self, row: Row<'_>, now: Timestamp) -> HostView {
        let rates = self.recent.rates(row.host, now);
        HostView {
            host: row.host.clone(),
            running: row.state.map_or(0, HostState::in_flight),
            limits: self.rules.of(row.host),
            paused_until: row.state.and_then(|state| state.paused_until(now)),
            pause_reason: row.state.map(|state| state.pause_reason(now)).unwrap_or_default(),
            recent_error: row.error.map(|error| (error.time, error.text.to_string())),
            bytes_per_second: rates.bytes_per_second,
            requests_per_second: rates.requests_per_second,
            recent_failures: rates.failures,
        }
    }

    fn is_full(&self, host: &Host, now: Timestamp) -> bool {
        self.table.get(host).is_some_and(|state| state.check(now) == Err(Blocked::Full))
    }
}

impl Hosts {
    /// Returns a table under these limits in which no host is known yet.
    pub fn new(limits: Limits, clock: Clock) -> Arc<Hosts> {
        let inner = Inner {
            rules: Rules::new(limits),
            table: Table::default(),
            queues: Queues::default(),
            places: Places::default(),
            recent: Recent::default(),
            freed: Vec::new(),
        };
        Arc::new(Hosts { inner: Mutex::new(inner), per_party: PerParty::default(), clock, freed: Notify::new() })
    }

    /// Returns the limits in force.
    pub fn limits(&self) -> Arc<Limits> {
        self.lock().rules.limits.clone()
    }

    /// Changes the limits at once. Requests in flight beyond a lower limit go on; none starts until they are fewer.
    pub fn set_limits(&self, limits: Limits) {
        let now = self.clock.now();
        let mut inner = self.lock();
        let Inner { rules, table, queues, freed, .. } = &mut *inner;
        *rules = Rules::new(limits);
        table.change_all(now, |host, state| {
            state.set_limits(&rules.of(host), now);
            freed.push(host.clone());
        });
        queues.wake_all();
        drop(inner);
        self.freed.notify_one();
    }

    /// Returns how many requests to `host` may be in flight by the limits in force.
    pub fn max_concurrent(&self, host: &Host) -> u32 {
        self.lock().rules.of(host).max_concurrent
    }

    /// Returns whether a request to `host` could start now, as far as the limits go.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check(&self, host: &Host) -> Result<(), Blocked> {
        let now = self.clock.now();
        self.lock().table.get(host).map_or(Ok(()), |state| state.check(now))
    }

    /// Returns whether an attempt could begin, as far as their number goes.
    pub fn has_place(&self) -> bool {
        let inner = self.lock();
        inner.places.may_begin(inner.places_max())
    }

    /// Pauses `host` for every job, at most for a week. A shorter pause does not shorten a longer one.
    pub fn pause(&self, host: &Host, until: Timestamp, reason: &str) {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.change(host, now, |state| state.pause(until, reason, now));
        // Whoever waits for room must hear that there will be none for long.
        inner.queues.wake(host);
    }

    /// Ends the pause of `host`, whatever it is for. Returns whether there was one; `None`: the host is not known.
    pub fn resume(&self, host: &Host) -> Option<bool> {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.table.row(host)?;
        let was_paused = inner.table.change_known(host, now, |state| state.resume(now)) == Some(true);
        if was_paused {
            self.free(inner, host, now);
        }
        Some(was_paused)
    }

    /// Counts an attempt of somebody that failed at `host`.
    pub fn attempt_failed(&self, host: &Host, party: Party) {
        let now = self.clock.now();
        self.lock().recent.failed(host, now);
        if let Some(own) = self.per_party.of(party, host, now) {
            own.failed(now);
        }
    }

    /// Says whether what is done for different parties is counted apart.
    pub fn tell_parties_apart(&self, is_on: bool) {
        self.per_party.set_on(is_on);
    }

    /// Keeps an error of `host` for who asked it.
    pub fn note_own_error(&self, host: &Host, party: Party, error: &str) {
        self.per_party.note_error(party, host, error, self.clock.now());
    }

    /// Returns at most `limit` hosts that are asked for these parties, in the order of their names, from the first one after
    /// `last`. The numbers and errors are theirs alone.
    pub fn own_views_after(&self, whose: Parties, last: Option<&Host>, limit: usize) -> Vec<HostView> {
        let now = self.clock.now();
        let own = self.per_party.views(whose, now);
        let inner = self.lock();
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let view = |(host, own): (&Host, &OwnView)| HostView {
            running: own.running,
            recent_error: own.error.as_ref().map(|(time, error)| (*time, error.to_string())),
            bytes_per_second: own.rates.bytes_per_second,
            requests_per_second: own.rates.requests_per_second,
            recent_failures: own.rates.failures,
            ..inner.view(Row { host, state: inner.table.get(host), error: None }, now)
        };
        own.range::<Host, _>((from, Bound::Unbounded)).take(limit).map(view).collect()
    }

    /// Notes that `host` answered: any answer closes its breaker.
    pub fn answered(&self, host: &Host) {
        let now = self.clock.now();
        let mut inner = self.lock();
        if inner.table.change_known(host, now, |state| state.answered(now)) == Some(true) {
            self.free(inner, host, now);
        }
    }

    /// Notes that a connection to `host` could not be made; eight in a row open its breaker.
    pub fn failed_to_connect(&self, host: &Host, error: &str) {
        let now = self.clock.now();
        let error: Arc<str> = cut(error).into();
        let mut inner = self.lock();
        inner.change(host, now, |state| state.failed_to_connect(error.clone(), now));
        inner.table.note_error(host, error, now);
        // The first in the queue looks whether the breaker has opened.
        inner.queues.wake(host);
    }

    /// Keeps an error of `host` for [`Hosts::views_after`].
    pub fn note_error(&self, host: &Host, error: &str) {
        let now = self.clock.now();
        self.lock().table.note_error(host, cut(error).into(), now);
    }

    /// Waits until some host may have room again.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Returns the hosts that may have room since the last call, each as often as a request ended or became possible.
    pub fn take_freed(&self) -> Vec<Host> {
        std::mem::take(&mut self.lock().freed)
    }

    /// Returns at most `limit` hosts in the order of their names, from the first one after `last`.
    pub fn views_after(&self, last: Option<&Host>, limit: usize) -> Vec<HostView> {
        let now = self.clock.now();
        let inner = self.lock();
        inner.table.after(last).take(limit).map(|row| inner.view(row, now)).collect()
    }

    /// Returns one host.
    pub fn view(&self, host: &Host) -> Option<HostView> {
        let now = self.clock.now();
        let inner = self.lock();
        inner.table.row(host).map(|row| inner.view(row, now))
    }

    /// Returns how many hosts have work or a pause: those that are fine, and paused ones.
    pub fn counts(&self) -> [u64; 2] {
        let now = self.clock.now();
        let inner = self.lock();
        let states = inner.table.after(None).filter_map(|row| row.state);
        let mut counts = [0; 2];
        states.for_each(|state| counts[usize::from(state.paused_until(now).is_some())] += 1);
        counts
    }

    /// Returns the hosts that `name` stands for, one where it has a port and else those with each port: how many requests
    /// they have, and whether they are paused.
    pub fn named(&self, name: &str) -> Vec<(Host, u32, bool)> {
        let now = self.clock.now();
        let inner = self.lock();
        let look = |host: &Host, state: Option<&HostState>| {
            let (running, until) = state.map_or((0, None), |state| (state.in_flight(), state.paused_until(now)));
            (host.clone(), running, until.is_some())
        };
        let has_port = name.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if has_port {
            let host = Host::new(name);
            return vec![look(&host, inner.table.get(&host))];
        }
        let first = Host::new(&format!("{name}:"));
        let hosts = inner.table.after(Some(&first)).take_while(|row| row.host.as_str().starts_with(first.as_str()));
        hosts.map(|row| look(row.host, row.state)).collect()
    }

    /// Returns a message for users: that `host` is paused `until` then, as [`Blocked::Paused`] has it, and why.
    pub fn explain_pause(&self, host: &Host, until: Timestamp) -> String {
        let now = self.clock.now();
        let reason = self.lock().table.get(host).map(|state| state.pause_reason(now)).unwrap_or_default();
        let reason = if reason.is_empty() { reason } else { format!(" ({reason})") };
        format!("`{host}` is paused until {}{reason}", time_of_day(until, now))
    }

    pub(super) fn release(&self, host: &Host, attempt: Option<AttemptNo>) {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.table.change_known(host, now, |state| state.release(now));
        if attempt.is_some_and(|attempt| inner.places.released(attempt)) {
            self.place_is_free(inner);
            inner = self.lock();
        }
        self.free(inner, host, now);
    }

    /// Wakes those who may use a place that an attempt has given away.
    pub(super) fn place_is_free(&self, inner: MutexGuard<'_, Inner>) {
        if inner.places.are_wanted() {
            inner.queues.wake_all();
        }
        drop(inner);
        self.freed.notify_one();
    }

    /// Wakes those who may use room at `host`, unless it is full all the same.
    fn free(&self, mut inner: MutexGuard<'_, Inner>, host: &Host, now: Timestamp) {
        if inner.is_full(host, now) {
            return;
        }
        inner.freed.push(host.clone());
        inner.queues.wake(host);
        drop(inner);
        self.freed.notify_one();
    }

    #[cfg(test)]
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    #[cfg(test)]
    pub(super) fn has_no_queues(&self) -> bool {
        self.lock().queues.is_empty()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Counters and stamps: whoever panicked left them usable.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `12:03:07 UTC`, with the day before it when that is a day or more from `now`.
fn time_of_day(time: Timestamp, now: Timestamp) -> String {
    let micros = u64::try_from(time.min(Timestamp::MAX).0).unwrap_or(0);
    // `Thu, 26 Nov 2026 12:03:07 GMT`
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_micros(micros));
    let from = if time.since(now) < Duration::from_secs(24 * 3600) { 17 } else { 5 };
    format!("{} UTC", date.get(from..25).unwrap_or_default())
}
