//! The breakers of one host: each tenant's connections that failed in a row, and what follows for the next. Pure.
//!
//! A host to which nobody gets through may be so for one tenant alone: its credentials, its settings and its own network
//! lead elsewhere. So a breaker is of the tenant whose connections failed. Two that are open at once mean the host, which is
//! then paused for all, until the earlier of the two closes: what is later is one tenant's experience. From then on the host
//! is probed by one request at a time of all, and each answer, whoever gets it, lets through one more: it shows that the
//! host is there, even if the two whose breakers opened ask it no more.
//!
//! A probe that fails is the attempt of all that waited for it: they share its failure, and their own policies say what follows.
//! Otherwise a thousand tasks of a host that is gone would need a probe for each of their attempts, which takes hours.

use std::sync::Arc;
use std::time::Duration;

use crate::model::failure::Failure;
use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;

/// Connect failures in a row that open the breaker.
const FAILURES: u32 = 8;
/// The first pause of an open breaker; doubled with each failed probe.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// The longest pause of an open breaker: a host that is back is noticed within this. One connection each two seconds is a load to nobody,
/// and what waits for it shares its failure, so that the backoffs of tasks say how often a host is asked that stays away.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long a connect failure counts when no other follows: nobody has asked the host since, so nothing is known of it.
const LAPSE: Duration = Duration::from_secs(3600);
/// No limit on requests at once beside the configured ones: the host is well.
const NO_RAMP: u32 = u32::MAX;

/// The breakers of those whose connections failed.
#[derive(Debug, Default)]
pub(super) struct Breakers(
    /// A hundred thousand hosts may be remembered, and few have any.
    Option<Box<Known>>,
);

/// What is known of the connections to a host.
#[derive(Debug)]
struct Known {
    /// Those of each tenant; few.
    each: Vec<Breaker>,
    /// Requests of all at once while the host comes back.
    ramp: Ramp,
    /// Whether the host has answered somebody since it was paused for all.
    has_answered: bool,
}

impl Default for Known {
    fn default() -> Known {
        Known { each: Vec::new(), ramp: Ramp::NONE, has_answered: false }
    }
}

impl Known {
    fn entry(&mut self, tenant: TenantNo) -> &mut Breaker {
        let place = self.each.iter().position(|it| it.tenant == tenant).unwrap_or_else(|| {
            self.each.push(Breaker::new(tenant));
            self.each.len() - 1
        });
        &mut self.each[place]
    }

    /// Notes that a breaker has opened: where it is not the only one, the host itself is lost.
    fn opened(&mut self, now: Timestamp) {
        if self.each.iter().filter(|it| it.until() > now).count() > 1 {
            (self.ramp, self.has_answered) = (Ramp::from(now), false);
        }
    }

    /// Until when it is for all: the second latest of the ends.
    fn for_all(&self) -> Timestamp {
        let mut latest = [Timestamp::default(); 2];
        for until in self.each.iter().map(Breaker::until) {
            if until > latest[0] {
                latest = [until, latest[0]];
            } else if until > latest[1] {
                latest[1] = until;
            }
        }
        if self.has_answered { Timestamp::default() } else { latest[1] }
    }
}

/// How many requests at once there may be while a host comes back. It lapses with what it is for, however often connections fail
/// now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ramp {
    /// Or [`NO_RAMP`].
    requests: u32,
    /// Since when the host was lost.
    since: Timestamp,
}

impl Ramp {
    const NONE: Ramp = Ramp { requests: NO_RAMP, since: Timestamp(0) };

    /// One request at once, from `now` on.
    fn from(now: Timestamp) -> Ramp {
        Ramp { requests: 1, since: now }
    }

    fn at(self, now: Timestamp) -> u32 {
        if self.since.plus(LAPSE) <= now { NO_RAMP } else { self.requests }
    }

    /// Allows one request more, of `most`, after an answer. Returns whether that is more than before.
    fn raise(&mut self, most: u32) -> bool {
        let is_ramp = self.requests != NO_RAMP;
        let more = self.requests.saturating_add(1);
        self.requests = if more >= most { NO_RAMP } else { more };
        is_ramp
    }
}

/// What is known of the connections of one tenant.
#[derive(Debug)]
struct Breaker {
    tenant: TenantNo,
    /// Connections that failed in a row.
    failures: u32,
    /// How often in a row it opened.
    openings: u32,
    /// Requests at once while the host comes back.
    ramp: Ramp,
    /// When the last connection failed.
    failed_at: Timestamp,
    open: Option<Open>,
    /// When the last probe failed, and why.
    probe: Option<(Timestamp, Arc<Failure>)>,
}

/// A breaker that is open.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) until: Timestamp,
    /// Connections that failed in a row.
    pub(super) failures: u32,
    /// Why the last of them did.
    pub(super) error: Arc<str>,
}

impl Breaker {
    fn new(tenant: TenantNo) -> Breaker {
        Breaker {
            tenant,
            failures: 0,
            openings: 0,
            ramp: Ramp::NONE,
            failed_at: Timestamp::default(),
            open: None,
            probe: None,
        }
    }

    fn has_lapsed(&self, now: Timestamp) -> bool {
        self.failed_at.plus(LAPSE) <= now
    }

    fn until(&self) -> Timestamp {
        self.open.as_ref().map(|open| open.until).unwrap_or_default()
    }

    fn is_at_rest(&self) -> bool {
        self.failures == 0 && self.openings == 0 && self.ramp.requests == NO_RAMP && self.open.is_none()
    }
}

impl Breakers {
    /// Counts a connection that failed for a tenant, which is paused already or not. Returns what has opened.
    pub(super) fn failed(
        &mut self,
        tenant: TenantNo,
        failure: Arc<Failure>,
        is_paused: bool,
        now: Timestamp,
    ) -> Option<&Open> {
        let known = self.0.get_or_insert_default();
        let breaker = known.entry(tenant);
        breaker.failures = breaker.failures.saturating_add(1);
        breaker.failed_at = now;
        // What was under way when the breaker opened fails within its pause and says nothing new.
        if breaker.failures < FAILURES || is_paused {
            return None;
        }
        let length = PAUSE_MIN.saturating_mul(1 << breaker.openings.min(16)).min(PAUSE_MAX);
        let error = failure.message.as_str().into();
        breaker.probe = (breaker.openings > 0).then_some((now, failure));
        breaker.openings += 1;
        breaker.ramp = Ramp::from(now);
        breaker.open = Some(Open { until: now.plus(length), failures: breaker.failures, error });
        known.opened(now);
        self.all().find(|it| it.tenant == tenant)?.open.as_ref()
    }

    /// Opens the breaker of a tenant as it was in a process before, when its last connection had failed at `failed_at`.
    pub(super) fn restore(&mut self, tenant: TenantNo, open: Open, failed_at: Timestamp, now: Timestamp) {
        let known = self.0.get_or_insert_default();
        *known.entry(tenant) = Breaker {
            tenant,
            failures: open.failures,
            openings: 1,
            ramp: Ramp::from(failed_at),
            failed_at,
            open: Some(open),
            probe: None,
        };
        known.opened(now);
    }

    /// Closes the breaker of a tenant, since the host has answered it, and ends a pause for all. Returns whether more may
    /// start than before, of `most` at once.
    pub(super) fn answered(&mut self, tenant: TenantNo, most: u32) -> bool {
        let Some(known) = &mut self.0 else { return false };
        let mut may_more = known.ramp.raise(most);
        known.has_answered |= may_more;
        if let Some(breaker) = known.each.iter_mut().find(|it| it.tenant == tenant) {
            may_more |= breaker.open.take().is_some();
            may_more |= breaker.ramp.raise(most);
            (breaker.failures, breaker.openings) = (0, 0);
        }
        self.retain(|breaker| !breaker.is_at_rest());
        may_more
    }

    /// Ends the pauses of all. What has opened a breaker still counts: a next failure opens it again.
    pub(super) fn resume(&mut self) {
        self.0.iter_mut().flat_map(|known| known.each.iter_mut()).for_each(|breaker| breaker.open = None);
        self.retain(|breaker| !breaker.is_at_rest());
    }

    /// Returns the failure of the last probe of a tenant, for what has waited for it since then. What came later waits for the next
    /// one.
    pub(super) fn shared(&self, tenant: TenantNo, since: Timestamp, now: Timestamp) -> Option<&Arc<Failure>> {
        let own = self.all().find(|it| it.tenant == tenant && it.until() > now)?;
        own.probe.as_ref().filter(|(at, _)| since < *at).map(|(_, failure)| failure)
    }

    /// Drops what no longer matters.
    pub(super) fn lapse(&mut self, now: Timestamp) {
        self.retain(|breaker| !breaker.has_lapsed(now) || breaker.until() > now);
    }

    /// Returns until when a tenant is paused; without one, until when whoever is paused longest.
    pub(super) fn until(&self, tenant: Option<TenantNo>) -> Option<Timestamp> {
        let own = self.all().filter(|it| tenant.is_none_or(|tenant| tenant == it.tenant)).map(Breaker::until).max();
        own.max(Some(self.for_all())).filter(|until| *until > Timestamp::default())
    }

    /// Returns why a tenant is paused until `until`, without a word of what others met; without one, whatever is known.
    pub(super) fn reason(&self, tenant: Option<TenantNo>, until: Timestamp) -> Option<String> {
        let mut own = self.all().filter(|it| tenant.is_none_or(|tenant| tenant == it.tenant));
        if let Some(open) = own.find_map(|it| it.open.as_ref().filter(|open| open.until == until)) {
            return Some(format!("{} connections in a row failed: {}", open.failures, open.error));
        }
        (self.for_all() == until).then(|| "many connections in a row failed".to_owned())
    }

    /// Returns how many requests at once a tenant may have while the host comes back.
    pub(super) fn ramp(&self, tenant: TenantNo, now: Timestamp) -> u32 {
        self.all().find(|it| it.tenant == tenant).map_or(NO_RAMP, |it| it.ramp.at(now))
    }

    /// Returns how many requests of all at once the host may have while it comes back: where that is what one tenant thinks, any
    /// number.
    pub(super) fn ramp_of_all(&self, now: Timestamp) -> u32 {
        self.0.as_ref().map_or(NO_RAMP, |known| known.ramp.at(now))
    }

    /// When nothing of it matters any more, if nothing happens until then.
    pub(super) fn rests_at(&self) -> Option<Timestamp> {
        self.all().map(|it| it.failed_at.plus(LAPSE).max(it.until())).max()
    }

    /// Until when all are paused.
    fn for_all(&self) -> Timestamp {
        self.0.as_ref().map(|known| known.for_all()).unwrap_or_default()
    }

    fn all(&self) -> impl Iterator<Item = &Breaker> {
        self.0.iter().flat_map(|known| known.each.iter())
    }

    fn retain(&mut self, keep: impl FnMut(&Breaker) -> bool) {
        let Some(known) = &mut self.0 else { return };
        known.each.retain(keep);
        if known.each.is_empty() {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::failure::FailureReason;

    fn at(millis: u64) -> Timestamp {
        Timestamp(1_000_000).plus(Duration::from_millis(millis))
    }

    fn refused() -> Arc<Failure> {
        Arc::new(Failure::retryable(FailureReason::Connect, "refused"))
    }

    fn fail(breakers: &mut Breakers, tenant: TenantNo, times: u32, now: Timestamp) {
        (0..times).for_each(|_| drop(breakers.failed(tenant, refused(), false, now).cloned()));
    }

    #[test]
    fn a_breaker_is_of_the_tenant_whose_connections_failed() {
        let mut breakers = Breakers::default();
        fail(&mut breakers, 1, 7, at(0));
        fail(&mut breakers, 2, 7, at(0));
        assert_eq!((breakers.until(Some(1)), breakers.until(None)), (None, None), "fourteen in a row, of nobody eight");
        fail(&mut breakers, 1, 1, at(0));
        assert_eq!((breakers.until(Some(1)), breakers.until(None)), (Some(at(500)), Some(at(500))));
        assert_eq!((breakers.until(Some(2)), breakers.until(Some(3))), (None, None));
        assert_eq!(
            (breakers.ramp(1, at(600)), breakers.ramp(2, at(600)), breakers.ramp_of_all(at(600))),
            (1, NO_RAMP, NO_RAMP)
        );
        assert!(!breakers.answered(2, 8), "which says nothing of the way of the first");
        assert_eq!(breakers.until(Some(1)), Some(at(500)));
        assert!(breakers.answered(1, 8));
        assert_eq!((breakers.until(None), breakers.ramp(1, at(1))), (None, 2));
    }

    #[test]
    fn two_that_are_open_are_for_all_until_the_earlier_closes() {
        let mut breakers = Breakers::default();
        fail(&mut breakers, 1, 8, at(0));
        fail(&mut breakers, 2, 8, at(100));
        let until = |tenant| breakers.until(tenant);
        assert_eq!([Some(1), Some(2), Some(3), None].map(until), [500, 600, 500, 600].map(|millis| Some(at(millis))));
        let reason = |tenant, millis| breakers.reason(Some(tenant), at(millis)).unwrap();
        assert_eq!(reason(2, 600), "8 connections in a row failed: refused");
        assert_eq!(reason(3, 500), "many connections in a row failed", "in nobody's words");
        assert_eq!(breakers.ramp_of_all(at(700)), 1, "and it is probed by one at a time");
        breakers.answered(1, 8);
        assert_eq!((breakers.until(Some(3)), breakers.until(Some(2))), (None, Some(at(600))));
    }

    #[test]
    fn an_answer_to_anybody_shows_that_the_host_is_there() {
        let mut breakers = Breakers::default();
        fail(&mut breakers, 1, 8, at(0));
        fail(&mut breakers, 2, 8, at(100));
        assert!(breakers.answered(3, 4));
        let until = |breakers: &Breakers| [Some(1), Some(2), Some(3)].map(|tenant| breakers.until(tenant));
        assert_eq!(until(&breakers), [Some(at(500)), Some(at(600)), None], "which ends what was for all");
        assert_eq!(breakers.ramp_of_all(at(700)), 2);
        assert!(breakers.answered(3, 4));
        assert!(breakers.answered(3, 4));
        assert_eq!(breakers.ramp_of_all(at(700)), NO_RAMP, "although the two ask it no more");
        assert_eq!((breakers.ramp(1, at(700)), breakers.ramp(3, at(700))), (1, NO_RAMP));
        assert!(!breakers.answered(3, 4), "nothing is left to raise");
        fail(&mut breakers, 1, 1, at(700));
        assert_eq!(breakers.until(Some(3)), None, "one alone is not for all");
        fail(&mut breakers, 2, 1, at(700));
        assert_eq!((breakers.until(Some(3)), breakers.ramp_of_all(at(700))), (Some(at(1700)), 1));
        assert_eq!(breakers.ramp_of_all(at(3_600_700)), NO_RAMP, "nobody has asked it for long");
    }

    /// A failure now and then keeps what is known of a breaker.
    #[test]
    fn a_host_that_was_lost_long_ago_is_not_probed_for_ever() {
        let mut breakers = Breakers::default();
        fail(&mut breakers, 1, 8, at(0));
        fail(&mut breakers, 2, 8, at(0));
        breakers.resume();
        let hour = 3_600_000;
        for half in 1..6 {
            breakers.lapse(at(half * hour / 2));
            let ramps = (breakers.ramp(1, at(half * hour / 2)), breakers.ramp_of_all(at(half * hour / 2)));
            assert_eq!(ramps, if half < 2 { (1, 1) } else { (NO_RAMP, NO_RAMP) });
            breakers.failed(1, refused(), true, at(half * hour / 2));
        }
        assert!(breakers.0.is_some());
    }

    #[test]
    fn what_was_for_all_in_a_process_before_is_so_again() {
        let mut breakers = Breakers::default();
        let open = |until| Open { until, failures: 8, error: "refused".into() };
        breakers.restore(1, open(at(500)), at(0), at(200));
        assert_eq!(breakers.until(Some(3)), None);
        breakers.restore(2, open(at(600)), at(100), at(200));
        assert_eq!((breakers.until(Some(3)), breakers.ramp_of_all(at(700))), (Some(at(500)), 1));
    }

    #[test]
    fn what_waited_for_a_probe_shares_its_failure() {
        let mut breakers = Breakers::default();
        let shares = |breakers: &Breakers, tenant, since, now| breakers.shared(tenant, at(since), at(now)).is_some();
        fail(&mut breakers, 1, 8, at(10));
        assert!(!shares(&breakers, 1, 0, 11), "eight that failed are the failures of eight");
        fail(&mut breakers, 1, 1, at(600));
        assert!(shares(&breakers, 1, 0, 600) && shares(&breakers, 1, 599, 1599));
        assert!(!shares(&breakers, 1, 600, 602), "it is due after that");
        assert!(!shares(&breakers, 1, 0, 1600), "the next probe is due");
        assert!(!shares(&breakers, 2, 0, 600), "what one tenant meets is its own");
        breakers.answered(1, 8);
        assert!(!shares(&breakers, 1, 0, 700));
    }

    #[test]
    fn failures_that_nothing_follows_are_forgotten() {
        let mut breakers = Breakers::default();
        fail(&mut breakers, 1, 7, at(0));
        assert_eq!(breakers.rests_at(), Some(at(3_600_000)));
        breakers.lapse(at(3_600_000));
        assert!(breakers.0.is_none());
        fail(&mut breakers, 1, 8, at(0));
        breakers.resume();
        assert_eq!((breakers.until(None), breakers.ramp(1, at(1))), (None, 1));
        fail(&mut breakers, 1, 1, at(1));
        assert_eq!(breakers.until(None), Some(at(1_001)), "a next failure opens it again, for longer");
    }
}
