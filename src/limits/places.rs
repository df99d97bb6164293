//! The places of the server: how many attempts work at once. Pure.
//!
//! An attempt asks for its first request before it begins, and for further ones (redirects, segments, the next page) while
//! it runs. One that waits for such a request with nothing in flight gives its place to others, or a host that is full, or
//! a low rate, would stop the jobs of all others. It takes a place again before it goes on, and then it goes before attempts
//! that have not begun. As many may wait so as may work; one more is to be given back.
//!
//! Where there are several tenants, one that has as many places as [`Level::held_from`] says takes none back either, before there
//! are more free.

use std::collections::{HashMap, HashSet};

use crate::limits::shares::Shares;
use crate::model::level::Level;
use crate::model::tenant::TenantNo;

/// The name of an attempt that has a place, or had one.
pub(super) type AttemptNo = u64;

/// The most attempts that have given their place away because they settle.
const SETTLING_MAX: usize = 256;

/// All attempts.
#[derive(Debug, Default)]
pub(super) struct Places {
    attempts: HashMap<AttemptNo, Holding>,
    last: AttemptNo,
    /// Attempts that have given their place away.
    idle: usize,
    /// Those of them that settle.
    settling: usize,
    /// Attempts that would go on if there was a place.
    wanting: usize,
    /// Attempts of which nobody knows yet for whom they are.
    unnamed: usize,
    /// How many places tenants have.
    working: Shares,
    /// How many attempts of each tenant have given their place away, and of which tenants that has changed.
    idle_of: HashMap<TenantNo, u32>,
    changed: HashSet<TenantNo>,
}

/// What an attempt has.
#[derive(Clone, Copy, Debug, Default)]
struct Holding {
    tenant: Option<TenantNo>,
    in_flight: u32,
    /// Requests that it waits for.
    waiting: u32,
    is_idle: bool,
    is_settling: bool,
}

/// As many attempts wait without a place as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crowded;

impl Places {
    fn is_free(&self, max: usize) -> bool {
        self.attempts.len() - self.idle < max
    }

    /// How many places are free.
    pub(super) fn left(&self, max: usize) -> u32 {
        u32::try_from(max.saturating_sub(self.attempts.len() - self.idle)).unwrap_or(u32::MAX)
    }

    /// Whether another attempt may begin where `max` may work.
    pub(super) fn may_begin(&self, max: usize) -> bool {
        self.wanting == 0 && self.is_free(max)
    }

    /// Begins an attempt, which has a place.
    pub(super) fn begin(&mut self, max: usize) -> Option<AttemptNo> {
        if !self.may_begin(max) {
            return None;
        }
        self.last += 1;
        self.attempts.insert(self.last, Holding::default());
        self.unnamed += 1;
        Some(self.last)
    }

    /// Says for which tenant an attempt that has begun is.
    pub(super) fn is_for(&mut self, attempt: AttemptNo, tenant: TenantNo) {
        let Some(holding) = self.attempts.get_mut(&attempt).filter(|holding| holding.tenant.is_none()) else { return };
        holding.tenant = Some(tenant);
        self.unnamed -= 1;
        self.working.start(tenant);
    }

    /// Ends an attempt.
    pub(super) fn end(&mut self, attempt: AttemptNo) {
        let Some(holding) = self.attempts.remove(&attempt) else { return };
        self.unnamed -= usize::from(holding.tenant.is_none());
        match holding.tenant {
            Some(tenant) if holding.is_idle => self.idle_no_more(tenant),
            Some(tenant) => self.working.release(tenant),
            None => {}
        }
        self.idle -= usize::from(holding.is_idle);
        self.settling -= usize::from(holding.is_settling);
    }

    fn idle_no_more(&mut self, tenant: TenantNo) {
        self.changed.insert(tenant);
        if let Some(count) = self.idle_of.get_mut(&tenant) {
            *count -= 1;
            if *count == 0 {
                self.idle_of.remove(&tenant);
            }
        }
    }

    /// Returns the tenants of which the number of attempts without a place has changed since the last call, with that number.
    pub(super) fn take_idle(&mut self) -> Vec<(TenantNo, u32)> {
        let changed = std::mem::take(&mut self.changed);
        let mut changed: Vec<_> =
            changed.into_iter().map(|tenant| (tenant, self.idle_of.get(&tenant).copied().unwrap_or(0))).collect();
        // In an order of their own, since a simulation has to repeat itself.
        changed.sort_unstable();
        changed
    }

    /// Whether an attempt has a place, or can take one.
    pub(super) fn may_go_on(&self, attempt: AttemptNo, max: usize) -> bool {
        self.is_free(max) || self.attempts.get(&attempt).is_none_or(|holding| !holding.is_idle)
    }

    /// Whether an attempt that has no place leaves what is free to other tenants. `weight` says how much of it is for its tenant.
    pub(super) fn is_left_by(&self, attempt: AttemptNo, weight: impl Fn(TenantNo) -> u32, max: usize) -> bool {
        let holding = self.attempts.get(&attempt).filter(|holding| holding.is_idle);
        let Some(tenant) = holding.and_then(|holding| holding.tenant) else { return false };
        let all = u32::try_from(self.attempts.len() - self.idle - self.unnamed).unwrap_or(u32::MAX);
        let level = Level::of(self.working.of(tenant, all), weight(tenant));
        level >= Level::held_from(self.left(max).saturating_sub(1))
    }

    /// A request of an attempt is in flight from now on.
    pub(super) fn started(&mut self, attempt: AttemptNo) {
        let Some(holding) = self.attempts.get_mut(&attempt) else { return };
        holding.in_flight += 1;
        self.set_idle(attempt, false);
    }

    /// An attempt has given its place away, or has one again. Returns whether that is news.
    fn set_idle(&mut self, attempt: AttemptNo, is_idle: bool) -> bool {
        let Some(holding) = self.attempts.get_mut(&attempt).filter(|it| it.is_idle != is_idle) else { return false };
        holding.is_idle = is_idle;
        if !is_idle {
            self.settling -= usize::from(std::mem::take(&mut holding.is_settling));
        }
        let tenant = holding.tenant;
        if is_idle {
            self.idle += 1;
            if let Some(tenant) = tenant {
                self.working.release(tenant);
                *self.idle_of.entry(tenant).or_default() += 1;
                self.changed.insert(tenant);
            }
        } else {
            self.idle -= 1;
            if let Some(tenant) = tenant {
                self.working.start(tenant);
                self.idle_no_more(tenant);
            }
        }
        true
    }

    /// A request of an attempt is in flight no more. Returns whether that frees a place.
    pub(super) fn released(&mut self, attempt: AttemptNo) -> bool {
        let Some(holding) = self.attempts.get_mut(&attempt) else { return false };
        holding.in_flight = holding.in_flight.saturating_sub(1);
        holding.in_flight == 0 && holding.waiting > 0 && self.set_idle(attempt, true)
    }

    /// An attempt has only its file to force to the device. Returns whether that frees a place.
    pub(super) fn settles(&mut self, attempt: AttemptNo) -> bool {
        let has_room = self.settling < SETTLING_MAX;
        let Some(holding) = self.attempts.get_mut(&attempt) else { return false };
        if !has_room || holding.in_flight > 0 || holding.is_idle {
            return false;
        }
        holding.is_settling = true;
        self.settling += 1;
        self.set_idle(attempt, true)
    }

    /// An attempt waits for a request from now on. Returns whether that frees a place.
    pub(super) fn waits(&mut self, attempt: AttemptNo, max: usize) -> Result<bool, Crowded> {
        let Some(holding) = self.attempts.get_mut(&attempt) else { return Ok(false) };
        let gives = holding.in_flight == 0 && !holding.is_idle;
        if gives && self.idle - self.settling >= max {
            return Err(Crowded);
        }
        holding.waiting += 1;
        Ok(gives && self.set_idle(attempt, true))
    }

    /// An attempt does not wait for that request any more, because it started or was given up.
    pub(super) fn waits_no_more(&mut self, attempt: AttemptNo) {
        let Some(holding) = self.attempts.get_mut(&attempt) else { return };
        holding.waiting = holding.waiting.saturating_sub(1);
        if holding.waiting == 0 {
            self.set_idle(attempt, false);
        }
    }

    /// Notes that an attempt would go on if there was a place, or does not say so any more.
    pub(super) fn wants(&mut self, is_wanted: bool) {
        self.wanting = if is_wanted { self.wanting + 1 } else { self.wanting.saturating_sub(1) };
    }

    /// Whether an attempt would go on if there was a place.
    pub(super) fn are_wanted(&self) -> bool {
        self.wanting > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_with_nothing_in_flight_has_no_place() {
        let mut places = Places::default();
        let (one, two) = (places.begin(2).unwrap(), places.begin(2).unwrap());
        assert_eq!(places.begin(2), None);
        places.started(one);
        places.started(two);
        assert_eq!(places.waits(one, 2), Ok(false), "it still works");
        assert!(places.released(one), "and now it only waits");
        let three = places.begin(2).unwrap();
        assert!(!places.may_go_on(one, 2));
        places.wants(true);
        places.end(three);
        assert_eq!(places.begin(2), None, "who has begun goes first");
        assert!(places.may_go_on(one, 2));
        places.wants(false);
        places.started(one);
        places.waits_no_more(one);
        assert_eq!(places.begin(2), None);
        places.end(one);
        places.end(two);
        assert_eq!((places.attempts.len(), places.idle, places.wanting), (0, 0, 0));
        assert!(!places.released(two), "its connection was closed later");
    }

    #[test]
    fn who_has_most_places_takes_none_back_before_there_are_more() {
        let mut places = Places::default();
        let begin = |places: &mut Places, tenant| {
            let attempt = places.begin(8).unwrap();
            places.is_for(attempt, tenant);
            attempt
        };
        let waiting = begin(&mut places, 16);
        assert_eq!(places.waits(waiting, 8), Ok(true));
        let working = [16; 6].map(|tenant| begin(&mut places, tenant));
        let left_by = |places: &Places, attempt| places.is_left_by(attempt, |_| 1, 8);
        assert_eq!((places.left(8), left_by(&places, waiting), left_by(&places, working[0])), (2, true, false));
        assert!(!places.is_left_by(waiting, |_| 9, 8), "it has a large share");
        let other = begin(&mut places, 1);
        assert_eq!(places.waits(other, 8), Ok(true));
        assert!(!left_by(&places, other), "who has none takes what is free");
        let unnamed = places.begin(8).unwrap();
        assert!(!left_by(&places, other), "the one that the scheduler looks with is nobody's");
        places.end(unnamed);
        places.end(working[0]);
        assert!(!left_by(&places, waiting));
        places.started(waiting);
        places.waits_no_more(other);
        assert_eq!((places.working.of(16, 7), places.working.of(1, 7), places.left(8)), (6, 1, 1));
        for attempt in working.into_iter().chain([waiting, other]) {
            places.end(attempt);
        }
        assert_eq!((places.working.of(16, 0), places.unnamed, places.idle), (0, 0, 0));
    }

    #[test]
    fn as_many_wait_as_may_work() {
        let mut places = Places::default();
        for _ in 0..3 {
            let attempt = places.begin(3).unwrap();
            assert_eq!(places.waits(attempt, 3), Ok(true));
        }
        let attempt = places.begin(3).unwrap();
        assert_eq!(places.waits(attempt, 3), Err(Crowded));
        places.end(attempt);
        assert!(places.begin(3).is_some(), "others are not in the way");
    }

    #[test]
    fn who_only_waits_for_the_disk_has_no_place_but_so_many_at_most() {
        let mut places = Places::default();
        let mut settled = Vec::new();
        for _ in 0..SETTLING_MAX {
            let attempt = places.begin(1).unwrap();
            places.started(attempt);
            assert!(!places.settles(attempt), "the origin counts its request");
            places.released(attempt);
            assert!(places.settles(attempt) && !places.settles(attempt));
            settled.push(attempt);
        }
        let waiting = places.begin(1).unwrap();
        assert_eq!(places.waits(waiting, 1), Ok(true), "those that settle do not wait for a request");
        let last = places.begin(1).unwrap();
        assert!(!places.settles(last));
        assert_eq!(places.begin(1), None, "one more keeps its place");
        let again = settled.remove(0);
        assert!(!places.may_go_on(again, 1), "one that asks once more needs a place");
        places.end(last);
        places.started(again);
        assert_eq!((places.begin(1), places.settling), (None, SETTLING_MAX - 1));
        for attempt in settled.into_iter().chain([waiting, again]) {
            places.end(attempt);
        }
        assert_eq!((places.attempts.len(), places.idle, places.settling), (0, 0, 0));
    }

    #[test]
    fn who_gives_up_waiting_has_its_place_again() {
        let mut places = Places::default();
        let attempt = places.begin(1).unwrap();
        assert_eq!(places.waits(attempt, 1), Ok(true));
        places.waits_no_more(attempt);
        assert_eq!(places.begin(1), None);
        places.end(attempt);
        assert!(places.begin(1).is_some());
    }
}
