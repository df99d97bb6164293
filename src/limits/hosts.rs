//! What every host is doing for all jobs together: requests in flight, rate, pause, breaker. The decisions are those of
//! `limits::state`, and what is remembered those of `limits::table`; here they get the time, a lock, and wake-ups.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::limits::Blocked;
use crate::limits::parties::{OwnView, PerParty};
use crate::limits::places::{AttemptNo, Places};
use crate::limits::queue::{Queues, Ticket};
use crate::limits::rate::ByteRate;
use crate::limits::recent::{Activity, Recent, UnderWay};
use crate::limits::state::{HostState, cut};
use crate::limits::table::{Row, Table};
use crate::limits::turns::Asker;
use crate::model::host::Host;
use crate::model::limits::{HostLimits, Limits};
use crate::model::tenant::{Parties, Party};
use crate::model::time::Timestamp;

/// The longest pause that an attempt which has begun waits for, with all that it holds.
const PAUSE_PATIENCE: Duration = Duration::from_secs(1);

/// How long an attempt is given back for which there is not even room to wait.
const CROWDED: Duration = Duration::from_secs(10);

/// All hosts.
#[derive(Debug)]
pub struct Hosts {
    inner: Mutex<Inner>,
    per_party: PerParty,
    clock: Clock,
    /// Woken when a host may have room again; see [`Hosts::take_freed`].
    freed: Notify,
}

#[derive(Debug)]
struct Inner {
    rules: Rules,
    table: Table,
    queues: Queues,
    places: Places,
    recent: Recent<Host>,
    freed: Vec<Host>,
}

/// The limits in force.
#[derive(Debug)]
struct Rules {
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

/// The right to have one request in flight. Dropping it releases it.
#[derive(Debug)]
pub struct HostPermit {
    hosts: Arc<Hosts>,
    host: Host,
    attempt: Option<AttemptNo>,
    under_way: Option<UnderWay>,
}

impl HostPermit {
    /// Says for whom the request is made.
    pub fn is_for(&mut self, party: Party) {
        self.under_way = self.hosts.per_party.begin(party, &self.host, self.hosts.clock.now());
    }

    /// Says which attempt the request is of.
    pub fn belongs_to(&mut self, place: &AttemptPlace) {
        self.attempt = Some(place.attempt);
        self.hosts.lock().places.started(place.attempt);
    }

    /// Returns the host that a request may be sent to.
    pub fn host(&self) -> &Host {
        &self.host
    }
}

impl Drop for HostPermit {
    fn drop(&mut self) {
        self.hosts.release(&self.host, self.attempt);
    }
}

/// The place of an attempt among those that work at once. Dropping it says that the attempt has ended.
#[derive(Debug)]
pub struct AttemptPlace {
    hosts: Arc<Hosts>,
    attempt: AttemptNo,
    has_begun: bool,
}

impl AttemptPlace {
    /// Notes that the attempt begins. A place that was taken for none is given back without a word.
    pub fn begin(&mut self) {
        self.has_begun = true;
    }

    /// Something that the attempt may have to wait for.
    pub(super) fn wait(&self) -> Waiting<'_> {
        Waiting { place: self, is_waiting: false }
    }
}

impl Drop for AttemptPlace {
    fn drop(&mut self) {
        let mut inner = self.hosts.lock();
        inner.places.end(self.attempt);
        if inner.places.are_wanted() {
            inner.queues.wake_all();
        }
        drop(inner);
        // The scheduler itself took the other kind, and needs not be told.
        if self.has_begun {
            self.hosts.freed.notify_one();
        }
    }
}

/// An attempt that may have to wait for a request. Dropping it says that it does not any more.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    place: &'a AttemptPlace,
    is_waiting: bool,
}

impl Waiting<'_> {
    /// Notes that it waits: with nothing in flight it gives its place away.
    ///
    /// # Errors
    ///
    /// So many wait already that it is to be given back, and tried again at this time.
    pub(super) fn begin(&mut self) -> Result<(), Timestamp> {
        if self.is_waiting {
            return Ok(());
        }
        let hosts = &self.place.hosts;
        let now = hosts.clock.now();
        let mut inner = hosts.lock();
        let max = inner.places_max();
        let frees = inner.places.waits(self.place.attempt, max).map_err(|_| now.plus(CROWDED))?;
        self.is_waiting = true;
        if frees {
            hosts.place_is_free(inner);
        }
        Ok(())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.is_waiting {
            self.place.hosts.lock().places.waits_no_more(self.place.attempt);
        }
    }
}

/// Why an attempt does not get another request for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotNow {
    /// The host is paused until then.
    Paused(Timestamp),
    /// As many attempts as may wait for room wait already.
    Crowded(Timestamp),
}

/// A body of a host that is being read. Dropping it says that it is not read any more.
#[derive(Debug)]
pub struct HostReader {
    hosts: Arc<Hosts>,
    host: Host,
    rate: Arc<ByteRate>,
    activity: Arc<Activity>,
    /// What is counted for whom it is read.
    own: Option<Arc<Activity>>,
}

impl HostReader {
    /// Takes `bytes` of the host's rate, which all its bodies share, and waits until the rate has allowed them.
    pub async fn take(&self, bytes: u64) {
        let now = self.hosts.clock.now();
        self.activity.received(bytes, now);
        if let Some(own) = &self.own {
            own.received(bytes, now);
        }
        self.rate.take(bytes).await;
    }
}

impl Drop for HostReader {
    fn drop(&mut self) {
        let now = self.hosts.clock.now();
        self.hosts.lock().table.change_known(&self.host, now, |state| state.reader_ends(now));
    }
}

impl Rules {
    fn new(limits: Limits) -> Rules {
        // Of two entries for one name the first holds.
        let own = limits.hosts.iter().enumerate().rev().map(|(place, entry)| (entry.host.clone(), place)).collect();
        Rules { limits: Arc::new(limits), own }
    }

    /// Returns what holds for `host`. An entry with its port goes before one for every port.
    fn of(&self, host: &Host) -> HostLimits {
        let place = self.own.get(host.as_str()).or_else(|| self.own.get(host.name()));
        self.limits.with_own(host, place.and_then(|place| self.limits.hosts.get(*place)))
    }
}

impl Inner {
    /// Changes the state of `host`, as an unknown one has it if need be.
    fn change<T>(&mut self, host: &Host, now: Timestamp, change: impl FnOnce(&mut HostState) -> T) -> T {
        let rules = &self.rules;
        self.table.change(host, now, || HostState::new(&rules.of(host)), change)
    }

    /// Starts a request, as [`HostState::start`] does.
    fn start(&mut self, host: &Host, asker: Asker, now: Timestamp) -> Result<(), Blocked> {
        self.change(host, now, |state| state.start(asker, now))?;
        self.recent.requested(host, now);
        Ok(())
    }

    /// Lets the next attempt in the queue of `host` look for room after another has started. When the host is full the
    /// next release wakes it, and until then it wants room without having asked.
    fn pass_on(&mut self, host: &Host, now: Timestamp) {
        if !self.queues.is_behind(host, None) {
            return;
        }
        self.change(host, now, |state| state.wanted_by(Asker::Attempt));
        if !self.is_full(host, now) {
            self.queues.wake(host);
        }
    }

    fn places_max(&self) -> usize {
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

    /// Starts the first request of an attempt to `host`. While attempts wait for more requests to it, they and the callers
    /// of this take turns.
    ///
    /// # Errors
    ///
    /// Why it may not start now.
    pub fn try_start(self: &Arc<Self>, host: &Host) -> Result<HostPermit, Blocked> {
        let now = self.clock.now();
        self.lock().start(host, Asker::Scheduler, now)?;
        Ok(self.permit(host))
    }

    /// Takes a place for an attempt, if as many as may do not work already.
    pub fn take_place(self: &Arc<Self>) -> Option<AttemptPlace> {
        let mut inner = self.lock();
        let max = inner.places_max();
        let attempt = inner.places.begin(max)?;
        Some(AttemptPlace { hosts: self.clone(), attempt, has_begun: false })
    }

    /// Returns whether an attempt could begin, as far as their number goes.
    pub fn has_place(&self) -> bool {
        let inner = self.lock();
        inner.places.may_begin(inner.places_max())
    }

    /// Waits until another request of an attempt to `host` may start, and starts it; first come, first served.
    ///
    /// # Errors
    ///
    /// The end of a pause that lasts for more than a second, which is not waited for; or that there is no room to wait.
    pub(super) async fn start(
        self: &Arc<Self>,
        host: &Host,
        mut waiting: Option<Waiting<'_>>,
    ) -> Result<HostPermit, NotNow> {
        let attempt = waiting.as_ref().map(|waiting| waiting.place.attempt);
        let woken = Arc::new(Notify::new());
        let mut place = Place { hosts: self, host, woken, ticket: None, attempt, wants_place: false };
        loop {
            let now = self.clock.now();
            let until = match place.try_start(now) {
                Ok(permit) => return Ok(permit),
                Err(Blocked::Paused(until)) if until.since(now) > PAUSE_PATIENCE => return Err(NotNow::Paused(until)),
                Err(why) => why.until(),
            };
            if let Some(waiting) = &mut waiting {
                waiting.begin().map_err(NotNow::Crowded)?;
            }
            let rested = async {
                match until {
                    Some(until) => tokio::time::sleep(until.since(now)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = place.woken.notified() => {}
                () = rested => {}
            }
        }
    }

    /// Begins to read a body of `host` for somebody.
    pub fn read(self: &Arc<Self>, host: &Host, party: Party) -> HostReader {
        let now = self.clock.now();
        let mut inner = self.lock();
        let limits = inner.rules.of(host);
        let begin = |state: &mut HostState| state.reader_begins(limits.bytes_per_second);
        let rate = inner.table.change(host, now, || HostState::new(&limits), begin);
        let activity = inner.recent.of(host, now);
        drop(inner);
        let own = self.per_party.of(party, host, now);
        HostReader { hosts: self.clone(), host: host.clone(), rate, activity, own }
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

    fn permit(self: &Arc<Self>, host: &Host) -> HostPermit {
        HostPermit { hosts: self.clone(), host: host.clone(), attempt: None, under_way: None }
    }

    fn release(&self, host: &Host, attempt: Option<AttemptNo>) {
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
    fn place_is_free(&self, inner: MutexGuard<'_, Inner>) {
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

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Counters and stamps: whoever panicked left them usable.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt that wants a request, and its place in the queue once it had to wait. Dropping it leaves the queue.
struct Place<'a> {
    hosts: &'a Arc<Hosts>,
    host: &'a Host,
    woken: Arc<Notify>,
    ticket: Option<Ticket>,
    attempt: Option<AttemptNo>,
    /// There was room at the host, and no place for the attempt.
    wants_place: bool,
}

impl Place<'_> {
    fn try_start(&mut self, now: Timestamp) -> Result<HostPermit, Blocked> {
        let hosts = self.hosts;
        let mut inner = hosts.lock();
        let max = inner.places_max();
        let has_place = self.attempt.is_none_or(|attempt| inner.places.may_go_on(attempt, max));
        let mut wants_place = false;
        let started = if inner.queues.is_behind(self.host, self.ticket) {
            Err(Blocked::Full)
        } else if has_place {
            inner.start(self.host, Asker::Attempt, now)
        } else {
            let room = inner.table.get(self.host).map_or(Ok(()), |state| state.check(now));
            wants_place = room.is_ok();
            room.and(Err(Blocked::Full))
        };
        self.want_place(&mut inner, wants_place);
        match started {
            Ok(()) => {
                if let Some(attempt) = self.attempt {
                    inner.places.started(attempt);
                }
                if let Some(ticket) = self.ticket.take() {
                    inner.queues.leave(self.host, ticket);
                    inner.pass_on(self.host, now);
                }
                drop(inner);
                Ok(HostPermit { hosts: hosts.clone(), host: self.host.clone(), attempt: self.attempt, under_way: None })
            }
            Err(why) => {
                if self.ticket.is_none() {
                    self.ticket = Some(inner.queues.join(self.host, self.woken.clone()));
                }
                Err(why)
            }
        }
    }

    fn want_place(&mut self, inner: &mut Inner, wants: bool) {
        if self.wants_place != wants {
            self.wants_place = wants;
            inner.places.wants(wants);
            if !wants {
                // The scheduler had to stand back.
                self.hosts.freed.notify_one();
            }
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let hosts = self.hosts;
        let mut inner = hosts.lock();
        self.want_place(&mut inner, false);
        // It may have been woken and not have looked.
        if inner.queues.leave(self.host, ticket) {
            inner.queues.wake(self.host);
        }
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
