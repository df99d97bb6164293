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

/// What one commit has room for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitRoom {
    /// Rows of all pieces together.
    pub(crate) rows: u32,
    /// Rows that a piece may always move. Not more than all.
    pub(crate) share: u32,
}

impl CommitRoom {
    /// What of the room a piece takes that has so many rows to look at: its share, unless it is small. Its statements take some
    /// time, too.
    fn cost(self, need: u32) -> u32 {
        let share = self.share.clamp(1, self.rows.max(1));
        need.clamp((share / SMALL).max(1), share)
    }
}

/// A piece takes one in so many of its share at least.
const SMALL: u32 = 4;

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

    /// Takes out a round, each piece with how many rows it may move: those that are awaited first, in the order in which they
    /// came, then purges. Where there are more than fit, the last place is a purge's. It is of `all` pieces or of those alone that
    /// end or remove work. `need` says how many rows a piece has to look at, at most.
    pub(crate) fn round(&mut self, room: CommitRoom, all: bool, need: impl Fn(Piece) -> u32) -> Vec<(Piece, u32)> {
        let cost = |piece| room.cost(need(piece));
        let kept = if room.rows > room.share && !self.purges.is_empty() { room.share } else { 0 };
        let (mut round, mut rest, mut sum) = (Vec::new(), VecDeque::new(), 0);
        while let Some(piece) = self.awaited.pop_front() {
            if !all && !piece.ends_work() {
                rest.push_back(piece);
                continue;
            }
            if sum > 0 && sum + cost(piece) > room.rows - kept {
                self.awaited.push_front(piece);
                break;
            }
            sum += cost(piece);
            round.push((piece, cost(piece)));
        }
        rest.append(&mut self.awaited);
        self.awaited = rest;
        while (sum == 0 || sum + room.share <= room.rows)
            && let Some(piece) = self.purges.pop_front()
        {
            sum += room.share;
            round.push((piece, room.share));
        }
        for (piece, rows) in &mut round {
            self.there.remove(piece);
            // What the others leave is shared out.
            let share = u64::from(*rows) * u64::from(room.rows) / u64::from(sum.max(1));
            *rows = u32::try_from(share).unwrap_or(u32::MAX).max(*rows);
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

    /// A round of at most so many pieces, of which each has much to do.
    fn round(pieces: &mut Pieces, max: u32, all: bool) -> Vec<Piece> {
        let round = pieces.round(CommitRoom { rows: max * 256, share: 256 }, all, |_| u32::MAX);
        assert!(round.iter().all(|(_, rows)| *rows as usize == (max as usize * 256) / round.len()));
        round.into_iter().map(|(piece, _)| piece).collect()
    }

    #[test]
    fn jobs_that_have_little_left_share_a_commit() {
        let mut pieces = Pieces::default();
        (0..100).for_each(|number| pieces.add(Piece::Sweep(job(number))));
        let need = |piece: Piece| if piece.job() == job(1) { 100_000 } else { 1 };
        let room = CommitRoom { rows: 4096, share: 256 };
        let first = pieces.round(room, true, need);
        assert_eq!((first.len(), first[0].1, first[1].1), (61, 64, 256));
        assert_eq!(pieces.round(room, true, need).len(), 39);
        pieces.add(Piece::Sweep(job(1)));
        assert_eq!(pieces.round(room, true, need), [(Piece::Sweep(job(1)), 4096)], "alone it has all of it");
        pieces.add(Piece::Sweep(job(2)));
        assert_eq!(pieces.round(CommitRoom { rows: 1, share: 256 }, true, need).len(), 1);
    }

    #[test]
    fn a_piece_is_queued_once() {
        let mut pieces = Pieces::default();
        for number in [1, 2, 1] {
            pieces.add(Piece::Purge(job(number)));
        }
        assert_eq!(round(&mut pieces, 1, true), [Piece::Purge(job(1))]);
        pieces.add(Piece::Purge(job(1)));
        assert_eq!(round(&mut pieces, 9, true), [Piece::Purge(job(2)), Piece::Purge(job(1))]);
        assert!(pieces.is_empty());
    }

    #[test]
    fn who_waits_for_a_sweep_does_not_wait_for_the_purges_before_it() {
        let mut pieces = Pieces::default();
        (0..50_000).for_each(|number| pieces.add(Piece::Purge(job(number))));
        pieces.add(Piece::Sweep(job(7)));
        pieces.add(Piece::Retry(job(8)));
        let taken = round(&mut pieces, 4, true);
        assert_eq!(taken, [Piece::Sweep(job(7)), Piece::Retry(job(8)), Piece::Purge(job(0)), Piece::Purge(job(1))]);
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
        assert_eq!(round(&mut pieces, 3, false), [Piece::Sweep(job(2)), Piece::Withdraw(job(4)), Piece::Purge(job(5))]);
        assert_eq!(round(&mut pieces, 9, false), [Piece::Sweep(job(6))]);
        assert!(round(&mut pieces, 9, false).is_empty() && !pieces.is_empty());
        assert_eq!(round(&mut pieces, 9, true), [Piece::Retry(job(1)), Piece::Hasten(job(3))]);
    }

    #[test]
    fn purges_go_on_beside_sweeps_without_end() {
        let mut pieces = Pieces::default();
        pieces.add(Piece::Purge(job(100)));
        (0..20).for_each(|number| pieces.add(Piece::Sweep(job(number))));
        let taken = round(&mut pieces, 16, true);
        assert_eq!((taken.len(), taken[15]), (16, Piece::Purge(job(100))));
        assert_eq!(round(&mut pieces, 16, true).len(), 5);
        assert_eq!(pieces.purges(9), []);
    }
}
