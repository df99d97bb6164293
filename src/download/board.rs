//! Who fetches which bytes. Pure: connections claim ranges, write, and give back what they could not get.
//!
//! Nobody waits for a slow one: whoever is done takes half of the largest range that is still to come, and at the very
//! end, where there is nothing left to halve, fetches the last bytes of a slow one a second time.
//!
//! Every byte that is missing is either claimed or free, and [`Board::is_complete`] holds only when none is.

use std::ops::Range;

use crate::files::ranges::RangeSet;

/// Names a claim; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClaimId(u32);

#[derive(Debug)]
struct Claim {
    id: ClaimId,
    /// The next byte that it writes.
    next: u64,
    /// `u64::MAX` while the size is not known.
    end: u64,
    /// Whether its answer has come.
    is_connected: bool,
    /// Whether another claim is for the same bytes.
    is_raced: bool,
}

impl Claim {
    fn remaining(&self) -> u64 {
        self.end - self.next
    }
}

/// The bytes of one download.
#[derive(Debug)]
pub(super) struct Board {
    /// `None`: not known until the end.
    total: Option<u64>,
    have: RangeSet,
    claims: Vec<Claim>,
    ids: u32,
    /// No range is halved below this.
    piece_min: u64,
}

impl Board {
    pub(super) fn new(total: Option<u64>, have: RangeSet, piece_min: u64) -> Board {
        Board { total, have, claims: Vec::new(), ids: 0, piece_min: piece_min.max(1) }
    }

    pub(super) fn have(&self) -> &RangeSet {
        &self.have
    }

    pub(super) fn total(&self) -> Option<u64> {
        self.total
    }

    pub(super) fn is_complete(&self) -> bool {
        self.total.is_some_and(|total| self.have.is_all_of(total))
    }

    /// Claims for an answer that has come already: what is missing from `at` on, up to the next byte that is held.
    pub(super) fn claim_at(&mut self, at: u64) -> ClaimId {
        let missing = self.have.gaps(self.total.unwrap_or(u64::MAX)).find(|gap| gap.end > at);
        let end = missing.map_or(at, |gap| gap.end);
        let id = self.add(at..end.max(at));
        self.connect(id);
        id
    }

    /// Claims the largest range that nobody has, else half of the largest that somebody has.
    pub(super) fn take(&mut self) -> Option<(ClaimId, Range<u64>)> {
        let total = self.total?;
        let range = self.largest_free(total).or_else(|| self.halve())?;
        Some((self.add(range.clone()), range))
    }

    /// Claims the rest of the largest claim once more, where nothing can be had otherwise.
    pub(super) fn race(&mut self) -> Option<(ClaimId, Range<u64>)> {
        self.total?;
        let slow = self.claims.iter_mut().filter(|claim| !claim.is_raced && claim.remaining() > 0);
        let slow = slow.max_by_key(|claim| claim.remaining())?;
        slow.is_raced = true;
        let range = slow.next..slow.end;
        let id = self.add(range.clone());
        if let Some(own) = self.claims.last_mut() {
            own.is_raced = true;
        }
        Some((id, range))
    }

    /// The answer for a claim has come. `false`: another connection got there first, and the claim is gone.
    pub(super) fn connect(&mut self, id: ClaimId) -> bool {
        self.find(id).map(|claim| claim.is_connected = true).is_some()
    }

    /// Gives a claim back: what it has not written is free again.
    pub(super) fn release(&mut self, id: ClaimId) {
        let Some(at) = self.claims.iter().position(|claim| claim.id == id) else { return };
        if self.claims.swap_remove(at).is_raced {
            // One of the two is left, and may be raced again.
            self.claims.iter_mut().for_each(|claim| claim.is_raced = false);
        }
    }

    /// Where the claim writes next, and how many bytes.
    pub(super) fn room(&mut self, id: ClaimId) -> (u64, u64) {
        self.find(id).map_or((0, 0), |claim| (claim.next, claim.remaining()))
    }

    /// The claim's next `length` bytes are written. Says how many of them were missing.
    pub(super) fn advance(&mut self, id: ClaimId, length: u64) -> u64 {
        let Some(claim) = self.find(id) else { return 0 };
        let written = claim.next..claim.next + length;
        claim.next = written.end;
        self.have.add(written)
    }

    /// A connection that has more to come, up to `body_end`, goes on behind its claim with what nobody fetches yet.
    /// Says whether there was any.
    pub(super) fn extend(&mut self, id: ClaimId, body_end: u64) -> bool {
        let Some(total) = self.total else { return false };
        let Some(at) = self.find(id).map(|claim| claim.end) else { return false };
        let fetched = self.claims.iter().filter(|claim| claim.is_connected && claim.id != id);
        if fetched.clone().any(|claim| (claim.next..claim.end).contains(&at)) {
            return false;
        }
        let Some(gap) = self.have.gaps(total).find(|gap| gap.contains(&at)) else { return false };
        let next_fetched = fetched.map(|claim| claim.next).filter(|next| *next > at).min();
        let end = gap.end.min(body_end).min(next_fetched.unwrap_or(u64::MAX));
        if end <= at {
            return false;
        }
        // Claims that wait for their answer yield: wholly, or what is left of them to others.
        self.claims.retain(|claim| claim.is_connected || claim.end <= at || claim.next >= end);
        if let Some(claim) = self.find(id) {
            claim.end = end;
        }
        true
    }

    /// The body of the only connection has ended: so large is the whole.
    pub(super) fn finish(&mut self, total: u64) {
        self.total = Some(total);
        self.claims.clear();
    }

    fn add(&mut self, range: Range<u64>) -> ClaimId {
        let id = ClaimId(self.ids);
        self.ids += 1;
        self.claims.push(Claim { id, next: range.start, end: range.end, is_connected: false, is_raced: false });
        id
    }

    fn find(&mut self, id: ClaimId) -> Option<&mut Claim> {
        self.claims.iter_mut().find(|claim| claim.id == id)
    }

    fn largest_free(&self, total: u64) -> Option<Range<u64>> {
        let mut taken = self.have.clone();
        for claim in &self.claims {
            taken.add(claim.next..claim.end);
        }
        taken.gaps(total).max_by_key(|gap| gap.end - gap.start)
    }

    fn halve(&mut self) -> Option<Range<u64>> {
        let least = self.piece_min.saturating_mul(2);
        let halvable = self.claims.iter_mut().filter(|claim| !claim.is_raced && claim.remaining() >= least);
        let largest = halvable.max_by_key(|claim| claim.remaining())?;
        let middle = largest.next + largest.remaining() / 2;
        let half = middle..largest.end;
        largest.end = middle;
        Some(half)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn halves_the_largest_and_races_the_last() {
        let mut board = Board::new(Some(100), RangeSet::default(), 10);
        let first = board.claim_at(0);
        assert_eq!(board.take().unwrap().1, 50..100);
        assert_eq!(board.take().unwrap().1, 75..100);
        assert_eq!(board.take().unwrap().1, 25..50);
        board.advance(first, 20);
        assert_eq!(board.room(first), (20, 5));
        for range in [62..75, 87..100, 37..50] {
            // The largest; of equals the last.
            let taken = board.take().unwrap().1;
            assert!(taken.end - taken.start >= 12, "{range:?} {taken:?}");
        }
        assert!(board.take().is_none(), "nothing to halve");
        let (racer, range) = board.race().unwrap();
        board.connect(racer);
        board.advance(racer, range.end - range.start);
        assert_eq!(board.have().bytes(), 20 + range.end - range.start);
    }

    #[test]
    fn the_first_connection_goes_on_alone_where_nobody_comes() {
        let mut board = Board::new(Some(100), RangeSet::default(), 10);
        let first = board.claim_at(0);
        let (waiting, range) = board.take().unwrap();
        assert_eq!(range, 50..100);
        board.advance(first, 50);
        assert!(board.extend(first, 100));
        assert!(!board.connect(waiting), "its claim is gone");
        board.advance(first, 50);
        assert!(board.is_complete());
    }

    #[test]
    fn what_is_held_is_not_claimed() {
        let mut have = RangeSet::default();
        have.add(10..20);
        have.add(60..100);
        let mut board = Board::new(Some(100), have, 10);
        let first = board.claim_at(0);
        assert_eq!(board.room(first), (0, 10));
        assert_eq!(board.take().unwrap().1, 20..60);
    }

    proptest! {
        /// Whatever the connections do, the bytes come together, and no byte is free and claimed at once.
        #[test]
        fn every_byte_comes(total in 1u64..500, steps in prop::collection::vec((0u8..6, 0usize..8, 1u64..60), 0..200)) {
            let mut board = Board::new(Some(total), RangeSet::default(), 7);
            let mut open = vec![board.claim_at(0)];
            for (step, which, amount) in steps {
                let id = open.get(which % open.len().max(1)).copied();
                match (step, id) {
                    (0, _) => open.extend(board.take().map(|(id, _)| id)),
                    (1, _) => open.extend(board.race().map(|(id, _)| id)),
                    (2, Some(id)) => { board.connect(id); }
                    (3, Some(id)) => { board.extend(id, total); }
                    (4, Some(id)) if amount > 50 => { board.release(id); open.retain(|own| *own != id); }
                    (_, Some(id)) => {
                        let (_, room) = board.room(id);
                        board.advance(id, amount.min(room));
                    }
                    _ => {}
                }
                prop_assert!(board.have().end() <= total);
            }
            for id in open {
                board.release(id);
            }
            while let Some((id, range)) = board.take() {
                board.advance(id, range.end - range.start);
                board.release(id);
            }
            prop_assert!(board.is_complete());
        }
    }
}
