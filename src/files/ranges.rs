//! Which bytes of a file are there.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// A set of byte ranges: sorted, apart from each other, none empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct RangeSet {
    ranges: Vec<Range<u64>>,
    total: u64,
}

impl RangeSet {
    /// The first `bytes` bytes.
    pub fn from_start(bytes: u64) -> RangeSet {
        let mut set = RangeSet::default();
        set.add(0..bytes);
        set
    }

    /// Adds a range; says how many of its bytes are new.
    pub fn add(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        // The ranges that touch the new one: from the first that ends at or after its start.
        let first = self.ranges.partition_point(|own| own.end < range.start);
        let past = first + self.ranges[first..].partition_point(|own| own.start <= range.end);
        let touched = &self.ranges[first..past];
        let held: u64 = touched.iter().map(|own| own.end - own.start).sum();
        let merged = touched.iter().fold(range, |all, own| all.start.min(own.start)..all.end.max(own.end));
        let new = merged.end - merged.start - held;
        if past == first + 1 {
            // The common case by far, a range that grows: nothing moves.
            self.ranges[first] = merged;
        } else {
            self.ranges.splice(first..past, [merged]);
        }
        self.total += new;
        new
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Range<u64>> {
        self.ranges.iter()
    }

    /// How many bytes are there.
    pub fn bytes(&self) -> u64 {
        self.total
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How far the bytes from 0 on go without a gap.
    pub fn prefix(&self) -> u64 {
        self.ranges.first().filter(|range| range.start == 0).map_or(0, |range| range.end)
    }

    /// Past the last byte.
    pub fn end(&self) -> u64 {
        self.ranges.last().map_or(0, |range| range.end)
    }

    /// Whether the byte at `at` is there, and up to where (excluded) that is so of all that follow it.
    pub fn run_at(&self, at: u64) -> (bool, u64) {
        let next = self.ranges.partition_point(|own| own.end <= at);
        match self.ranges.get(next) {
            Some(range) if range.start <= at => (true, range.end),
            Some(range) => (false, range.start),
            None => (false, u64::MAX),
        }
    }

    /// What is missing within `range`, in order.
    pub fn gaps_in(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let from = range.start;
        self.gaps(range.end).filter(move |gap| gap.end > from).map(move |gap| gap.start.max(from)..gap.end)
    }

    /// Whether everything below `total` is there, and nothing beyond.
    pub fn is_all_of(&self, total: u64) -> bool {
        self.total == total && self.end() == total
    }

    /// What is missing below `total`, in order.
    pub fn gaps(&self, total: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let starts = std::iter::once(0).chain(self.ranges.iter().map(|range| range.end));
        let ends = self.ranges.iter().map(|range| range.start).chain(std::iter::once(total));
        starts.zip(ends).map(move |(start, end)| start..end.min(total)).filter(|gap| !gap.is_empty())
    }
}

impl From<RangeSet> for Vec<(u64, u64)> {
    fn from(set: RangeSet) -> Self {
        set.ranges.into_iter().map(|range| (range.start, range.end)).collect()
    }
}

impl TryFrom<Vec<(u64, u64)>> for RangeSet {
    type Error = &'static str;

    fn try_from(pairs: Vec<(u64, u64)>) -> Result<Self, Self::Error> {
        let mut set = RangeSet::default();
        for (start, end) in pairs {
            if start >= end {
                return Err("a range that is empty or reversed");
            }
            set.add(start..end);
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_what_a_set_of_bytes_is(adds in prop::collection::vec((0u64..60, 0u64..20), 0..30)) {
            let mut set = RangeSet::default();
            let mut model = [false; 80];
            for (start, length) in adds {
                let new = (start..start + length).filter(|byte| !model[*byte as usize]).count() as u64;
                (start..start + length).for_each(|byte| model[byte as usize] = true);
                prop_assert_eq!(set.add(start..start + length), new);
            }
            let held = model.iter().filter(|held| **held).count() as u64;
            prop_assert_eq!(set.bytes(), held);
            let missing: Vec<u64> = set.gaps(80).flatten().collect();
            let expected: Vec<u64> = (0..80).filter(|byte| !model[*byte as usize]).collect();
            prop_assert_eq!(&missing, &expected);
            prop_assert_eq!(set.prefix(), model.iter().take_while(|held| **held).count() as u64);
            for at in 0..80_u64 {
                let (is_held, end) = set.run_at(at);
                prop_assert_eq!(is_held, model[at as usize]);
                let run = model[at as usize..].iter().take_while(|held| **held == is_held).count() as u64;
                prop_assert!(end == at + run || (end == u64::MAX && at + run == 80));
                let inner: Vec<u64> = set.gaps_in(at..80).flatten().collect();
                prop_assert!(inner.iter().eq(expected.iter().filter(|byte| **byte >= at)));
            }
            prop_assert_eq!(set.is_all_of(held), set.prefix() == held);
            let json = serde_json::to_string(&set).unwrap();
            prop_assert_eq!(serde_json::from_str::<RangeSet>(&json).unwrap(), set);
        }
    }
}
