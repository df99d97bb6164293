//! What a host was asked and has answered of late, for people: rates over seconds, failures over minutes. Pure: the caller
//! brings the time.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::time::Timestamp;

/// Rates are means over this time, of parts of [`PART`].
const RATE_TIME: Duration = Duration::from_secs(5);
/// Parts of the time of a rate.
const PART: Duration = Duration::from_millis(500);
const PARTS: usize = 10;
/// How long a failure is recent, of parts of [`FAILURE_PART`].
const FAILURE_TIME: Duration = Duration::from_secs(300);
const FAILURE_PART: Duration = Duration::from_secs(10);
const FAILURE_PARTS: usize = 30;
/// Hosts that are remembered, some 600 bytes each. Of more, the one that was silent longest is forgotten.
const HOSTS_MAX: usize = 10_000;
/// How fine it is known which host was silent longest.
const TOUCH: Duration = Duration::from_secs(1);

/// What is shown of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) bytes_per_second: u64,
    pub(super) requests_per_second: f64,
    pub(super) failures: u32,
}

/// Sums of the parts of a time that has just passed.
#[derive(Debug)]
struct Window<const N: usize> {
    /// Of the part with the number `n`, at the place `n % N`.
    sums: [u64; N],
    /// The number of the last part.
    last: i64,
}

impl<const N: usize> Default for Window<N> {
    fn default() -> Self {
        Window { sums: [0; N], last: 0 }
    }
}

impl<const N: usize> Window<N> {
    /// Moves on to the part with this number.
    fn go_to(&mut self, part: i64) {
        let passed = part.saturating_sub(self.last).clamp(0, N as i64);
        for back in 0..passed {
            self.sums[place::<N>(part - back)] = 0;
        }
        self.last = self.last.max(part);
    }

    fn add(&mut self, part: i64, count: u64) {
        self.go_to(part);
        self.sums[place::<N>(self.last)] += count;
    }

    fn sum(&mut self, part: i64) -> u64 {
        self.go_to(part);
        self.sums.iter().sum()
    }
}

fn place<const N: usize>(part: i64) -> usize {
    part.rem_euclid(N as i64) as usize
}

fn part(now: Timestamp, length: Duration) -> i64 {
    now.0.div_euclid(length.as_micros() as i64)
}

/// What was counted of one host.
#[derive(Debug, Default)]
pub(super) struct Activity {
    counts: Mutex<Counts>,
    /// Requests under way, where they are counted for somebody apart.
    under_way: AtomicU32,
}

#[derive(Debug, Default)]
struct Counts {
    bytes: Window<PARTS>,
    requests: Window<PARTS>,
    failures: Window<FAILURE_PARTS>,
    /// The last error, where it is kept for somebody apart.
    error: Option<(Timestamp, Arc<str>)>,
}

/// A request that is counted as being under way.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Activity>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Activity {
    /// Counts a request, which is under way until what is returned is dropped.
    pub(super) fn begin(self: Arc<Self>, now: Timestamp) -> UnderWay {
        self.requested(now);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(self)
    }

    /// Returns how many requests are under way.
    pub(super) fn under_way(&self) -> u32 {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Keeps an error.
    pub(super) fn note_error(&self, error: Arc<str>, now: Timestamp) {
        self.lock().error = Some((now, error));
    }

    /// Returns the last error.
    pub(super) fn error(&self) -> Option<(Timestamp, Arc<str>)> {
        self.lock().error.clone()
    }

    /// Counts bytes of a body.
    pub(super) fn received(&self, bytes: u64, now: Timestamp) {
        self.lock().bytes.add(part(now, PART), bytes);
    }

    fn requested(&self, now: Timestamp) {
        self.lock().requests.add(part(now, PART), 1);
    }

    pub(super) fn failed(&self, now: Timestamp) {
        self.lock().failures.add(part(now, FAILURE_PART), 1);
    }

    pub(super) fn rates(&self, now: Timestamp) -> Rates {
        let mut counts = self.lock();
        let (short, long) = (part(now, PART), part(now, FAILURE_PART));
        Rates {
            bytes_per_second: counts.bytes.sum(short) / RATE_TIME.as_secs(),
            requests_per_second: counts.requests.sum(short) as f64 / RATE_TIME.as_secs_f64(),
            failures: u32::try_from(counts.failures.sum(long)).unwrap_or(u32::MAX),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Sums: whoever panicked left them usable.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hosts of which something is known; with those for whom that was, where it is kept of each apart.
#[derive(Debug)]
pub(super) struct Recent<K> {
    hosts: HashMap<K, Entry>,
    /// By when something was counted last.
    order: BTreeSet<(i64, K)>,
    hosts_max: usize,
}

#[derive(Debug)]
struct Entry {
    touched: i64,
    activity: Arc<Activity>,
}

impl<K> Default for Recent<K> {
    fn default() -> Self {
        Recent { hosts: HashMap::new(), order: BTreeSet::new(), hosts_max: HOSTS_MAX }
    }
}

impl<K: Clone + Eq + Hash + Ord> Recent<K> {
    /// Returns what is counted of a host from now on.
    pub(super) fn of(&mut self, host: &K, now: Timestamp) -> Arc<Activity> {
        let touched = part(now, TOUCH);
        if let Some(entry) = self.hosts.get_mut(host) {
            if entry.touched != touched {
                self.order.remove(&(entry.touched, host.clone()));
                self.order.insert((touched, host.clone()));
                entry.touched = touched;
            }
            return entry.activity.clone();
        }
        let activity = Arc::new(Activity::default());
        self.hosts.insert(host.clone(), Entry { touched, activity: activity.clone() });
        self.order.insert((touched, host.clone()));
        self.tidy(now);
        activity
    }

    /// Counts the start of a request.
    pub(super) fn requested(&mut self, host: &K, now: Timestamp) {
        self.of(host, now).requested(now);
    }

    /// Counts an attempt that failed.
    pub(super) fn failed(&mut self, host: &K, now: Timestamp) {
        self.of(host, now).failed(now);
    }

    /// Returns what is shown of a host.
    pub(super) fn rates(&self, host: &K, now: Timestamp) -> Rates {
        self.hosts.get(host).map(|entry| entry.activity.rates(now)).unwrap_or_default()
    }

    /// Returns all that is known.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &Arc<Activity>)> {
        self.hosts.iter().map(|(host, entry)| (host, &entry.activity))
    }

    /// Returns what is counted of all.
    pub(super) fn all(&self) -> Vec<Arc<Activity>> {
        self.hosts.values().map(|entry| entry.activity.clone()).collect()
    }

    /// Forgets hosts that were silent for long, and the most silent ones of too many.
    fn tidy(&mut self, now: Timestamp) {
        let old = part(now, TOUCH) - FAILURE_TIME.as_secs() as i64;
        for _ in 0..2 {
            let Some((touched, host)) = self.order.first().cloned() else { return };
            if touched >= old && self.hosts.len() <= self.hosts_max {
                return;
            }
            self.order.remove(&(touched, host.clone()));
            self.hosts.remove(&host);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::host::Host;

    fn at(seconds: f64) -> Timestamp {
        Timestamp(1_700_000_000_000_000 + (seconds * 1e6) as i64)
    }

    #[test]
    fn rates_are_means_over_five_seconds_and_end_with_them() {
        let mut recent = Recent::<Host>::default();
        let host = Host::new("a:80");
        for step in 0..100 {
            let now = at(f64::from(step) / 10.0);
            recent.requested(&host, now);
            recent.of(&host, now).received(1_000, now);
        }
        let rates = recent.rates(&host, at(9.99));
        assert_eq!((rates.bytes_per_second, rates.requests_per_second), (10_000, 10.0));
        let rates = recent.rates(&host, at(12.49));
        assert_eq!((rates.bytes_per_second, rates.requests_per_second), (5_000, 5.0));
        assert_eq!(recent.rates(&host, at(15.0)), Rates::default());
        assert_eq!(recent.rates(&Host::new("b:80"), at(9.0)), Rates::default());
    }

    #[test]
    fn failures_are_recent_for_five_minutes() {
        let mut recent = Recent::<Host>::default();
        let host = Host::new("a:80");
        for seconds in [0.0, 100.0, 250.0] {
            recent.failed(&host, at(seconds));
        }
        for (seconds, failures) in [(250.0, 3), (289.0, 3), (301.0, 2), (420.0, 1), (600.0, 0), (10_000.0, 0)] {
            assert_eq!(recent.rates(&host, at(seconds)).failures, failures, "after {seconds} s");
        }
    }

    /// A clock that was set back must not clear what is there, nor count for ever.
    #[test]
    fn time_that_goes_back_changes_nothing() {
        let mut window = Window::<4>::default();
        window.add(10, 1);
        window.add(8, 1);
        assert_eq!(window.sum(9), 2);
        assert_eq!(window.sum(14), 0);
    }

    #[test]
    fn the_most_silent_host_is_forgotten_when_there_are_too_many() {
        let mut recent = Recent { hosts_max: 2, ..Recent::default() };
        let host = |name: &str| Host::new(&format!("{name}:80"));
        recent.failed(&host("a"), at(0.0));
        recent.failed(&host("b"), at(1.0));
        recent.failed(&host("a"), at(2.0));
        recent.failed(&host("c"), at(3.0));
        let failures = |name: &str| recent.rates(&host(name), at(3.0)).failures;
        assert_eq!((failures("a"), failures("b"), failures("c")), (2, 0, 1));
        recent.failed(&host("d"), at(1_000.0));
        assert_eq!((recent.hosts.len(), recent.order.len()), (1, 1), "what is old goes");
    }
}
