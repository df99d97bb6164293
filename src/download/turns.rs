//! Whose turn it is among the sources of an attempt, and whether the attempt counts. Pure: nothing is asked here.
//!
//! Four things make a source wait. It would begin from the start, which drops what is held of another one that may yet go on. A file
//! of it was wrong before: it deserves a second try, behind those that were not wrong. It failed in an attempt that did not count,
//! and another one that has not is waited for. Its host is paused.
//!
//! A mirror must not make a download fail that would succeed without it. So while a source that nothing speaks against is only paused,
//! the attempt does not count, whatever became of the others ([`Turns::awaits`]). That has no bound, as it has none where a task has
//! one source, and costs as little: of the others each is asked as often as the task has attempts, after its own backoff. What has a
//! bound is how long somebody is kept from bringing the file for the sake of one that is paused.
//!
//! For the same reason a task does not give up before each source has had as many turns as a task of it alone would have. One that an attempt
//! left out, or that lost what it had brought to another one, is owed a turn, or all ([`Turns::settle`]). Where no other attempt that counts
//! follows, those that do not count give what is owed, to one source at a time and to nobody else, so that nobody drops what it brings.

use std::collections::BTreeSet;

use crate::download::resume::first_ask;
use crate::files::binding::Stored;
use crate::files::remarks::Remarks;
use crate::model::failure::Failure;
use crate::model::time::Timestamp;

/// So many pauses in a row keep a source from being asked that could bring the file, for the sake of what is held or of those that
/// were not wrong. Others may keep a host paused for ever, and the file could be there long before.
pub(super) const PAUSES_MAX: u32 = 8;

/// What decides beside the course of the attempt.
pub(super) struct Facts<'a> {
    /// What recognises the sources, by their numbers.
    pub(super) ids: &'a [String],
    pub(super) stored: Option<&'a Stored>,
    pub(super) remarks: &'a Remarks,
    pub(super) has_digest: bool,
    /// Whether no attempt follows, unless this one does not count.
    pub(super) is_last: bool,
    /// How often a source may fail in attempts that do not count: as often as the task.
    pub(super) tries_max: u32,
    pub(super) now: Timestamp,
}

/// How a source failed whose bytes are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// For good, or it was not asked.
    Gone,
    /// Its host is paused.
    Paused,
    /// More is held than when the attempt began.
    HasGrown,
    /// It has brought nothing, so that what is held may be worth as much as before.
    HasFailed,
    /// What it brought was in vain, as where it ignores ranges.
    InVain,
}

/// Which sources are still to be asked, and what became of the others.
#[derive(Debug)]
pub(super) struct Turns {
    /// In the order in which they are asked.
    left: Vec<usize>,
    /// Those of which a file was wrong before the attempt.
    were_wrong_before: BTreeSet<usize>,
    /// Those that have had their second try, or are waiting for it.
    may_not_repeat: BTreeSet<usize>,
    /// Those of which a file was wrong in this attempt for the first time.
    wrong_once: Vec<usize>,
    /// Of the source whose bytes are held, once it was asked.
    fate: Fate,
    /// A source failed, by no file that was wrong, in a way that may pass.
    may_pass: bool,
    /// One that was asked did, or a file was wrong.
    counts: bool,
    /// Those that have failed otherwise than by a pause.
    failed: BTreeSet<usize>,
    /// Those whose hosts were paused.
    paused: BTreeSet<usize>,
    /// The only one that is asked, since it is owed a turn.
    focus: Option<usize>,
}

impl Turns {
    /// One that was waited for goes first: else it would always come too late for the end of its pause. Then the source that the
    /// held bytes are from: it worked, and its validators are those of the bytes. One that had wrong bytes goes last.
    pub(super) fn new(facts: &Facts<'_>) -> Turns {
        let Facts { ids, stored, remarks, .. } = facts;
        let doubts = &remarks.doubts;
        let mut left: Vec<usize> = (0..ids.len()).collect();
        let holder = stored.map(|stored| &stored.binding.source);
        left.sort_by_key(|source| {
            let id = &ids[*source];
            let was_in_vain = remarks.pauses > 0 && remarks.failures(id) > 0;
            (doubts.is_wrong(id), was_in_vain, holder.is_some_and(|holder| holder != id), !doubts.may_join(id))
        });
        let focus = facts.focus(&left);
        left.retain(|source| focus.is_none_or(|focus| focus == *source));
        let were_wrong_before: BTreeSet<usize> = (0..ids.len()).filter(|it| doubts.is_wrong(&ids[*it])).collect();
        Turns {
            left,
            may_not_repeat: were_wrong_before.clone(),
            were_wrong_before,
            wrong_once: Vec::new(),
            fate: Fate::Gone,
            may_pass: false,
            counts: false,
            failed: BTreeSet::new(),
            paused: BTreeSet::new(),
            focus,
        }
    }

    /// Those that were not asked yet, and may be.
    pub(super) fn left<'t>(&'t self, facts: &'t Facts<'_>) -> impl Iterator<Item = usize> + 't {
        self.left.iter().copied().filter(|source| !facts.rests(&facts.ids[*source]))
    }

    /// Takes out the next source: the first whose host is not paused just now (`is_paused` says so), else the first, of those
    /// that need not wait. When there is none, those that were wrong once have their second try, unless others may bring the
    /// file in the next attempt.
    pub(super) fn next(&mut self, facts: &Facts<'_>, is_paused: impl Fn(usize) -> bool) -> Option<usize> {
        loop {
            let mut may_go = (0..self.left.len()).filter(|at| !self.waits(self.left[*at], facts));
            // Where there is no choice, nobody need look.
            let open = if self.left.len() > 1 { may_go.clone().find(|at| !is_paused(self.left[*at])) } else { None };
            if let Some(at) = open.or_else(|| may_go.next()) {
                return Some(self.left.remove(at));
            }
            if self.wrong_once.is_empty() || (self.focus.is_none() && self.others_may_follow(facts)) {
                return None;
            }
            self.left.append(&mut self.wrong_once);
        }
    }

    /// Whether a source must not begin anew, since that would drop what is held of another one that is to go on with it: one
    /// that is still to be asked; one whose host is paused, which costs no attempt to wait for; one that has come further in
    /// this attempt. One that has brought nothing lets those go first that nothing speaks against, and one that has brought
    /// something in vain all but those that were wrong before. Nothing is kept for one that has failed and is not asked again.
    pub(super) fn must_not_begin(&self, source: usize, facts: &Facts<'_>) -> bool {
        let Some(stored) = facts.stored.filter(|_| self.focus != Some(source)) else { return false };
        let (id, holder) = (&facts.ids[source], &stored.binding.source);
        // What is wrong, or cannot be gone on with, is worth nothing.
        if id == holder || facts.remarks.doubts.is_wrong(holder) || !facts.goes_on(holder) {
            return false;
        }
        if self.left.iter().any(|other| facts.ids[*other] == *holder) && !facts.rests(holder) {
            return true;
        }
        let is_asked_again = || {
            if self.awaits(facts) { facts.failures(holder).saturating_add(1) < facts.tries_max } else { !facts.is_last }
        };
        match self.fate {
            Fate::Gone => false,
            Fate::InVain => is_asked_again() && self.were_wrong_before.contains(&source),
            Fate::Paused => self.keeps_for_paused(facts),
            Fate::HasGrown => is_asked_again(),
            Fate::HasFailed => is_asked_again() && !facts.remarks.doubts.may_join(id),
        }
    }

    /// Whether the attempt does not count, and ends to wait for the end of a pause.
    pub(super) fn awaits(&self, facts: &Facts<'_>) -> bool {
        self.awaited(facts).next().is_some()
    }

    /// The sources that are waited for, since their hosts are paused and nothing else became of them: those that nothing speaks against;
    /// those that were wrong once, where no other failed in a way that may pass; all, where nobody was asked.
    pub(super) fn awaited<'t>(&'t self, facts: &'t Facts<'_>) -> impl Iterator<Item = usize> + 't {
        let doubts = &facts.remarks.doubts;
        self.paused.difference(&self.failed).copied().filter(move |source| {
            let id = &facts.ids[*source];
            let is_hopeful = !doubts.is_wrong_again(id) && facts.failures(id) < facts.tries_max;
            (is_hopeful && !(doubts.is_wrong(id) && self.counts)) || self.failed.is_empty()
        })
    }

    /// The attempt counts, unless a turn is owed: notes who has missed one, or has had one that it was owed. `follows`: another attempt
    /// that counts. `is_gone`: what failed last is not worth asking again. Returns who is owed turns, and how many; `None`: the attempt counts.
    pub(super) fn settle(
        &self,
        facts: &Facts<'_>,
        is_gone: bool,
        follows: bool,
        remarks: &mut Remarks,
    ) -> Option<(usize, u32)> {
        let has_had_it = |it: &usize| self.failed.contains(it) && !self.wrong_once.contains(it);
        let missed = (0..facts.ids.len()).filter(|it| !has_had_it(it) && facts.may_be_owed(&facts.ids[*it]));
        match self.focus.map(|focus| &facts.ids[focus]) {
            None => missed.for_each(|source| remarks.owe(&facts.ids[source], 1, facts.tries_max)),
            Some(id) if is_gone => remarks.owe_nothing(id),
            Some(id) if !follows => remarks.note_turn(id),
            Some(_) => {}
        }
        if follows {
            remarks.gives_what_is_owed = false;
            return None;
        }
        let owed = facts.ids.iter().map(|id| if facts.may_be_owed(id) { remarks.owed(id) } else { 0 });
        let next = owed.enumerate().find(|(_, turns)| *turns > 0)?;
        remarks.gives_what_is_owed = true;
        Some(next)
    }

    /// Whether somebody was asked, and failed.
    pub(super) fn has_asked(&self) -> bool {
        !self.failed.is_empty()
    }

    /// A source has failed, and by no file that was wrong. `has_brought`: bytes. `held_before`: so many were held when the attempt
    /// began.
    pub(super) fn failed(
        &mut self,
        source: usize,
        failure: &Failure,
        has_brought: bool,
        held_before: u64,
        facts: &Facts<'_>,
    ) {
        let is_paused = failure.retryable && failure.paused_until.is_some();
        self.may_pass |= failure.retryable;
        self.counts |= failure.retryable && !is_paused;
        if is_paused {
            self.paused.insert(source)
        } else {
            self.failed.insert(source)
        };
        let Some(stored) = facts.stored.filter(|stored| stored.binding.source == facts.ids[source]) else { return };
        self.fate = match failure.retryable {
            false => Fate::Gone,
            true if is_paused => Fate::Paused,
            true if stored.ranges.bytes() > held_before => Fate::HasGrown,
            true if has_brought => Fate::InVain,
            true => Fate::HasFailed,
        };
    }

    /// A file that came from this source alone was wrong. Each source is asked once more in all: at once, where the file was put
    /// together in several attempts (`was_pieced`), else when nobody else is left.
    pub(super) fn was_wrong(&mut self, source: usize, was_pieced: bool) {
        self.counts = true;
        self.failed.insert(source);
        if !self.may_not_repeat.insert(source) {
            // It has had both tries.
        } else if was_pieced {
            self.left.push(source);
        } else {
            self.wrong_once.push(source);
        }
    }

    /// It has something else than what is held, and would have to begin anew.
    pub(super) fn come_back_later(&mut self, source: usize) {
        self.left.push(source);
    }

    /// Has the sources that were wrong together asked alone: first the one whose bytes are still held.
    pub(super) fn ask_alone(&mut self, first: Option<usize>, joined: impl Iterator<Item = usize>) {
        for source in joined {
            if !self.left.contains(&source) {
                self.left.push(source);
            }
        }
        self.left.retain(|source| Some(*source) != first);
        self.left.splice(0..0, first);
    }

    fn waits(&self, source: usize, facts: &Facts<'_>) -> bool {
        if self.focus == Some(source) {
            return false;
        }
        if self.is_kept_back(source, facts) {
            return true;
        }
        if facts.is_gone(source) {
            let may_go = |other: &usize| !facts.is_gone(*other) && !self.is_kept_back(*other, facts);
            return self.awaits(facts) || self.left.iter().any(may_go);
        }
        let was_wrong = |other: &usize| self.were_wrong_before.contains(other);
        let mut fresh = self.left.iter().filter(|other| !was_wrong(other) && !facts.rests(&facts.ids[**other]));
        if !was_wrong(&source) {
            return facts.rests(&facts.ids[source])
                && (self.awaits(facts) || fresh.any(|other| !self.is_kept_back(*other, facts)));
        }
        let has_had_its_tries = facts.remarks.doubts.is_wrong_again(&facts.ids[source]);
        // Those that rest go before it, unless they let another one go before them.
        let is_other_left = if self.awaits(facts) {
            fresh.next().is_some()
        } else {
            self.left.iter().any(|other| !was_wrong(other) && !facts.is_gone(*other))
        };
        is_other_left || self.keeps_for_paused(facts) || (has_had_its_tries && self.others_may_follow(facts))
    }

    /// Whether what is held of another source is kept from this one.
    fn is_kept_back(&self, source: usize, facts: &Facts<'_>) -> bool {
        !facts.goes_on(&facts.ids[source]) && self.must_not_begin(source, facts)
    }

    /// Whether others wait for one that is paused although they could bring the file.
    fn keeps_for_paused(&self, facts: &Facts<'_>) -> bool {
        let follows = || !facts.is_last || self.awaits(facts);
        facts.remarks.pauses < PAUSES_MAX && !self.paused.is_empty() && follows()
    }

    /// Whether a source that was not wrong may bring the file in an attempt that follows.
    fn others_may_follow(&self, facts: &Facts<'_>) -> bool {
        self.may_pass && (!facts.is_last || self.awaits(facts))
    }
}

impl Facts<'_> {
    /// The only source that is asked: one that is owed a turn, where the attempts that count are over. First the one whose bytes are held.
    fn focus(&self, order: &[usize]) -> Option<usize> {
        let is_owed = |source: &&usize| {
            let id = &self.ids[**source];
            self.remarks.owed(id) > 0 && self.may_be_owed(id)
        };
        // A run that was ended from outside may have left that it gave turns: the next one asks all again.
        order.iter().filter(|_| self.is_last && self.remarks.gives_what_is_owed).find(is_owed).copied()
    }

    /// Whether a source is owed turns at all: one whose file was wrong twice is not.
    fn may_be_owed(&self, id: &str) -> bool {
        !self.remarks.doubts.is_wrong_again(id) && self.failures(id) < u32::MAX
    }

    /// Whether a source has failed for good while another one was waited for.
    fn is_gone(&self, source: usize) -> bool {
        let id = &self.ids[source];
        self.rests(id) && self.failures(id) == u32::MAX
    }

    /// Whether the source of this id could go on with what is held, as far as can be told before it is asked.
    fn goes_on(&self, id: &str) -> bool {
        self.stored.is_some() && first_ask(self.stored, id, self.has_digest).range.is_some()
    }

    /// When sources that have failed in attempts that do not count may be asked again.
    pub(super) fn backoffs(&self) -> impl Iterator<Item = Timestamp> {
        let may_fail = |id: &&String| (1..self.tries_max).contains(&self.failures(id));
        let ends = self.ids.iter().filter(may_fail).filter_map(|id| self.remarks.rests_until(id));
        ends.filter(|until| *until > self.now)
    }

    fn failures(&self, id: &str) -> u32 {
        self.remarks.failures(id)
    }

    /// Whether the source of this id failed in an attempt that did not count, and is not asked again as long as another is waited
    /// for: before its backoff is over, unless it may go on with what it has brought; and not more often than the task has attempts.
    fn rests(&self, id: &str) -> bool {
        if self.remarks.pauses == 0 || self.failures(id) == 0 {
            return false;
        }
        let is_holder = self.stored.is_some_and(|stored| stored.binding.source == id);
        let is_early = self.remarks.rests_until(id).is_some_and(|until| until > self.now);
        self.failures(id) >= self.tries_max || (is_early && !(is_holder && self.goes_on(id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::binding::Binding;
    use crate::files::ranges::RangeSet;
    use crate::files::version::Version;
    use crate::model::failure::FailureReason;

    /// Some bytes of the first of two sources, which has a strong validator.
    fn held() -> Stored {
        let version = Version { etag: "\"x\"".into(), total: Some(9), ..Version::default() };
        let binding = Binding { version, source: "a".into(), ..Binding::default() };
        Stored { binding, ranges: RangeSet::from_start(4), ..Stored::default() }
    }

    fn facts<'a>(ids: &'a [String], stored: Option<&'a Stored>, remarks: &'a Remarks) -> Facts<'a> {
        Facts { ids, stored, remarks, has_digest: false, is_last: false, tries_max: 5, now: Timestamp(1_000_000) }
    }

    fn cut() -> Failure {
        Failure::retryable(FailureReason::Truncated, "cut")
    }

    fn paused() -> Failure {
        Failure { paused_until: Some(Timestamp(1)), ..Failure::retryable(FailureReason::HttpStatus, "") }
    }

    #[test]
    fn what_is_held_is_kept_for_as_long_as_its_source_may_go_on() {
        let (ids, stored, remarks) = (["a", "b"].map(String::from), held(), Remarks::default());
        let mut often = remarks.clone();
        often.pauses = PAUSES_MAX;
        let base = || facts(&ids, Some(&stored), &remarks);
        let after = |failure: &Failure, has_brought, held_before, facts: &Facts<'_>| {
            let mut turns = Turns::new(facts);
            assert!(turns.must_not_begin(1, facts), "the first is still to be asked");
            assert_eq!(turns.next(facts, |source| source == 0), Some(0), "although its host is paused");
            turns.failed(0, failure, has_brought, held_before, facts);
            turns.next(facts, |_| false)
        };
        assert_eq!(after(&cut(), true, 3, &base()), None, "it has come further");
        assert_eq!(after(&cut(), false, 4, &base()), Some(1), "it has brought nothing");
        assert_eq!(after(&cut(), true, 3, &Facts { is_last: true, ..base() }), Some(1), "nobody would go on with it");
        assert_eq!(after(&paused(), false, 4, &base()), None);
        assert_eq!(after(&paused(), false, 4, &Facts { is_last: true, ..base() }), None, "that does not count");
        assert_eq!(after(&paused(), false, 4, &Facts { remarks: &often, ..base() }), Some(1), "not for ever");
        let gone = Failure::fatal(FailureReason::HttpStatus, "gone");
        assert_eq!(after(&gone, false, 4, &base()), Some(1));
    }

    #[test]
    fn each_source_that_was_wrong_has_one_more_try() {
        let (ids, remarks) = (["a", "b"].map(String::from), Remarks::default());
        let facts = facts(&ids, None, &remarks);
        let mut turns = Turns::new(&facts);
        let mut asked = Vec::new();
        while let Some(source) = turns.next(&facts, |_| false) {
            asked.push(source);
            turns.was_wrong(source, false);
        }
        assert_eq!(asked, [0, 1, 0, 1]);
    }

    #[test]
    fn one_that_was_wrong_before_waits_for_those_that_may_be_right() {
        let ids = ["a", "b"].map(String::from);
        let [mut once, mut twice] = [Remarks::default(), Remarks::default()];
        once.doubts.note_wrong("a");
        (0..2).for_each(|_| twice.doubts.note_wrong("a"));
        let after = |failure: &Failure, facts: &Facts<'_>| {
            let mut turns = Turns::new(facts);
            assert_eq!(turns.next(facts, |source| source == 1), Some(1));
            turns.failed(1, failure, false, 0, facts);
            turns.next(facts, |_| false)
        };
        assert_eq!(after(&cut(), &facts(&ids, None, &once)), Some(0));
        assert_eq!(after(&cut(), &facts(&ids, None, &twice)), None);
        for (remarks, in_the_end) in [(&once, Some(0)), (&twice, None)] {
            let mut often = remarks.clone();
            often.pauses = PAUSES_MAX;
            let base = || facts(&ids, None, remarks);
            assert_eq!(after(&cut(), &Facts { is_last: true, ..base() }), Some(0));
            assert_eq!(after(&paused(), &base()), None);
            assert_eq!(after(&paused(), &Facts { is_last: true, ..base() }), None, "another attempt follows");
            assert_eq!(after(&paused(), &Facts { is_last: true, remarks: &often, ..base() }), in_the_end);
            assert_eq!(after(&Failure::fatal(FailureReason::HttpStatus, "gone"), &base()), Some(0));
        }
    }

    #[test]
    fn one_that_was_wrong_lets_an_attempt_count_although_it_is_paused() {
        let (ids, mut remarks) = (["a", "b"].map(String::from), Remarks::default());
        for id in &ids {
            remarks.doubts.note_wrong(id);
        }
        let facts = Facts { is_last: true, ..facts(&ids, None, &remarks) };
        let mut turns = Turns::new(&facts);
        let first = turns.next(&facts, |_| false).unwrap();
        turns.was_wrong(first, false);
        let second = turns.next(&facts, |_| false).unwrap();
        turns.failed(second, &paused(), false, 0, &facts);
        assert!(!turns.awaits(&facts), "its file would be fetched once more with each pause of the other");
    }

    /// What becomes of an attempt at two sources, of which the host of the first is paused and the other fails.
    fn beside_paused(failure: &Failure, facts: &Facts<'_>) -> (Vec<usize>, bool) {
        let (mut turns, mut asked, pause) = (Turns::new(facts), Vec::new(), paused());
        while let Some(source) = turns.next(facts, |source| source == 0) {
            asked.push(source);
            let failure = if source == 0 { &pause } else { failure };
            turns.failed(source, failure, false, 0, facts);
        }
        (asked, turns.awaits(facts))
    }

    #[test]
    fn an_attempt_does_not_count_while_a_source_is_only_paused() {
        let (ids, mut remarks) = (["a", "b"].map(String::from), Remarks::default());
        for failure in [cut(), Failure::fatal(FailureReason::HttpStatus, "gone")] {
            let facts = Facts { is_last: true, ..facts(&ids, None, &remarks) };
            assert_eq!(beside_paused(&failure, &facts), (vec![1, 0], true));
        }
        // The next attempt asks the one that was waited for, and the other only when its backoff is over.
        remarks.pauses = 1;
        remarks.note_failure("b", Timestamp(2_000_000));
        let at = |now| Facts { now: Timestamp(now), ..facts(&ids, None, &remarks) };
        assert_eq!(beside_paused(&cut(), &at(1_000_000)), (vec![0], true));
        assert_eq!(at(1_000_000).backoffs().collect::<Vec<_>>(), [Timestamp(2_000_000)]);
        assert_eq!(beside_paused(&cut(), &at(2_000_000)), (vec![1, 0], true));
        assert_eq!(at(2_000_000).backoffs().count(), 0);
        // Not more often than the task has attempts.
        let few = Facts { tries_max: 1, ..at(2_000_000) };
        assert_eq!(beside_paused(&cut(), &few), (vec![0], true));
        // One that has failed as often is not waited for.
        remarks.note_failure("a", Timestamp(0));
        let few = Facts { tries_max: 1, ..facts(&ids, None, &remarks) };
        assert_eq!(beside_paused(&cut(), &few), (vec![1, 0], false));
    }

    #[test]
    fn one_that_was_waited_for_goes_first_and_the_others_follow_where_it_fails() {
        let (ids, mut remarks) = (["a", "b", "c"].map(String::from), Remarks::default());
        remarks.note_gone("a");
        remarks.note_failure("b", Timestamp(2_000_000));
        remarks.pauses = 1;
        let facts = facts(&ids, None, &remarks);
        let (mut turns, mut asked) = (Turns::new(&facts), Vec::new());
        assert_eq!(turns.left(&facts).collect::<Vec<_>>(), [2], "the others bring no pieces either");
        while let Some(source) = turns.next(&facts, |_| false) {
            asked.push(source);
            turns.failed(source, &cut(), false, 0, &facts);
        }
        assert_eq!((asked, turns.awaits(&facts)), (vec![2, 1, 0], false), "last the one that has failed for good");
        let late = Facts { now: Timestamp(3_000_000), ..facts };
        assert_eq!(Turns::new(&late).next(&late, |_| false), Some(2), "also where the backoff of another is over");
    }

    #[test]
    fn one_that_is_gone_goes_behind_one_that_was_wrong_once() {
        let (ids, mut remarks) = (["a", "b"].map(String::from), Remarks::default());
        remarks.doubts.note_wrong("a");
        remarks.note_gone("b");
        remarks.pauses = 1;
        let facts = facts(&ids, None, &remarks);
        let mut turns = Turns::new(&facts);
        assert_eq!([turns.next(&facts, |_| false), turns.next(&facts, |_| false)], [Some(0), Some(1)]);
    }

    /// The second of two sources is kept from what the first has brought, which is cut in each of two attempts.
    #[test]
    fn who_was_left_out_has_its_turns_before_the_task_gives_up() {
        let (ids, stored, mut remarks) = (["a", "b"].map(String::from), held(), Remarks::default());
        let cut_first = |is_last: bool, remarks: &mut Remarks| {
            let before = remarks.clone();
            let facts = Facts { is_last, tries_max: 2, ..facts(&ids, Some(&stored), &before) };
            let mut turns = Turns::new(&facts);
            let asked = turns.next(&facts, |_| false);
            turns.failed(asked.unwrap(), &cut(), true, 3, &facts);
            (asked, turns.settle(&facts, false, !is_last, remarks))
        };
        assert_eq!(cut_first(false, &mut remarks), (Some(0), None), "it counts, and another follows");
        assert_eq!((remarks.owed("a"), remarks.owed("b")), (0, 1));
        let mut gone = remarks.clone();
        assert_eq!(cut_first(true, &mut remarks), (Some(0), Some((1, 2))), "both turns are owed now");
        // To it alone, and nothing is kept from it.
        assert_eq!(cut_first(true, &mut remarks), (Some(1), Some((1, 1))));
        assert_eq!(cut_first(true, &mut remarks), (Some(1), None), "it has had them");
        assert_eq!(cut_first(true, &mut remarks).0, Some(0));
        // A run that is asked for anew while turns were given asks all, and gives none before its own last attempt.
        remarks.owe("b", 2, 2);
        remarks.gives_what_is_owed = true;
        assert_eq!(cut_first(false, &mut remarks), (Some(0), None));
        assert!(!remarks.gives_what_is_owed);
        // Nothing is owed to one of which every file was wrong.
        (0..2).for_each(|_| gone.doubts.note_wrong("b"));
        assert_eq!(cut_first(true, &mut gone), (Some(0), None));
    }

    /// A source that goes on with what it has brought is not kept from it, and keeps others from it until it has had its tries.
    #[test]
    fn the_source_of_what_is_held_is_asked_before_its_backoff_is_over() {
        let (ids, stored, mut remarks) = (["a", "b"].map(String::from), held(), Remarks::default());
        remarks.note_failure("a", Timestamp(2_000_000));
        remarks.pauses = 1;
        let base = || facts(&ids, Some(&stored), &remarks);
        assert_eq!(Turns::new(&base()).next(&base(), |_| false), Some(0));
        let few = Facts { tries_max: 1, ..base() };
        assert_eq!(Turns::new(&few).next(&few, |_| false), Some(1));
    }
}
