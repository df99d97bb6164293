//! How a page is looked for step by step: which rows the next step looks at, and when the page is complete.

use crate::store::{JobPage, JobPlace};

/// Rows of the first step where most of them may not fit.
const FIRST_ROWS: u32 = 1_000;
/// Rows of a later step: some tens of milliseconds.
const STEP_ROWS: u32 = 20_000;

/// Rows of a step that are all read, because what they are judged by is not in the database.
const JUDGED_ROWS: u32 = 1_000;

/// Who says which rows fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judge {
    /// Nobody: all of them do.
    Nobody,
    /// The statement.
    Statement,
    /// Whoever reads the rows.
    Reader,
}

/// What the next step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The rows that it looks at.
    pub(super) rows: u32,
    /// Those that it returns at most.
    pub(super) limit: u32,
}

/// A page that is being looked for, of items `T` at places `P`.
pub(super) struct Look<T, P> {
    items: Vec<T>,
    /// The place of the last row that was looked at.
    last: Option<P>,
    limit: u32,
    examined: u32,
    look_max: u32,
    next: Option<P>,
}

impl<T, P: Copy> Look<T, P> {
    /// Looks for `limit` items among at most `look_max` rows.
    pub(super) fn new(limit: u32, look_max: u32) -> Self {
        Look { items: Vec::new(), last: None, limit, examined: 0, look_max, next: None }
    }

    /// The next step.
    pub(super) fn step(&self, judge: Judge) -> Step {
        let missing = self.limit.saturating_sub(self.items.len() as u32);
        // One more says whether there are more.
        let limit = missing.saturating_add(1);
        let left = self.look_max - self.examined;
        let rows = match (judge, self.examined) {
            (Judge::Nobody, _) => limit,
            (Judge::Statement, 0) => limit.max(FIRST_ROWS),
            (Judge::Statement, _) => STEP_ROWS,
            (Judge::Reader, _) => {
                let rows = limit.max(JUDGED_ROWS).min(left);
                return Step { rows, limit: rows };
            }
        };
        Step { rows: rows.min(left), limit }
    }

    /// Takes in what a step has found: rows, each with how many were looked at with it, its place, and the item, if it
    /// fits; whether it ended because of its bytes; how many rows it looked at, and the place of the last. Returns where the
    /// next step begins; `None`: the page is complete.
    pub(super) fn take(
        &mut self,
        step: Step,
        found: impl Iterator<Item = (u32, P, Option<T>)>,
        is_cut: bool,
        looked: u32,
        last: Option<P>,
    ) -> Option<P> {
        let (mut seen_last, mut count) = (0, 0);
        for (seen, place, item) in found {
            if item.is_some() && self.items.len() == self.limit as usize {
                return self.ends(seen_last);
            }
            count += 1;
            self.items.extend(item);
            (seen_last, self.last) = (seen, Some(place));
        }
        let is_full = is_cut && !self.items.is_empty();
        if count > 0 && (is_cut || count >= step.limit) {
            // What is behind the last row was not read.
            return if is_full { self.ends(seen_last) } else { self.goes_on(seen_last) };
        }
        if looked < step.rows {
            self.examined += looked;
            return None;
        }
        self.last = last;
        self.goes_on(looked)
    }

    fn goes_on(&mut self, looked: u32) -> Option<P> {
        if self.examined + looked >= self.look_max {
            return self.ends(looked);
        }
        self.examined += looked;
        self.last
    }

    fn ends(&mut self, looked: u32) -> Option<P> {
        self.examined += looked;
        self.next = self.last;
        None
    }
}

impl<T> Look<T, JobPlace> {
    /// The page.
    pub(super) fn into_page(self) -> JobPage<T> {
        JobPage { items: self.items, examined: self.examined, next: self.next }
    }
}

impl<T> Look<T, u32> {
    /// The items, how many rows were looked at, and the place of the last where there may be more.
    pub(super) fn into_parts(self) -> (Vec<T>, u32, Option<u32>) {
        (self.items, self.examined, self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks for `limit` multiples of `of` among the numbers below `end`, `look_max` of them at most. All steps together
    /// touch little more than that.
    fn page(judge: Judge, of: u32, end: u32, from: u32, limit: u32, look_max: u32) -> (Vec<u32>, u32, Option<u32>) {
        let mut look: Look<u32, u32> = Look::new(limit, look_max);
        let (mut from, mut touched) = (from, 0);
        loop {
            let step = look.step(judge);
            let rows: Vec<u32> = (from..end).take(step.rows as usize).collect();
            touched += rows.len();
            assert!(touched <= (look_max + STEP_ROWS) as usize, "{touched} rows were touched");
            let fits = |row: u32| row.is_multiple_of(of);
            let returned = (1..).zip(&rows).filter(|(_, row)| judge == Judge::Reader || fits(**row));
            let found = returned.take(step.limit as usize).map(|(seen, row)| (seen, *row, fits(*row).then_some(*row)));
            match look.take(step, found, false, rows.len() as u32, rows.last().copied()) {
                Some(last) => from = last + 1,
                None => return look.into_parts(),
            }
        }
    }

    #[test]
    fn pages_join_without_a_gap_and_look_no_further_than_they_may() {
        let cases = [
            (Judge::Nobody, 1),
            (Judge::Statement, 3),
            (Judge::Statement, 5_000),
            (Judge::Statement, 1_000_000),
            (Judge::Reader, 1),
            (Judge::Reader, 3),
            (Judge::Reader, 1_000_000),
        ];
        for (judge, of) in cases {
            for end in [0, 1, 9, 30, 50_000] {
                for (limit, look_max) in [(1, 1), (2, 3), (4, 1_000), (7, 100_000)] {
                    if end > 100 && look_max < 1_000 {
                        continue;
                    }
                    let (mut from, mut all, mut examined) = (0, Vec::new(), 0);
                    loop {
                        let (items, looked, next) = page(judge, of, end, from, limit, look_max);
                        assert!(items.len() <= limit as usize && looked <= look_max);
                        all.extend(items);
                        examined += looked;
                        match next {
                            Some(last) => from = last + 1,
                            None => break,
                        }
                        assert!(looked > 0, "each page makes progress");
                    }
                    let fitting: Vec<u32> = (0..end).filter(|row| row.is_multiple_of(of)).collect();
                    assert_eq!(
                        (all, examined),
                        (fitting, end),
                        "{judge:?}: of {of} below {end}, {limit} a page of {look_max}"
                    );
                }
            }
        }
    }
}
