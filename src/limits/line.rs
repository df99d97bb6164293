//! The line of the tenants that the rate of a host has refused. Pure.
//!
//! Where a rate allows one start after the other, none of them is a place that stays free: whoever looks first takes it. The
//! scheduler looks first for the tenant of which the fewest tasks run, so that one of which some run elsewhere would get none.
//! So each tenant that was refused stands in a line, once, and a start is kept for a moment for the front of it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;

/// How long a start is kept for the front of the line. Its tasks may be gone, or may not run now.
const TURN: Duration = Duration::from_millis(20);
/// How long after a start has become possible the line is remembered although nobody looks.
const LAPSE: Duration = Duration::from_secs(1);

/// The tenants that wait for the rate of a host; no more than there are.
#[derive(Debug, Default)]
pub(super) struct Line {
    tenants: VecDeque<TenantNo>,
    /// Until when the start that is possible is kept for the front; `None`: nobody else has asked for it.
    kept_until: Option<Timestamp>,
    /// Whether whoever stands in it counts no more by then.
    rests_at: Timestamp,
}

impl Line {
    /// The rate has refused a tenant, and allows a start at `until`.
    pub(super) fn refused(&mut self, tenant: TenantNo, until: Timestamp, now: Timestamp) {
        self.lapse(now);
        if !self.tenants.contains(&tenant) {
            self.tenants.push_back(tenant);
        }
        self.rests_at = self.rests_at.max(until.plus(LAPSE));
    }

    /// Returns whether a tenant may have one of the `possible` starts.
    ///
    /// # Errors
    ///
    /// The time until which they are kept for those that stand before it. Then the front has let its turn pass.
    pub(super) fn check(&mut self, tenant: TenantNo, possible: u32, now: Timestamp) -> Result<(), Timestamp> {
        self.lapse(now);
        let place = self.tenants.iter().position(|other| *other == tenant).unwrap_or(self.tenants.len());
        if place < possible as usize {
            return Ok(());
        }
        let until = *self.kept_until.get_or_insert(now.plus(TURN));
        if until > now {
            return Err(until);
        }
        self.tenants.pop_front();
        self.kept_until = None;
        Ok(())
    }

    /// A task of a tenant has started, which stands in the line no more; `None`: a start was for one that does not stand
    /// there.
    pub(super) fn started(&mut self, tenant: Option<TenantNo>) {
        self.tenants.retain(|other| Some(*other) != tenant);
        self.kept_until = None;
    }

    /// Returns whether a tenant is the next.
    pub(super) fn is_next(&self, tenant: TenantNo, now: Timestamp) -> bool {
        self.rests_at > now && self.tenants.front() == Some(&tenant)
    }

    /// Returns whether nobody waits any more.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.rests_at <= now || self.tenants.is_empty()
    }

    /// Returns when it does not matter any more.
    pub(super) fn rests_at(&self) -> Timestamp {
        if self.tenants.is_empty() { Timestamp::default() } else { self.rests_at }
    }

    fn lapse(&mut self, now: Timestamp) {
        if self.is_over(now) {
            *self = Line::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp(0).plus(Duration::from_millis(millis))
    }

    #[test]
    fn a_start_is_kept_for_the_front_and_then_the_next_is_the_front() {
        let mut line = Line::default();
        for tenant in [1, 2, 1, 3] {
            line.refused(tenant, at(50), at(0));
        }
        assert!(line.is_next(1, at(50)) && !line.is_next(2, at(50)));
        assert_eq!(line.check(2, 1, at(50)), Err(at(70)));
        assert_eq!(line.check(4, 1, at(60)), Err(at(70)), "one that does not stand in it comes last");
        assert_eq!(line.check(1, 1, at(61)), Ok(()));
        line.started(Some(1));
        assert!(line.is_next(2, at(61)), "each stands there once");
        assert_eq!(line.check(2, 1, at(100)), Ok(()));
        line.started(Some(2));
        assert_eq!(line.check(1, 1, at(150)), Err(at(170)));
    }

    #[test]
    fn a_front_that_does_not_come_loses_its_turn() {
        let mut line = Line::default();
        for tenant in [1, 2, 3] {
            line.refused(tenant, at(50), at(0));
        }
        assert_eq!(line.check(3, 1, at(50)), Err(at(70)));
        assert_eq!(line.check(3, 1, at(70)), Ok(()));
        line.started(Some(3));
        assert!(line.is_next(2, at(70)));
        assert!(line.is_over(at(1_050)), "and the line ends when nobody looks");
        assert_eq!(line.check(3, 1, at(1_050)), Ok(()));
    }

    #[test]
    fn several_starts_are_for_as_many() {
        let mut line = Line::default();
        for tenant in [1, 2, 3] {
            line.refused(tenant, at(50), at(0));
        }
        assert_eq!((line.check(3, 2, at(50)), line.check(2, 2, at(50))), (Err(at(70)), Ok(())));
        line.started(Some(2));
        assert_eq!(line.check(3, 1, at(51)), Err(at(71)), "the other one is for the front");
        assert_eq!(line.check(4, 3, at(51)), Ok(()), "there is more than those want who wait");
        line.started(None);
        assert_eq!(line.check(3, 1, at(90)), Err(at(110)), "another one has had that start");
    }
}
