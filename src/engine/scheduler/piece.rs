//! Long work on jobs that goes on piece by piece: plain values.

use std::collections::{HashSet, VecDeque};

use crate::model::ids::JobId;

/// Long work on one job that is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Piece {
    /// Waiting tasks are ended.
    Sweep(JobId),
    /// Some of the waiting tasks are ended.
    Withdraw(JobId),
    /// Some of the tasks that back off are made due.
    Hasten(JobId),
    /// Failed and cancelled tasks are put back.
    Retry(JobId),
    /// The rows of a deleted job are removed.
    Purge(JobId),
}

impl Piece {
    /// The job that it works on.
    pub(crate) fn job(self) -> JobId {
        match self {
            Piece::Sweep(job) | Piece::Withdraw(job) | Piece::Hasten(job) | Piece::Retry(job) | Piece::Purge(job) => {
                job
            }
        }
    }

    /// Whether it ends or removes work.
    fn ends_work(self) -> bool {
        match self {
            Piece::Sweep(_) | Piece::Withdraw(_) | Piece::Purge(_) => true,
            Piece::Hasten(_) | Piece::Retry(_) => false,
        }
    }
}

/// Work that is to go on, each piece once. Somebody waits for sweeps and retries, and nobody for a purge: so a purge goes
/// behind them all, but for one in each round.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    awaited: VecDeque<Piece>,
    purges: VecDeque<Piece>,
    there: HashSet<Piece>,
}

impl Pieces {
    /// Adds a piece, unless it is there.
    pub(crate) fn add(&mut self, piece: Piece) {
        if self.there.insert(piece) {
            match piece {
                Piece::Sweep(_) | Piece::Withdraw(_) | Piece::Hasten(_) | Piece::Retry(_) => {
                    self.awaited.push_back(piece);
                }
                Piece::Purge(_) => self.purges.push_back(piece),
            }
        }
    }

    /// Takes out a round of at most `max` pieces, of `all` or of those alone that end or remove work: those that are awaited
    /// first, in the order in which they came, then purges. Where there are more than fit, the last place is a purge's.
    pub(crate) fn round(&mut self, max: usize, all: bool) -> Vec<Piece> {
        let kept = usize::from(max > 1 && !self.purges.is_empty());
        let (mut round, mut rest) = (Vec::new(), VecDeque::new());
        while round.len() < max - kept
            && let Some(piece) = self.awaited.pop_front()
        {
            if all || piece.ends_work() { round.push(piece) } else { rest.push_back(piece) }
        }
        rest.append(&mut self.awaited);
        self.awaited = rest;
        let purges = self.purges.len().min(max - round.len());
        round.extend(self.purges.drain(..purges));
        for piece in &round {
            self.there.remove(piece);
        }
        round
    }

    /// Takes out at most `max` purges, and nothing else.
    pub(crate) fn purges(&mut self, max: usize) -> Vec<Piece> {
        let purges: Vec<Piece> = self.purges.drain(..self.purges.len().min(max)).collect();
        for piece in &purges {
            self.there.remove(piece);
        }
        purges
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.there.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(number: u128) -> JobId {
        JobId(uuid::Uuid::from_u128(number))
    }

    #[test]
    fn a_piece_is_queued_once() {
        let mut pieces = Pieces::default();
        for number in [1, 2, 1] {
            pieces.add(Piece::Purge(job(number)));
        }
        assert_eq!(pieces.round(1, true), [Piece::Purge(job(1))]);
        pieces.add(Piece::Purge(job(1)));
        assert_eq!(pieces.round(9, true), [Piece::Purge(job(2)), Piece::Purge(job(1))]);
        assert!(pieces.is_empty());
    }

    #[test]
    fn who_waits_for_a_sweep_does_not_wait_for_the_purges_before_it() {
        let mut pieces = Pieces::default();
        (0..50_000).for_each(|number| pieces.add(Piece::Purge(job(number))));
        pieces.add(Piece::Sweep(job(7)));
        pieces.add(Piece::Retry(job(8)));
        let round = pieces.round(4, true);
        assert_eq!(round, [Piece::Sweep(job(7)), Piece::Retry(job(8)), Piece::Purge(job(0)), Piece::Purge(job(1))]);
    }

    #[test]
    fn on_a_full_disk_what_adds_waits_in_its_place() {
        let mut pieces = Pieces::default();
        let all = [
            Piece::Retry(job(1)),
            Piece::Sweep(job(2)),
            Piece::Hasten(job(3)),
            Piece::Withdraw(job(4)),
            Piece::Purge(job(5)),
            Piece::Sweep(job(6)),
        ];
        for piece in all {
            pieces.add(piece);
        }
        assert_eq!(pieces.round(3, false), [Piece::Sweep(job(2)), Piece::Withdraw(job(4)), Piece::Purge(job(5))]);
        assert_eq!(pieces.round(9, false), [Piece::Sweep(job(6))]);
        assert!(pieces.round(9, false).is_empty() && !pieces.is_empty());
        assert_eq!(pieces.round(9, true), [Piece::Retry(job(1)), Piece::Hasten(job(3))]);
    }

    #[test]
    fn purges_go_on_beside_sweeps_without_end() {
        let mut pieces = Pieces::default();
        pieces.add(Piece::Purge(job(100)));
        (0..20).for_each(|number| pieces.add(Piece::Sweep(job(number))));
        let round = pieces.round(16, true);
        assert_eq!((round.len(), round[15]), (16, Piece::Purge(job(100))));
        assert_eq!(pieces.round(16, true).len(), 5);
        assert_eq!(pieces.purges(9), []);
    }
}
