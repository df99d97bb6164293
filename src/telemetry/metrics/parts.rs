//! What metrics are counted with: atomics, so that counting takes no lock and no memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Returns how much was added.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number of things that are there now.
#[derive(Debug, Default)]
pub struct Level(AtomicU64);

impl Level {
    /// One more is there.
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One is gone.
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns how many there are.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A count for each value of a label. All values are there from the start, at 0, so that rates and alerts work.
#[derive(Debug, Default)]
pub struct Counts(Box<[(String, Count)]>);

impl Counts {
    /// Makes counts for these values.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Counts {
        Counts(values.into_iter().map(|value| (value.to_owned(), Count::default())).collect())
    }

    /// Adds one to the count of the value with this place. A place that there is not is passed over.
    pub fn add(&self, place: usize) {
        self.add_many(place, 1);
    }

    /// Adds to the count of the value with this place.
    pub fn add_many(&self, place: usize, more: u64) {
        if let Some((_, count)) = self.0.get(place) {
            count.add(more);
        }
    }

    /// Returns the values with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(value, count)| (value.as_str(), count.value()))
    }
}

/// How often values were seen, by their size.
#[derive(Debug)]
pub struct Spread {
    /// The upper bounds of the buckets, in raw units, in order.
    bounds: &'static [u64],
    /// Raw units in one unit of the series.
    scale: f64,
    /// One for each bound, and one for what is above.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

const NANOS: f64 = 1e9;

impl Spread {
    /// Makes an empty one of durations; `bounds` are in nanoseconds.
    pub fn of_times(bounds: &'static [u64]) -> Spread {
        Spread::new(bounds, NANOS)
    }

    /// Makes an empty one of numbers.
    pub fn of_numbers(bounds: &'static [u64]) -> Spread {
        Spread::new(bounds, 1.0)
    }

    fn new(bounds: &'static [u64], scale: f64) -> Spread {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Spread { bounds, scale, buckets, sum: AtomicU64::new(0) }
    }

    /// Takes in a value.
    pub fn see(&self, value: u64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Takes in a duration.
    pub fn see_time(&self, time: Duration) {
        self.see(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Returns the sum and the number of all values, and how many are in each bucket, by its upper bound.
    pub fn read(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let bounds = self.bounds.iter().map(|bound| *bound as f64 / self.scale).chain([f64::INFINITY]);
        let sum = self.sum.load(Ordering::Relaxed) as f64 / self.scale;
        (sum, counts.iter().sum(), bounds.zip(counts.iter().copied()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_the_bucket_whose_bound_they_do_not_exceed() {
        let spread = Spread::of_times(&[1_000_000_000, 2_000_000_000]);
        for millis in [0, 1_000, 1_001, 2_000, 9_000] {
            spread.see_time(Duration::from_millis(millis));
        }
        let (sum, count, buckets) = spread.read();
        assert_eq!((sum, count), (13.001, 5));
        assert_eq!(buckets, [(1.0, 2), (2.0, 2), (f64::INFINITY, 1)]);
    }

    #[test]
    fn counts_are_there_from_the_start_and_take_no_other_place() {
        let counts = Counts::new(["a", "b"]);
        counts.add(1);
        counts.add(2);
        assert_eq!(counts.iter().collect::<Vec<_>>(), [("a", 0), ("b", 1)]);
    }
}
