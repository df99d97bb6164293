//! What every host is doing for all jobs together: requests in flight, rate, pauses, breaker. The decisions are those of
//! `limits::state`, and what is remembered those of `limits::table`; here they get the time, a lock, and wake-ups. What is
//! held of a host, and waited for, is in `limits::permits`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::limits::kept::Kept;
use crate::limits::parties::PerParty;
use crate::limits::pause::Voice;
use crate::limits::places::{AttemptNo, Places};
use crate::limits::queue::{Queues, Ticket};
use crate::limits::recent::Recent;
use crate::limits::shares::Portion;
use crate::limits::state::HostState;
use crate::limits::table::Table;
use crate::limits::text::cut;
use crate::limits::turns::Asker;
use crate::limits::{Asking, Blocked};
use crate::model::failure::Failure;
use crate::model::host::Host;
use crate::model::limits::{HostLimits, Limits};
use crate::model::pause::{FOR_ALL, HostPause, PauseCause, PauseChange, PauseKey};
use crate::model::tenant::{Party, Share, TenantNo};
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
    /// Attempts that work at once at most, whatever the limits allow.
    attempts_max: u32,
    pub(super) table: Table,
    pub(super) queues: Queues,
    pub(super) places: Places,
    pub(super) recent: Recent<Host>,
    pub(super) kept: Kept,
    freed: Vec<Host>,
    /// Hosts at which a probe has failed.
    lost: Vec<Host>,
}

/// The limits in force.
#[derive(Debug)]
pub(super) struct Rules {
    limits: Arc<Limits>,
    /// The places in `limits.hosts` by the hosts named there.
    own: HashMap<String, usize>,
    /// What tenants may have, where that is not the same for all.
    shares: HashMap<TenantNo, Share>,
    /// Whether there are several tenants, who leave something to each other.
    pub(super) are_several: bool,
}

impl Rules {
    fn new(limits: Limits, shares: HashMap<TenantNo, Share>, are_several: bool) -> Rules {
        // Of two entries for one name the first holds.
        let own = limits.hosts.iter().enumerate().rev().map(|(place, entry)| (entry.host.clone(), place)).collect();
        Rules { limits: Arc::new(limits), own, shares, are_several }
    }

    /// Returns what holds for `host`. An entry with its port goes before one for every port.
    pub(super) fn of(&self, host: &Host) -> HostLimits {
        let place = self.own.get(host.as_str()).or_else(|| self.own.get(host.name()));
        self.limits.with_own(host, place.and_then(|place| self.limits.hosts.get(*place)))
    }

    /// Returns how much of one host a tenant may have.
    pub(super) fn portion(&self, tenant: TenantNo) -> Portion {
        let most = self.shares.get(&tenant).and_then(|share| share.per_host);
        Portion { most: most.unwrap_or(u32::MAX), is_shared: self.are_several }
    }

    /// Returns the weight of a tenant.
    pub(super) fn weight(&self, tenant: TenantNo) -> u32 {
        self.shares.get(&tenant).map_or(1, |share| share.weight)
    }
}

impl Inner {
    /// Changes the state of `host`, as an unknown one has it if need be.
    pub(super) fn change<T>(&mut self, host: &Host, now: Timestamp, change: impl FnOnce(&mut HostState) -> T) -> T {
        let rules = &self.rules;
        self.table.change(host, now, || HostState::new(&rules.of(host)), change)
    }

    /// Starts a request, as [`HostState::start`] does.
    pub(super) fn start(&mut self, host: &Host, asker: Asker, asking: Asking, now: Timestamp) -> Result<(), Blocked> {
        let portion = self.rules.portion(asking.tenant);
        self.change(host, now, |state| state.start(asker, asking, portion, now))?;
        self.recent.requested(host, now);
        Ok(())
    }

    /// Returns whether a request could start, as far as the limits go.
    pub(super) fn check(&self, host: &Host, asking: Asking, now: Timestamp) -> Result<(), Blocked> {
        let portion = self.rules.portion(asking.tenant);
        match self.table.get(host) {
            Some(state) => state.check(asking, portion, now),
            None if portion.most == 0 => Err(Blocked::Share),
            None => Ok(()),
        }
    }

    /// Returns how many requests a tenant has at a host; `None`: it may have none more, whatever room there is.
    pub(super) fn standing(&self, host: &Host, tenant: TenantNo, now: Timestamp) -> Option<u32> {
        let portion = self.rules.portion(tenant);
        self.table.get(host).map_or((portion.most > 0).then_some(0), |state| state.standing(tenant, portion, now))
    }

    /// Returns whoever waits at the front at `host`.
    pub(super) fn front(&self, host: &Host, now: Timestamp) -> Option<Ticket> {
        self.queues.first(host, |tenant| self.standing(host, tenant, now))
    }

    fn shared(&self, host: &Host, tenant: TenantNo, since: Timestamp, now: Timestamp) -> Option<Arc<Failure>> {
        self.table.get(host)?.shared(tenant, since, now)
    }

    /// Wakes whoever waits at the front at `host`.
    pub(super) fn wake(&self, host: &Host, now: Timestamp) {
        self.queues.wake(host, |tenant| self.standing(host, tenant, now));
    }

    /// Lets the next attempt in the queue of `host` look for room after another has started. When the host is full the
    /// next release wakes it, and until then it wants room without having asked.
    pub(super) fn pass_on(&mut self, host: &Host, now: Timestamp) {
        if self.front(host, now).is_none() {
            return;
        }
        self.change(host, now, |state| state.wanted_by(Asker::Attempt));
        if !self.is_full(host, now) {
            self.wake(host, now);
        }
    }

    pub(super) fn places_max(&self) -> usize {
        self.rules.limits.max_concurrent_tasks.min(self.attempts_max) as usize
    }

    fn is_full(&self, host: &Host, now: Timestamp) -> bool {
        self.table.get(host).is_some_and(|state| state.room(now) == 0)
    }
}

impl Hosts {
    /// Returns a table under these limits in which no host is known yet.
    pub fn new(limits: Limits, clock: Clock) -> Arc<Hosts> {
        Hosts::with_attempts(limits, u32::MAX, clock)
    }

    /// As [`Hosts::new`], where no more than `attempts_max` attempts work at once, whatever the limits allow.
    pub fn with_attempts(limits: Limits, attempts_max: u32, clock: Clock) -> Arc<Hosts> {
        let inner = Inner {
            rules: Rules::new(limits, HashMap::new(), false),
            attempts_max,
            table: Table::default(),
            queues: Queues::default(),
            places: Places::default(),
            recent: Recent::default(),
            kept: Kept::default(),
            freed: Vec::new(),
            lost: Vec::new(),
        };
        Arc::new(Hosts { inner: Mutex::new(inner), per_party: PerParty::default(), clock, freed: Notify::new() })
    }

    /// Returns the limits in force.
    pub fn limits(&self) -> Arc<Limits> {
        self.lock().rules.limits.clone()
    }

    /// Changes the limits at once. Requests in flight beyond a lower limit go on; none starts until they are fewer.
    pub fn set_limits(&self, limits: Limits) {
        let mut inner = self.lock();
        let (shares, are_several) = (std::mem::take(&mut inner.rules.shares), inner.rules.are_several);
        self.set_rules(inner, Rules::new(limits, shares, are_several));
    }

    /// Changes what tenants may have: those that are named, others as much as any. Where there are several, they leave something
    /// to each other. Returns whether that changes anything, also at hosts that nobody asks.
    pub fn set_shares(&self, shares: HashMap<TenantNo, Share>, are_several: bool) -> bool {
        let inner = self.lock();
        let is_change = inner.rules.shares != shares || inner.rules.are_several != are_several;
        if is_change {
            let rules = Rules::new(Limits::clone(&inner.rules.limits), shares, are_several);
            self.set_rules(inner, rules);
        }
        is_change
    }

    fn set_rules(&self, mut inner: MutexGuard<'_, Inner>, new: Rules) {
        let now = self.clock.now();
        let Inner { rules, table, queues, freed, .. } = &mut *inner;
        *rules = new;
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

    /// Returns whether a request of a tenant to `host` could start now, as far as the limits go.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check(&self, host: &Host, tenant: TenantNo) -> Result<(), Blocked> {
        let now = self.clock.now();
        self.lock().check(host, Asking::of(tenant), now)
    }

    /// Returns how a tenant stands among those for which the scheduler could start something at `host`: the least is next.
    /// `None`: nothing may start for it, whatever room there is.
    pub fn rank(&self, host: &Host, tenant: TenantNo) -> Option<u32> {
        let now = self.clock.now();
        let inner = self.lock();
        let portion = inner.rules.portion(tenant);
        inner.table.get(host).map_or((portion.most > 0).then_some(0), |state| state.rank(tenant, portion, now))
    }

    /// Returns how many of those that wait for the rate of `host` are to look whether they may start.
    ///
    /// # Errors
    ///
    /// When the rate allows the next start.
    pub fn lookers(&self, host: &Host) -> Result<u32, Timestamp> {
        let now = self.clock.now();
        let inner = self.lock();
        inner.table.get(host).map_or_else(|| Ok(inner.rules.of(host).max_concurrent), |state| state.lookers(now))
    }

    /// Returns whether an attempt could begin, as far as their number goes.
    pub fn has_place(&self) -> bool {
        let inner = self.lock();
        inner.places.may_begin(inner.places_max())
    }

    /// Pauses `host` for every job of a tenant, at most for a week; for all tenants where another one was asked to wait
    /// within a minute. A shorter pause does not shorten a longer one.
    pub fn pause(&self, host: &Host, tenant: TenantNo, until: Timestamp, reason: &str) {
        self.asked(host, tenant, until, reason, Voice::Host);
    }

    /// As [`Hosts::pause`], where somebody else has asked, perhaps, and for the tenant alone.
    pub(super) fn asked(&self, host: &Host, tenant: TenantNo, until: Timestamp, reason: &str, voice: Voice) {
        let now = self.clock.now();
        let mut inner = self.lock();
        let (until, reason, for_all) = inner.change(host, now, |state| {
            let ((until, reason), for_all) = state.pause(tenant, until, reason, voice, now);
            (until, reason.to_owned(), for_all)
        });
        let key = PauseKey { tenant, host: host.clone(), cause: PauseCause::Asked };
        if inner.kept.get(&key).is_none_or(|kept| kept.until != until) {
            inner.kept.put(key, HostPause { time: now, until, failures: 0, reason }, now);
        }
        if let Some(until) = for_all {
            // What each was asked says no more when that was, where it was asked for longer before.
            let key = PauseKey { tenant: FOR_ALL, host: host.clone(), cause: PauseCause::Asked };
            inner.kept.put(key, HostPause { time: now, until, failures: 0, reason: String::new() }, now);
        }
        // Whoever waits for room must hear that there will be none for long.
        inner.queues.wake_each(host);
    }

    /// Ends the pauses of `host`, whatever they are for. Returns whether there was one; `None`: the host is not known.
    pub fn resume(&self, host: &Host) -> Option<bool> {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.table.row(host)?;
        let was_paused = inner.table.change_known(host, now, |state| state.resume(now)) == Some(true);
        if was_paused {
            inner.kept.end_all_of(host);
            self.free(inner, host, now);
        }
        Some(was_paused)
    }

    /// Takes in pauses that were begun in a process before, in the order in which they were.
    pub fn restore(&self, pauses: Vec<(PauseKey, HostPause)>) {
        let now = self.clock.now();
        let mut inner = self.lock();
        for (key, stored) in pauses {
            let pause = stored.clone().seen_at(now);
            if pause.until > now {
                inner.change(&key.host, now, |state| state.restore(key.tenant, key.cause, &pause, now));
            }
            if pause == stored {
                inner.kept.restore(&key, pause, now);
            } else {
                // Stored anew, or each start would begin it again.
                inner.kept.put(key, pause, now);
            }
        }
    }

    /// Returns what became of pauses that outlive the process since the last call.
    pub fn take_pauses(&self) -> Vec<PauseChange> {
        self.lock().kept.take_unsaved()
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

    /// Returns how many bytes of bodies come for a tenant in a second, of late.
    pub fn bytes_per_second(&self, tenant: TenantNo) -> u64 {
        let now = self.clock.now();
        let own = self.per_party.bytes_per_second(tenant, now);
        // As long as there is one party, what all do is what it does.
        own.unwrap_or_else(|| {
            // Every request takes the lock: what it protects is summed up without it.
            let all = self.lock().recent.all();
            all.iter().map(|it| it.rates(now).bytes_per_second).sum()
        })
    }

    /// Notes that `host` answered a tenant: any answer closes its breaker.
    pub fn answered(&self, host: &Host, tenant: TenantNo) {
        let now = self.clock.now();
        let mut inner = self.lock();
        if inner.table.change_known(host, now, |state| state.answered(tenant, now)) == Some(true) {
            inner.kept.end(&PauseKey { tenant, host: host.clone(), cause: PauseCause::Failures });
            self.free(inner, host, now);
        }
    }

    /// Notes that a connection to `host` could not be made for a tenant; eight in a row open its breaker, and two that are
    /// open pause the host for all.
    pub fn failed_to_connect(&self, host: &Host, tenant: TenantNo, failure: &Failure) {
        let now = self.clock.now();
        let error: Arc<str> = cut(&failure.message).into();
        let failure = Arc::new(Failure { message: error.to_string(), ..failure.clone() });
        let mut inner = self.lock();
        if let Some(open) = inner.change(host, now, |state| state.failed_to_connect(tenant, failure, now)) {
            let key = PauseKey { tenant, host: host.clone(), cause: PauseCause::Failures };
            let reason = open.error.to_string();
            inner.kept.put(key, HostPause { time: now, until: open.until, failures: open.failures, reason }, now);
            if inner.shared(host, tenant, Timestamp::default(), now).is_some() {
                inner.lost.push(host.clone());
                self.freed.notify_one();
            }
        }
        inner.table.note_error(host, error, now);
        // The first in the queue looks whether the breaker has opened.
        inner.queues.wake_each(host);
    }

    /// Returns the failure that an attempt of a tenant shares which has waited for a request to `host` since then: the one of the
    /// last probe.
    pub fn shared_failure(&self, host: &Host, tenant: TenantNo, since: Timestamp) -> Option<Failure> {
        let now = self.clock.now();
        let failure = self.lock().shared(host, tenant, since, now)?;
        let message = format!("{} (found by the request to `{host}` that this one waited for)", failure.message);
        Some(Failure { message, ..Failure::clone(&failure) })
    }

    /// Returns the hosts at which a probe has failed since the last call: what waits there may share its failure.
    pub fn take_lost(&self) -> Vec<Host> {
        let mut lost = std::mem::take(&mut self.lock().lost);
        lost.sort_unstable();
        lost.dedup();
        lost
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
        let mut freed = std::mem::take(&mut self.lock().freed);
        // In an order of their own: all of them may be freed at once, and a simulation has to repeat itself.
        freed.sort_unstable();
        freed
    }

    /// As [`Hosts::release`], of a request that was none.
    pub(super) fn release_nothing(&self, attempt: Option<AttemptNo>) {
        let mut inner = self.lock();
        if attempt.is_some_and(|attempt| inner.places.released(attempt)) {
            self.place_is_free(inner);
        }
    }

    pub(super) fn release(&self, host: &Host, tenant: TenantNo, attempt: Option<AttemptNo>) {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.table.change_known(host, now, |state| state.release(tenant, now));
        if attempt.is_some_and(|attempt| inner.places.released(attempt)) {
            self.place_is_free(inner);
            inner = self.lock();
        }
        self.free(inner, host, now);
    }

    /// Wakes those who may use a place that an attempt has given away.
    pub(super) fn place_is_free(&self, inner: MutexGuard<'_, Inner>) {
        if inner.places.are_wanted() || inner.queues.has_held_back() {
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
        inner.wake(host, now);
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
