//! Whose turn it is at a host that both the scheduler and running attempts want. Pure.
//!
//! The scheduler starts tasks; an attempt that runs asks for more (redirects, segments, the next page). If either always
//! came first, the other would starve: a download of many segments would keep all other jobs from its host, or a million
//! queued tasks would keep an attempt waiting with all that it holds. So they take turns while both want the host.

use std::time::Duration;

use crate::model::time::Timestamp;

/// How long free room is kept for the one whose turn it is. It may have lost interest without a word.
const TURN: Duration = Duration::from_millis(20);

/// Who asks for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// For the first request of an attempt.
    Scheduler,
    /// For any further request.
    Attempt,
}

/// The turns of one host.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Whether the scheduler was refused and has not started anything since; attempts likewise.
    scheduler_wants: bool,
    attempts_want: bool,
    /// The last start was the scheduler's.
    is_attempts_turn: bool,
    /// From then on, for [`TURN`], room is kept for the one whose turn it is.
    kept_from: Option<Timestamp>,
}

impl Turns {
    /// Gives free room to `asker`, unless it is kept for the other: then the time until which it is.
    pub(super) fn take(&mut self, asker: Asker, now: Timestamp) -> Result<(), Timestamp> {
        let is_turn = self.is_attempts_turn == (asker == Asker::Attempt);
        let kept_until = self.kept_from.map(|from| from.plus(TURN));
        if let Some(until) = kept_until.filter(|until| *until > now && !is_turn && self.kept_from <= Some(now)) {
            *self.wants(asker) = true;
            return Err(until);
        }
        *self.wants(asker) = false;
        if !is_turn && kept_until.is_some_and(|until| until <= now) {
            // The other has let its turn pass, so nothing is kept for it before it asks again.
            *self.wants(asker.other()) = false;
        }
        self.is_attempts_turn = asker == Asker::Scheduler;
        self.kept_from = None;
        Ok(())
    }

    /// There was no room for `asker`. `until` says when there will be, where that is known.
    pub(super) fn refused(&mut self, asker: Asker, until: Option<Timestamp>) {
        *self.wants(asker) = true;
        if let Some(until) = until {
            self.has_room(until);
        }
    }

    /// There is room from `from` on.
    pub(super) fn has_room(&mut self, from: Timestamp) {
        if self.scheduler_wants && self.attempts_want {
            self.kept_from = Some(from);
        }
    }

    /// Returns until when room is kept; `None` when none is.
    pub(super) fn rest_at(&self) -> Option<Timestamp> {
        self.kept_from.map(|from| from.plus(TURN))
    }

    fn wants(&mut self, asker: Asker) -> &mut bool {
        match asker {
            Asker::Scheduler => &mut self.scheduler_wants,
            Asker::Attempt => &mut self.attempts_want,
        }
    }
}

impl Asker {
    fn other(self) -> Asker {
        match self {
            Asker::Scheduler => Asker::Attempt,
            Asker::Attempt => Asker::Scheduler,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Asker::{Attempt, Scheduler};

    #[test]
    fn both_take_turns_while_both_want() {
        let mut turns = Turns::default();
        let mut started = Vec::new();
        for step in 0..8 {
            let now = Timestamp(step * 1000);
            turns.refused(Attempt, None);
            turns.refused(Scheduler, None);
            turns.has_room(now);
            // The attempt is always quicker.
            started.extend([Attempt, Scheduler].into_iter().find(|asker| turns.take(*asker, now).is_ok()));
        }
        assert_eq!(started, [Scheduler, Attempt].repeat(4));
    }

    #[test]
    fn who_is_alone_never_waits() {
        let mut turns = Turns::default();
        for asker in [Attempt, Attempt, Scheduler, Scheduler, Attempt] {
            turns.refused(asker, None);
            turns.has_room(Timestamp(5));
            assert_eq!(turns.take(asker, Timestamp(5)), Ok(()));
        }
    }

    #[test]
    fn a_turn_that_nobody_takes_passes_once() {
        let mut turns = Turns::default();
        turns.refused(Scheduler, None);
        turns.refused(Attempt, None);
        turns.has_room(Timestamp(0));
        let until = turns.take(Attempt, Timestamp(0)).unwrap_err();
        assert_eq!(until, Timestamp(0).plus(TURN));
        assert_eq!(turns.take(Attempt, until), Ok(()));
        turns.refused(Attempt, None);
        turns.has_room(until);
        assert_eq!(turns.take(Attempt, until), Ok(()), "the scheduler has not asked again");
    }

    #[test]
    fn room_that_is_still_to_come_is_kept_from_then_on() {
        let mut turns = Turns::default();
        turns.refused(Scheduler, Some(Timestamp(1_000_000)));
        turns.refused(Attempt, Some(Timestamp(1_000_000)));
        assert!(turns.take(Attempt, Timestamp(1_000_000)).is_err());
        assert_eq!(turns.take(Scheduler, Timestamp(1_000_001)), Ok(()));
        turns.refused(Scheduler, Some(Timestamp(9_000_000)));
        turns.refused(Attempt, Some(Timestamp(9_000_000)));
        assert_eq!(turns.take(Scheduler, Timestamp(2_000_000)), Ok(()), "there was room before it was expected");
    }
}
