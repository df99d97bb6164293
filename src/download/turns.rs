//! Whose turn it is among the sources of an attempt. Pure: nothing is asked here.
//!
//! Two things make a source wait for others. What it would bring from the start drops what is held of another one, which
//! may yet go on. And a file of it was wrong before: it deserves a second try, behind those that were not wrong.

use std::collections::BTreeSet;

use crate::download::resume::first_ask;
use crate::files::binding::Stored;
use crate::files::doubts::Doubts;
use crate::model::failure::Failure;

/// So many pauses in a row are waited for, for the sake of what is held or of a second try. Others may keep a host paused
/// for ever, and what another source has could be there long before.
const PAUSES_MAX: u32 = 8;

/// What decides beside the course of the attempt.
pub(super) struct Facts<'a> {
    /// What recognises the sources, by their numbers.
    pub(super) ids: &'a [String],
    pub(super) stored: Option<&'a Stored>,
    pub(super) doubts: &'a Doubts,
    /// How many pauses in a row ended attempts.
    pub(super) pauses: u32,
    pub(super) has_digest: bool,
    /// Whether no attempt follows, unless this one does not count.
    pub(super) is_last: bool,
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
    /// One that was asked did, so that the attempt counts.
    counts: bool,
    /// A host was paused.
    pause: Option<Failure>,
}

impl Turns {
    /// The source that the held bytes are from goes first: it worked, and its validators are those of the bytes. One that
    /// had wrong bytes goes last.
    pub(super) fn new(facts: &Facts<'_>) -> Turns {
        let Facts { ids, stored, doubts, .. } = facts;
        let mut left: Vec<usize> = (0..ids.len()).collect();
        let holder = stored.map(|stored| &stored.binding.source);
        left.sort_by_key(|source| {
            let id = &ids[*source];
            (doubts.is_wrong(id), holder.is_some_and(|holder| holder != id), !doubts.may_join(id))
        });
        let were_wrong_before: BTreeSet<usize> = (0..ids.len()).filter(|it| doubts.is_wrong(&ids[*it])).collect();
        Turns {
            left,
            may_not_repeat: were_wrong_before.clone(),
            were_wrong_before,
            wrong_once: Vec::new(),
            fate: Fate::Gone,
            may_pass: false,
            counts: false,
            pause: None,
        }
    }

    /// Those that were not asked yet.
    pub(super) fn left(&self) -> &[usize] {
        &self.left
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
            if self.wrong_once.is_empty() || self.others_may_follow(facts) {
                return None;
            }
            self.left.append(&mut self.wrong_once);
        }
    }

    /// Whether a source must not begin anew, since that would drop what is held of another one that is to go on with it: one
    /// that is still to be asked; one whose host is paused, which costs no attempt to wait for; one that has come further in
    /// this attempt. One that has brought nothing lets those go first that nothing speaks against, and one that has brought
    /// something in vain all but those that were wrong before. In the last attempt nothing is kept for one that has failed: nobody
    /// would go on with it.
    pub(super) fn must_not_begin(&self, source: usize, facts: &Facts<'_>) -> bool {
        let Some(stored) = facts.stored else { return false };
        let (id, holder) = (&facts.ids[source], &stored.binding.source);
        // What is wrong, or cannot be gone on with, is worth nothing.
        if id == holder || facts.doubts.is_wrong(holder) || !facts.goes_on(holder) {
            return false;
        }
        if self.left.iter().any(|other| facts.ids[*other] == *holder) {
            return true;
        }
        match self.fate {
            Fate::Gone => false,
            Fate::InVain => !facts.is_last && self.were_wrong_before.contains(&source),
            Fate::Paused => self.waits_for_host(facts),
            Fate::HasGrown => !facts.is_last,
            Fate::HasFailed => !facts.is_last && !facts.doubts.may_join(id),
        }
    }

    /// The failure of the first source whose host was paused, by the end of the pauses.
    pub(super) fn pause(&self) -> Option<&Failure> {
        self.pause.as_ref()
    }

    /// Whether a pause is to be waited for, without an attempt that counts.
    pub(super) fn waits_for_host(&self, facts: &Facts<'_>) -> bool {
        self.pause.is_some() && facts.pauses < PAUSES_MAX && !(facts.is_last && self.counts)
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
        if is_paused && self.pause.as_ref().is_none_or(|before| failure.paused_until < before.paused_until) {
            self.pause = Some(failure.clone());
        }
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
        if !self.may_not_repeat.insert(source) {
            // It has had both tries, and would have one more after each pause of another.
            self.counts = true;
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
        let would_begin = !facts.goes_on(&facts.ids[source]);
        if would_begin && self.must_not_begin(source, facts) {
            return true;
        }
        let is_other_left = || self.left.iter().any(|other| !self.were_wrong_before.contains(other));
        let may_wait = || {
            let has_had_its_tries = facts.doubts.is_wrong_again(&facts.ids[source]);
            self.waits_for_host(facts) || (has_had_its_tries && self.others_may_follow(facts))
        };
        self.were_wrong_before.contains(&source) && (is_other_left() || may_wait())
    }

    /// Whether a source that was not wrong may bring the file in an attempt that follows.
    fn others_may_follow(&self, facts: &Facts<'_>) -> bool {
        self.may_pass && (!facts.is_last || self.waits_for_host(facts))
    }
}

impl Facts<'_> {
    /// Whether the source of this id could go on with what is held, as far as can be told before it is asked.
    fn goes_on(&self, id: &str) -> bool {
        self.stored.is_some() && first_ask(self.stored, id, self.has_digest).range.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::binding::Binding;
    use crate::files::ranges::RangeSet;
    use crate::files::version::Version;
    use crate::model::failure::FailureReason;
    use crate::model::time::Timestamp;

    /// Some bytes of the first of two sources, which has a strong validator.
    fn held() -> Stored {
        let version = Version { etag: "\"x\"".into(), total: Some(9), ..Version::default() };
        let binding = Binding { version, source: "a".into(), ..Binding::default() };
        Stored { binding, ranges: RangeSet::from_start(4), ..Stored::default() }
    }

    fn facts<'a>(ids: &'a [String], stored: Option<&'a Stored>, doubts: &'a Doubts) -> Facts<'a> {
        Facts { ids, stored, doubts, pauses: 0, has_digest: false, is_last: false }
    }

    fn cut() -> Failure {
        Failure::retryable(FailureReason::Truncated, "cut")
    }

    fn paused() -> Failure {
        Failure { paused_until: Some(Timestamp(1)), ..Failure::retryable(FailureReason::HttpStatus, "") }
    }

    #[test]
    fn what_is_held_is_kept_for_as_long_as_its_source_may_go_on() {
        let (ids, stored, doubts) = (["a", "b"].map(String::from), held(), Doubts::default());
        let base = || facts(&ids, Some(&stored), &doubts);
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
        assert_eq!(after(&paused(), false, 4, &Facts { pauses: PAUSES_MAX, ..base() }), Some(1), "not for ever");
        let gone = Failure::fatal(FailureReason::HttpStatus, "gone");
        assert_eq!(after(&gone, false, 4, &base()), Some(1));
    }

    #[test]
    fn each_source_that_was_wrong_has_one_more_try() {
        let (ids, doubts) = (["a", "b"].map(String::from), Doubts::default());
        let facts = facts(&ids, None, &doubts);
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
        let [mut once, mut twice] = [Doubts::default(), Doubts::default()];
        once.note_wrong("a");
        (0..2).for_each(|_| twice.note_wrong("a"));
        let after = |failure: &Failure, facts: &Facts<'_>| {
            let mut turns = Turns::new(facts);
            assert_eq!(turns.next(facts, |source| source == 1), Some(1));
            turns.failed(1, failure, false, 0, facts);
            turns.next(facts, |_| false)
        };
        assert_eq!(after(&cut(), &facts(&ids, None, &once)), Some(0));
        assert_eq!(after(&cut(), &facts(&ids, None, &twice)), None);
        for doubts in [&once, &twice] {
            let base = || facts(&ids, None, doubts);
            assert_eq!(after(&cut(), &Facts { is_last: true, ..base() }), Some(0));
            assert_eq!(after(&paused(), &base()), None);
            assert_eq!(after(&paused(), &Facts { is_last: true, ..base() }), None, "another attempt follows");
            assert_eq!(after(&paused(), &Facts { is_last: true, pauses: PAUSES_MAX, ..base() }), Some(0));
            assert_eq!(after(&Failure::fatal(FailureReason::HttpStatus, "gone"), &base()), Some(0));
        }
    }

    #[test]
    fn one_that_was_wrong_again_lets_a_last_attempt_count() {
        let (ids, mut doubts) = (["a", "b"].map(String::from), Doubts::default());
        for id in &ids {
            doubts.note_wrong(id);
        }
        let facts = Facts { is_last: true, ..facts(&ids, None, &doubts) };
        let mut turns = Turns::new(&facts);
        let first = turns.next(&facts, |_| false).unwrap();
        turns.was_wrong(first, false);
        let second = turns.next(&facts, |_| false).unwrap();
        turns.failed(second, &paused(), false, 0, &facts);
        assert!(!turns.waits_for_host(&facts), "its file would be fetched once more with each pause of the other");
    }
}
