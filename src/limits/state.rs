//! One host: whether a request to it may start now, and what its answers and failures mean for the next. Pure: the caller
//! brings the time.
//!
//! A host that a tenant cannot connect to again and again is paused for it (its breaker opens; see `breaker` for when that is
//! for all); then one request at a time probes it (half-open); when one gets through, each answer allows one request more at
//! once, which doubles them with each round trip (slow start, RFC 5681), up to the host's limit: a million waiting tasks do not
//! fall on a host that has just come back.

use std::sync::Arc;
use std::time::Duration;

use crate::limits::Blocked;
use crate::limits::breaker::{self, Breakers, Open};
use crate::limits::line::Line;
use crate::limits::pause::{Pause, Voice};
use crate::limits::rate::{ByteRate, Gcra};
use crate::limits::shares::{Asking, Portion, Shares};
use crate::limits::turns::{Asker, Turns};
use crate::model::failure::Failure;
use crate::model::level::Level;
use crate::model::limits::HostLimits;
use crate::model::pause::{FOR_ALL, HostPause, PauseCause};
use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;

/// The longest pause, whatever is asked for: a host that is paused for ever could only be helped by a restart.
const PAUSE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What decides whether a request to a host may start, and how fast bodies from it are read.
#[derive(Debug)]
pub(super) struct HostState {
    rate: Gcra,
    max_concurrent: u32,
    in_flight: u32,
    shares: Shares,
    /// Bodies that are being read.
    readers: u32,
    /// For whom they are.
    reads: Shares,
    breakers: Breakers,
    turns: Turns,
    /// The tenants that the rate has refused, where there are several.
    line: Option<Box<Line>>,
    /// The rate that all bodies share, as long as there are readers or bytes that the rate has yet to allow.
    bytes: Option<Arc<ByteRate>>,
    /// When the rate has allowed all bytes that were read; set when the last reader ends.
    bytes_allowed_at: Timestamp,
    pause: Option<Box<Pause>>,
}

// A hundred thousand of them may be remembered.
const _: () = assert!(size_of::<HostState>() <= 120);

impl HostState {
    pub(super) fn new(limits: &HostLimits) -> HostState {
        HostState {
            rate: Gcra::new(limits.requests_per_second, limits.burst),
            max_concurrent: limits.max_concurrent,
            in_flight: 0,
            shares: Shares::default(),
            readers: 0,
            reads: Shares::default(),
            breakers: Breakers::default(),
            turns: Turns::default(),
            line: None,
            bytes: None,
            bytes_allowed_at: Timestamp::default(),
            pause: None,
        }
    }

    /// Changes the limits. What was granted stays granted.
    pub(super) fn set_limits(&mut self, limits: &HostLimits, now: Timestamp) {
        self.max_concurrent = limits.max_concurrent;
        self.rate.set(limits.requests_per_second, limits.burst, now);
        if let Some(bytes) = &self.bytes {
            bytes.set(limits.bytes_per_second);
        }
    }

    /// Returns whether a request may start by the limits, whosever turn it is, for a tenant that may have so much of the host.
    pub(super) fn check(&self, asking: Asking, portion: Portion, now: Timestamp) -> Result<(), Blocked> {
        if let Some(until) = self.paused_until(Some(asking.tenant), now) {
            return Err(Blocked::Paused(until));
        }
        if self.has_share(asking.tenant, portion) {
            return Err(Blocked::Share);
        }
        if self.room(now) <= asking.kept || self.is_probed_by(asking.tenant, now) {
            return Err(Blocked::Full);
        }
        if self.is_left_by(asking.tenant, portion, now) {
            return Err(Blocked::LeftToOthers);
        }
        self.rate.check(now).map_err(Blocked::Rate)
    }

    /// Returns how many more requests may be in flight. What is being read came before the host was lost, or after it came back:
    /// it is no probe, and may go on for hours.
    pub(super) fn room(&self, now: Timestamp) -> u32 {
        let ramp = self.breakers.ramp_of_all(now).saturating_add(self.readers);
        self.max_concurrent.min(ramp).saturating_sub(self.in_flight)
    }

    /// Returns how many requests of a tenant are in flight; `None`: it may have none more, whatever room there is.
    pub(super) fn standing(&self, tenant: TenantNo, portion: Portion, now: Timestamp) -> Option<u32> {
        let may = self.paused_until(Some(tenant), now).is_none() && !self.has_share(tenant, portion);
        (may && !self.is_probed_by(tenant, now) && !self.is_left_by(tenant, portion, now)).then(|| self.share(tenant))
    }

    /// Returns how many requests of a tenant are in flight.
    pub(super) fn share(&self, tenant: TenantNo) -> u32 {
        self.shares.of(tenant, self.in_flight)
    }

    fn has_share(&self, tenant: TenantNo, portion: Portion) -> bool {
        portion.most != u32::MAX && self.share(tenant) >= portion.most
    }

    /// Whether there is room which a tenant leaves to others.
    fn is_left_by(&self, tenant: TenantNo, portion: Portion, now: Timestamp) -> bool {
        let room = if portion.is_shared { self.room(now) } else { 0 };
        room > 0 && Level::of(self.share(tenant), 1) >= Level::held_from(room - 1)
    }

    /// Whether a tenant asks as much of the host as may be of one that may have come back for it.
    fn is_probed_by(&self, tenant: TenantNo, now: Timestamp) -> bool {
        let ramp = self.breakers.ramp(tenant, now);
        // What others read is no request of it.
        ramp != u32::MAX && self.share(tenant) >= ramp.saturating_add(self.reads.of(tenant, self.readers))
    }

    /// Starts a request, when the limits allow it and it is the asker's turn.
    pub(super) fn start(
        &mut self,
        asker: Asker,
        asking: Asking,
        portion: Portion,
        now: Timestamp,
    ) -> Result<(), Blocked> {
        self.lapse(now);
        if let Err(why) = self.check(asking, portion, now) {
            self.refused(asker, asking.tenant, why);
            if let Blocked::Rate(until) = why {
                self.line_up(asking, until, now);
            }
            return Err(why);
        }
        // Another's turn ends by itself, so whoever has to wait for that waits for a time, as with a rate.
        if let Err(until) = self.take_turn(asker, asking, now) {
            self.line_up(asking, until, now);
            return Err(Blocked::Rate(until));
        }
        self.rate.take(now);
        self.in_flight += 1;
        self.shares.start(asking.tenant);
        Ok(())
    }

    /// Notes that a tenant was refused.
    pub(super) fn refused(&mut self, asker: Asker, tenant: TenantNo, why: Blocked) {
        // Room is not what a tenant wants that has its share. As long as it is alone here it has what becomes free.
        let is_own = matches!(why, Blocked::Share | Blocked::LeftToOthers);
        if !is_own || self.share(tenant) == self.in_flight {
            self.turns.refused(asker, why.until());
        }
    }

    /// Takes a start that the limits allow, if it is the asker's turn.
    fn take_turn(&mut self, asker: Asker, asking: Asking, now: Timestamp) -> Result<(), Timestamp> {
        if let Some(line) = self.line.as_mut().filter(|_| asking.lines_up) {
            line.check(asking.tenant, self.rate.possible(now), now)?;
        }
        self.turns.take(asker, now)?;
        if let Some(line) = &mut self.line {
            line.started(asking.lines_up.then_some(asking.tenant));
        }
        self.line.take_if(|line| line.is_over(now));
        Ok(())
    }

    fn line_up(&mut self, asking: Asking, until: Timestamp, now: Timestamp) {
        if asking.lines_up {
            self.line.get_or_insert_default().refused(asking.tenant, until, now);
        }
    }

    /// Returns how a tenant stands among those that the scheduler could start something for; the least is next. `None`: for
    /// it nothing may start, whatever room there is.
    pub(super) fn rank(&self, tenant: TenantNo, portion: Portion, now: Timestamp) -> Option<u32> {
        let standing = self.standing(tenant, portion, now)?;
        match self.line.as_ref().filter(|line| !line.is_over(now)) {
            Some(line) if line.is_next(tenant, now) => Some(0),
            Some(_) => Some(standing.saturating_add(1)),
            None => Some(standing),
        }
    }

    /// Returns how many of those that wait for the rate are to look, so that all is used and one of them learns when it allows
    /// more.
    ///
    /// # Errors
    ///
    /// When the rate allows the next start.
    pub(super) fn lookers(&self, now: Timestamp) -> Result<u32, Timestamp> {
        self.rate.check(now)?;
        Ok(self.room(now).min(self.rate.possible(now).saturating_add(1)))
    }

    /// Notes that `asker` waits for room.
    pub(super) fn wanted_by(&mut self, asker: Asker) {
        self.turns.refused(asker, None);
    }

    /// Counts the end of a request of a tenant.
    pub(super) fn release(&mut self, tenant: TenantNo, now: Timestamp) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.shares.release(tenant);
        self.turns.has_room(now);
    }

    /// Pauses the host for a tenant, for [`PAUSE_MAX`] at most. A shorter pause does not shorten a longer one. Returns until
    /// when the tenant has to wait by all that it was asked itself, and why; and until when all have to, if that is longer than
    /// before.
    pub(super) fn pause(
        &mut self,
        tenant: TenantNo,
        until: Timestamp,
        reason: &str,
        voice: Voice,
        now: Timestamp,
    ) -> ((Timestamp, &str), Option<Timestamp>) {
        let until = until.min(now.plus(PAUSE_MAX));
        let pause = self.pause.get_or_insert_default();
        let for_all = pause.ask(tenant, until, reason, voice, now);
        (pause.asked_of(tenant).unwrap_or_default(), for_all)
    }

    /// Takes in a pause that was begun in a process before.
    pub(super) fn restore(&mut self, tenant: TenantNo, cause: PauseCause, pause: &HostPause, now: Timestamp) {
        let HostPause { time, until, failures, reason } = pause;
        match cause {
            PauseCause::Asked => {
                let until = (*until).min(now.plus(PAUSE_MAX));
                let pause = self.pause.get_or_insert_default();
                if tenant == FOR_ALL {
                    pause.ask_all(until);
                } else {
                    // What is for all is kept by itself.
                    pause.ask(tenant, until, reason, Voice::Other, *time);
                }
            }
            PauseCause::Failures => {
                let until = (*until).min(now.plus(breaker::PAUSE_MAX));
                let open = Open { until, failures: *failures, error: reason.as_str().into() };
                self.breakers.restore(tenant, open, *time, now);
            }
        }
    }

    /// Ends the pauses of all tenants. What has opened a breaker still counts: a next failure opens it again. Returns
    /// whether there was a pause.
    pub(super) fn resume(&mut self, now: Timestamp) -> bool {
        let was_paused = self.paused_until(None, now).is_some();
        self.pause = None;
        self.breakers.resume();
        if was_paused {
            self.turns.has_room(now);
        }
        was_paused
    }

    /// Closes the breaker of a tenant, since the host has answered it. Returns whether more requests may start than before.
    pub(super) fn answered(&mut self, tenant: TenantNo, now: Timestamp) -> bool {
        self.lapse(now);
        let has_more_room = self.breakers.answered(tenant, self.max_concurrent);
        if has_more_room {
            self.turns.has_room(now);
        }
        has_more_room
    }

    /// Counts a connection that could not be made for a tenant. Eight in a row open its breaker, which is
    /// returned then.
    pub(super) fn failed_to_connect(
        &mut self,
        tenant: TenantNo,
        failure: Arc<Failure>,
        now: Timestamp,
    ) -> Option<Open> {
        self.lapse(now);
        let is_paused = self.paused_until(Some(tenant), now).is_some();
        self.breakers.failed(tenant, failure, is_paused, now).cloned()
    }

    /// Returns the failure that an attempt of a tenant shares which has waited for a request since then.
    pub(super) fn shared(&self, tenant: TenantNo, since: Timestamp, now: Timestamp) -> Option<Arc<Failure>> {
        let is_asked_to_wait = self.pause.as_ref().is_some_and(|pause| pause.until(Some(tenant)) > now);
        self.breakers.shared(tenant, since, now).filter(|_| !is_asked_to_wait).cloned()
    }

    /// Counts a body that is read from now on for a tenant, and returns the rate that all bodies of the host share.
    pub(super) fn reader_begins(&mut self, tenant: TenantNo, bytes_per_second: u64) -> Arc<ByteRate> {
        self.readers += 1;
        self.reads.start(tenant);
        self.bytes.get_or_insert_with(|| Arc::new(ByteRate::new(bytes_per_second))).clone()
    }

    /// Counts a body that is not read any more for a tenant.
    pub(super) fn reader_ends(&mut self, tenant: TenantNo, now: Timestamp) {
        self.readers = self.readers.saturating_sub(1);
        self.reads.release(tenant);
        let behind = self.bytes.as_ref().map_or(Duration::ZERO, |bytes| bytes.behind());
        self.bytes_allowed_at = now.plus(behind);
        if self.readers == 0 && behind.is_zero() {
            self.bytes = None;
        }
    }

    /// When nothing distinguishes this host any more from one that was never seen, if nothing happens until then. `None`
    /// while a request is in flight or a body is read.
    pub(super) fn rests_at(&self) -> Option<Timestamp> {
        if self.in_flight > 0 || self.readers > 0 {
            return None;
        }
        let pause = self.pause.as_ref().map(|pause| pause.until(None));
        let line = self.line.as_ref().map(|line| line.rests_at());
        let ends = [pause, self.breakers.rests_at(), self.turns.rest_at(), line, Some(self.bytes_allowed_at)];
        ends.into_iter().flatten().max().max(Some(self.rate.rests_at()))
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Returns until when the host is paused for a tenant; without one, for whomever it is paused longest.
    pub(super) fn paused_until(&self, tenant: Option<TenantNo>, now: Timestamp) -> Option<Timestamp> {
        let asked = self.pause.as_ref().map(|pause| pause.until(tenant));
        asked.max(self.breakers.until(tenant)).filter(|until| *until > now)
    }

    /// Returns why the host is paused; empty when it is not.
    pub(super) fn pause_reason(&self, tenant: Option<TenantNo>, now: Timestamp) -> String {
        let Some(until) = self.paused_until(tenant, now) else { return String::new() };
        let failures = self.breakers.reason(tenant, until);
        failures.or_else(|| self.pause.as_ref().map(|pause| pause.reason(tenant))).unwrap_or_default()
    }

    /// Drops what no longer matters.
    fn lapse(&mut self, now: Timestamp) {
        self.breakers.lapse(now);
        self.pause.take_if(|pause| pause.until(None) <= now);
        if self.rests_at().is_some_and(|at| at <= now) {
            self.turns = Turns::default();
            self.line = None;
        }
    }
}
