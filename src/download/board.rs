//! Who fetches which bytes. Pure: connections claim ranges, move through them, and release what they could not get.
//!
//! The board does not know what is held: it is passed in, call by call, by the gate that the bytes pass
//! ([`crate::files::bound::Bound`]). The board only plans, and a plan that is overtaken costs time and no byte.
//!
//! Nobody waits long for a slow one: whoever is done takes a share of the largest range that is still to come, and at the very
//! end, where there is nothing left to share, fetches the last bytes of a slow one a second time.

use std::ops::Range;

use crate::files::ranges::RangeSet;

/// Names a claim; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClaimId(u32);

#[derive(Debug)]
struct Claim {
    id: ClaimId,
    /// The next byte that it brings.
    next: u64,
    /// `u64::MAX` while the size is not known.
    end: u64,
    /// Whether its answer has come.
    is_connected: bool,
    /// Whether its answer is the whole, so that it comes over bytes that are held.
    is_of_whole: bool,
    /// Another claim for the same bytes.
    raced_by: Option<ClaimId>,
}

impl Claim {
    fn missing(&self, have: &RangeSet) -> u64 {
        have.gaps_in(self.next..self.end).map(|gap| gap.end - gap.start).sum()
    }
}

/// The plan of one download.
#[derive(Debug)]
pub(super) struct Board {
    /// `None`: not known until the end.
    total: Option<u64>,
    claims: Vec<Claim>,
    ids: u32,
    /// No range is divided below this.
    piece_min: u64,
}

/// How far a connection may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Up to here (excluded).
    To(u64),
    /// What follows was asked for by another connection whose answer has not come. If it brings nothing, this one can.
    Unclear,
    /// No further: what follows is held, or received by others.
    Done,
}

impl Board {
    pub(super) fn new(total: Option<u64>, piece_min: u64) -> Board {
        Board { total, claims: Vec::new(), ids: 0, piece_min: piece_min.max(1) }
    }

    pub(super) fn total(&self) -> Option<u64> {
        self.total
    }

    pub(super) fn is_complete(&self, have: &RangeSet) -> bool {
        self.total.is_some_and(|total| have.is_all_of(total))
    }

    /// Claims for an answer that has come already and holds `body`. One that is a range (`is_range`) brings what is
    /// missing up to the next byte that is held, since the rest can be asked for. One that is the whole may be all that
    /// comes, and goes on over what is held.
    pub(super) fn claim_for(&mut self, body: Range<u64>, is_range: bool, have: &RangeSet) -> ClaimId {
        let total = self.total.unwrap_or(u64::MAX);
        let end =
            if is_range { have.gaps_in(body.start..total).next().map_or(body.start, |gap| gap.end) } else { total };
        let id = self.add(body.start..end.max(body.start));
        if let Some(claim) = self.find(id) {
            claim.is_connected = true;
            claim.is_of_whole = !is_range;
        }
        id
    }

    /// Whether there is something to take, without taking it. `is_late`: as for [`Board::take`].
    pub(super) fn has_work(&self, have: &RangeSet, is_late: bool) -> bool {
        let Some(total) = self.total else { return false };
        self.largest_free(total, have).is_some()
            || self.divisible(have, is_late).is_some()
            || (is_late && self.slowest(have).is_some())
    }

    /// Claims the largest range that nobody has, else a share of the largest that somebody has, for one of so many
    /// `connections`. `is_late`: others had time enough, so that of what nobody has answered yet a share is taken, too, and what is
    /// too little to be divided is fetched once more.
    pub(super) fn take(&mut self, have: &RangeSet, connections: u32, is_late: bool) -> Option<(ClaimId, Range<u64>)> {
        let total = self.total?;
        let range = self.largest_free(total, have).or_else(|| self.divide(have, connections, is_late));
        let taken = range.map(|range| (self.add(range.clone()), range));
        taken.or_else(|| if is_late { self.race(have) } else { None })
    }

    /// Whether a claim has bytes that are still missing.
    pub(super) fn is_unfinished(&self, id: ClaimId, have: &RangeSet) -> bool {
        self.claims.iter().any(|claim| claim.id == id && claim.missing(have) > 0)
    }

    /// Claims the missing bytes of the largest claim once more, where nothing can be had otherwise.
    fn race(&mut self, have: &RangeSet) -> Option<(ClaimId, Range<u64>)> {
        let slow = self.slowest(have)?;
        let (rival, range) = (slow.id, have.gaps_in(slow.next..slow.end).next()?);
        let id = self.add(range.clone());
        for (own, other) in [(id, rival), (rival, id)] {
            if let Some(claim) = self.find(own) {
                claim.raced_by = Some(other);
            }
        }
        Some((id, range))
    }

    /// The answer for a claim has come. `false`: another connection got there first, and the claim is gone.
    pub(super) fn connect(&mut self, id: ClaimId) -> bool {
        self.find(id).map(|claim| claim.is_connected = true).is_some()
    }

    /// Releases a claim: what it has not received is free again, and its rival may be raced again.
    pub(super) fn release(&mut self, id: ClaimId) {
        self.claims.retain(|claim| claim.id != id);
        for claim in self.claims.iter_mut().filter(|claim| claim.raced_by == Some(id)) {
            claim.raced_by = None;
        }
    }

    /// How far a connection may go that has come to `at` and has more up to `body_end`: to the end of its claim, and from
    /// there on with what nobody brings. `takes_over`: also with what others have only asked for; their claims are gone.
    pub(super) fn reach(&mut self, id: ClaimId, at: u64, body_end: u64, takes_over: bool, have: &RangeSet) -> Reach {
        let Some(end) = self.find(id).map(|claim| claim.end) else { return Reach::Done };
        if at < end {
            return Reach::To(end);
        }
        let reach = self.extension(id, body_end, takes_over, have);
        if let Reach::To(further) = reach {
            self.claims
                .retain(|claim| claim.id == id || claim.is_connected || claim.end <= end || claim.next >= further);
            if let Some(claim) = self.find(id) {
                claim.end = further;
            }
        }
        reach
    }

    /// The connection of a claim has come to `at`.
    pub(super) fn moved(&mut self, id: ClaimId, at: u64) {
        if let Some(claim) = self.find(id) {
            claim.next = claim.next.max(at).min(claim.end);
        }
    }

    /// Whether what a connection brings next is of any use.
    pub(super) fn is_of_use(&self, id: ClaimId, body_end: u64, have: &RangeSet) -> bool {
        let Some(claim) = self.claims.iter().find(|claim| claim.id == id) else { return false };
        let may_extend = claim.next == claim.end || claim.is_of_whole;
        claim.missing(have) > 0 || (may_extend && self.extension(id, body_end, false, have) != Reach::Done)
    }

    /// The body of the only connection has ended: so large is the whole.
    pub(super) fn finish(&mut self, total: u64) {
        self.total = Some(total);
        self.claims.clear();
    }

    /// How far a claim could go on behind its end.
    fn extension(&self, id: ClaimId, body_end: u64, takes_over: bool, have: &RangeSet) -> Reach {
        let claim = self.claims.iter().find(|claim| claim.id == id);
        let (Some(total), Some(claim)) = (self.total, claim) else { return Reach::Done };
        let at = claim.end;
        let others = self.claims.iter().filter(|other| other.id != id && (other.is_connected || !takes_over));
        if let Some(other) = others.clone().find(|other| (other.next..other.end).contains(&at)) {
            return if other.is_connected { Reach::Done } else { Reach::Unclear };
        }
        let next_of_others = others.map(|other| other.next).filter(|next| *next > at).min();
        let body_end = total.min(body_end);
        let most = body_end.min(next_of_others.unwrap_or(u64::MAX));
        if claim.is_of_whole {
            let mut covered = have.clone();
            for other in self.claims.iter().filter(|other| other.id != id && other.is_connected) {
                covered.add(other.next..other.end);
            }
            let is_any_missing = at < body_end && covered.gaps_in(at..body_end).next().is_some();
            return if is_any_missing { Reach::To(most) } else { Reach::Done };
        }
        match have.gaps_in(at..most.max(at)).next() {
            Some(gap) if gap.start == at => Reach::To(gap.end),
            _ => Reach::Done,
        }
    }

    fn add(&mut self, range: Range<u64>) -> ClaimId {
        let id = ClaimId(self.ids);
        self.ids += 1;
        self.claims.push(Claim {
            id,
            next: range.start,
            end: range.end,
            is_connected: false,
            is_of_whole: false,
            raced_by: None,
        });
        id
    }

    fn slowest(&self, have: &RangeSet) -> Option<&Claim> {
        let slow = self.claims.iter().filter(|claim| claim.raced_by.is_none() && claim.missing(have) > 0);
        slow.max_by_key(|claim| claim.missing(have))
    }

    fn find(&mut self, id: ClaimId) -> Option<&mut Claim> {
        self.claims.iter_mut().find(|claim| claim.id == id)
    }

    fn largest_free(&self, total: u64, have: &RangeSet) -> Option<Range<u64>> {
        let mut taken = have.clone();
        for claim in &self.claims {
            taken.add(claim.next..claim.end);
        }
        taken.gaps(total).max_by_key(|gap| gap.end - gap.start)
    }

    /// The claim that misses most, if that is enough for two. Of one whose answer has not come nobody knows how slow it
    /// is, unless it `is_late`: its bytes may be on their way already.
    fn divisible(&self, have: &RangeSet, is_late: bool) -> Option<(ClaimId, u64)> {
        let least = self.piece_min.saturating_mul(2);
        let may_be = |claim: &&Claim| (claim.is_connected || is_late) && claim.raced_by.is_none();
        let missing = self.claims.iter().filter(may_be);
        let missing = missing.map(|claim| (claim.id, claim.missing(have))).filter(|(_, missing)| *missing >= least);
        missing.max_by_key(|(_, missing)| *missing)
    }

    /// Takes the end of the largest claim away from it: an equal share for each of the connections, so that those to come
    /// need not cut short what this one has asked for; at most half.
    fn divide(&mut self, have: &RangeSet, connections: u32, is_late: bool) -> Option<Range<u64>> {
        let (id, missing) = self.divisible(have, is_late)?;
        let left = self.total?.saturating_sub(have.bytes());
        let share = (left / u64::from(connections.max(1))).clamp(self.piece_min, missing / 2);
        let claim = self.find(id)?;
        let last = have.gaps_in(claim.next..claim.end).last()?;
        let start = last.end.saturating_sub(share).max(last.start);
        // The first byte to come is on its way.
        let start = if start == claim.next { start + (last.end - start) / 2 } else { start };
        claim.end = start;
        (start < last.end).then_some(start..last.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A board with what is held beside it, as a transfer has them.
    struct Table {
        board: Board,
        have: RangeSet,
    }

    impl Table {
        fn new(total: u64, have: RangeSet) -> Table {
            Table { board: Board::new(Some(total), 10), have }
        }

        fn take(&mut self, connections: u32) -> Option<Range<u64>> {
            self.board.take(&self.have, connections, false).map(|(_, range)| range)
        }

        /// A connection brings some bytes, up to where it may go. Says how far it came.
        fn bring(&mut self, id: ClaimId, at: u64, length: u64, body_end: u64) -> u64 {
            let Reach::To(reach) = self.board.reach(id, at, body_end, false, &self.have) else { return at };
            let end = (at + length).min(reach).min(body_end);
            self.have.add(at..end);
            self.board.moved(id, end);
            end
        }
    }

    #[test]
    fn shares_are_equal_and_cut_nothing_that_was_asked_for() {
        let mut table = Table::new(100, RangeSet::default());
        table.board.claim_for(0..100, false, &RangeSet::default());
        let taken: Vec<_> = (0..3).filter_map(|_| table.board.take(&table.have, 4, false)).collect();
        let ranges: Vec<_> = taken.iter().map(|(_, range)| range.clone()).collect();
        assert_eq!(ranges, [75..100, 50..75, 25..50]);
        table.board.connect(taken[2].0);
        let half = table.take(4).unwrap();
        assert_eq!(half.end - half.start, 12, "then the largest whose answer has come is divided");
    }

    #[test]
    fn the_first_connection_waits_for_the_answer_that_makes_it_needless() {
        let begin = || {
            let mut table = Table::new(100, RangeSet::default());
            let first = table.board.claim_for(0..100, false, &RangeSet::default());
            let (waiting, range) = table.board.take(&table.have, 2, false).unwrap();
            assert_eq!(range, 50..100);
            assert_eq!(table.bring(first, 0, 50, 100), 50);
            assert_eq!(table.board.reach(first, 50, 100, false, &table.have), Reach::Unclear);
            assert!(table.board.is_of_use(first, 100, &table.have));
            (table, first, waiting)
        };
        let (mut table, first, waiting) = begin();
        assert!(table.board.connect(waiting));
        assert_eq!(table.board.reach(first, 50, 100, false, &table.have), Reach::Done);
        let (mut table, first, waiting) = begin();
        table.board.release(waiting);
        assert_eq!(table.board.reach(first, 50, 100, false, &table.have), Reach::To(100), "it brought nothing");
        let (mut table, first, waiting) = begin();
        assert_eq!(table.board.reach(first, 50, 100, true, &table.have), Reach::To(100), "it was too slow");
        assert!(!table.board.connect(waiting), "its claim is gone");
    }

    #[test]
    fn what_is_held_is_not_claimed() {
        let mut have = RangeSet::default();
        have.add(10..20);
        have.add(60..100);
        let mut table = Table::new(100, have.clone());
        let first = table.board.claim_for(0..100, true, &have);
        assert_eq!(table.board.reach(first, 0, 100, false, &have), Reach::To(10));
        assert_eq!(table.take(2), Some(20..60));
        // A body that is the whole goes on over it.
        let mut table = Table::new(100, have.clone());
        let whole = table.board.claim_for(0..100, false, &have);
        assert_eq!(table.board.reach(whole, 0, 100, false, &have), Reach::To(100));
        let (other, range) = table.board.take(&have, 2, false).unwrap();
        assert_eq!(range, 35..60);
        table.board.release(other);
        assert_eq!(table.board.reach(whole, 35, 100, false, &have), Reach::To(100), "also after somebody else gave up");
        table.have.add(0..60);
        assert!(!table.board.is_of_use(whole, 100, &table.have.clone()));
    }

    /// The answer to a large range may be on its way: to ask for all of it again would bring it twice.
    #[test]
    fn of_what_nobody_has_answered_in_time_a_share_is_taken() {
        let mut table = Table::new(100, RangeSet::default());
        table.have.add(0..40);
        let (waiting, range) = table.board.take(&table.have, 2, false).unwrap();
        assert_eq!(range, 40..100);
        assert!(!table.board.has_work(&table.have, false) && table.board.has_work(&table.have, true));
        assert_eq!(table.take(2), None);
        let mut late = || table.board.take(&table.have, 2, true).map(|(_, range)| range);
        assert_eq!([late(), late()], [Some(70..100), Some(85..100)]);
        assert!(table.board.connect(waiting));
        assert_eq!(table.bring(waiting, 40, 60, 100), 70, "it stops where the first share begins");
    }

    #[test]
    fn releasing_one_racer_frees_its_rival_alone() {
        let mut table = Table::new(40, RangeSet::default());
        table.board.claim_for(0..20, true, &table.have);
        table.take(2);
        let (racer, _) = table.board.race(&table.have).unwrap();
        let (other, _) = table.board.race(&table.have).unwrap();
        assert!(table.board.race(&table.have).is_none() && !table.board.has_work(&table.have, true), "both are raced");
        table.board.release(racer);
        assert!(table.board.race(&table.have).is_some());
        table.board.release(other);
        assert!(table.board.race(&table.have).is_some());
    }

    proptest! {
        /// Whatever the connections do, the bytes come together, nobody is sent for bytes that are held, and only races, which are
        /// for few, are sent for bytes that somebody else has claimed.
        #[test]
        fn every_byte_comes(
            total in 1u64..500,
            held in prop::collection::vec((0u64..500, 1u64..50), 0..4),
            is_range in any::<bool>(),
            steps in prop::collection::vec((0u8..7, 0usize..8, 1u64..60), 0..200),
        ) {
            let mut have = RangeSet::default();
            for (start, length) in held {
                have.add(start.min(total)..(start + length).min(total));
            }
            let mut table = Table::new(total, have.clone());
            let start = if is_range { have.gaps(total).next().map_or(0, |gap| gap.start) } else { 0 };
            let mut open = vec![(table.board.claim_for(start..total, is_range, &have), start)];
            for (step, which, amount) in steps {
                let chosen = which % open.len().max(1);
                match step {
                    0 | 1 => {
                        let claimed: Vec<Range<u64>> = table.board.claims.iter().map(|it| it.next..it.end).collect();
                        if let Some((id, range)) = table.board.take(&table.have, which as u32, step == 1) {
                            prop_assert_eq!(table.have.gaps_in(range.clone()).collect::<Vec<_>>(), vec![range.clone()]);
                            let was_free = claimed.iter().all(|it| it.end <= range.start || it.start >= range.end);
                            let was_divided = table.board.claims.iter().all(|it| it.id == id || it.end <= range.start || it.next >= range.end);
                            let is_race = step == 1 && range.end - range.start < 2 * table.board.piece_min;
                            prop_assert!(was_free || was_divided || is_race);
                            open.push((id, range.start));
                        }
                    }
                    2 if !open.is_empty() => { table.board.connect(open[chosen].0); }
                    3 if amount > 50 && !open.is_empty() => table.board.release(open.swap_remove(chosen).0),
                    4 if !open.is_empty() => {
                        let (id, at) = open[chosen];
                        if at <= total {
                            table.board.reach(id, at, total, true, &table.have.clone());
                        }
                    }
                    _ if !open.is_empty() => {
                        let (id, at) = open[chosen];
                        open[chosen].1 = table.bring(id, at, amount, total);
                    }
                    _ => {}
                }
                prop_assert!(table.have.end() <= total);
            }
            for (id, _) in open {
                table.board.release(id);
            }
            while let Some((id, range)) = table.board.take(&table.have, 3, false) {
                table.bring(id, range.start, range.end - range.start, range.end);
                table.board.release(id);
            }
            prop_assert!(table.board.is_complete(&table.have));
        }
    }
}
