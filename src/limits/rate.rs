//! Rates that can be changed while others wait on them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::time::Timestamp;

/// How late a timer may wake who waits for it.
const LATENESS_MICROS: i64 = 10_000;
/// The longest time between two starts, however low the rate, in microseconds: a year. Sums of it stay within numbers.
const INTERVAL_MICROS_MAX: f64 = 365.0 * 24.0 * 3600.0 * 1e6;
/// The longest time that a reader waits before it looks again.
const WAIT_MAX: Duration = Duration::from_secs(3600);
/// What a reader waits more than is exact, so that one wake-up is enough.
const WAIT_EXTRA: Duration = Duration::from_micros(500);

/// A rate of starts, as a generic cell rate algorithm (ITU-T I.371): one number says when the next start is on time.
/// Pure: the caller brings the time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gcra {
    per_second: f64,
    burst: u32,
    /// When the start after all those granted so far would be exactly on time, in microseconds.
    next_micros: i64,
}

impl Gcra {
    /// Returns a rate that allows `burst` starts at once and `per_second` in the long run. `per_second` 0 sets no limit;
    /// `burst` 0 means 1.
    pub fn new(per_second: f64, burst: u32) -> Gcra {
        Gcra { per_second, burst: burst.max(1), next_micros: i64::MIN }
    }

    /// Changes the rate at `now`. What was granted stays granted, but the starts after it keep no more distance than the
    /// new rate asks for: a rate that was low and is raised must not hold on to a far future.
    pub fn set(&mut self, per_second: f64, burst: u32, now: Timestamp) {
        let mut changed = Gcra { next_micros: self.next_micros, ..Gcra::new(per_second, burst) };
        if changed.per_second > 0.0 {
            let latest = now.0.saturating_add((changed.interval_micros() * f64::from(changed.burst)) as i64);
            changed.next_micros = changed.next_micros.min(latest);
        }
        *self = changed;
    }

    /// Returns whether a start at `now` is within the rate.
    ///
    /// # Errors
    ///
    /// The time from which on it is.
    pub fn check(&self, now: Timestamp) -> Result<(), Timestamp> {
        if self.per_second <= 0.0 {
            return Ok(());
        }
        let slack = (self.interval_micros() * f64::from(self.burst - 1)) as i64;
        let earliest = self.next_micros.saturating_sub(slack);
        if earliest <= now.0 { Ok(()) } else { Err(Timestamp(earliest).min(Timestamp::MAX)) }
    }

    /// Returns how many starts at `now` are within the rate.
    pub(super) fn possible(&self, now: Timestamp) -> u32 {
        let interval = self.interval_micros() as i64;
        if self.per_second <= 0.0 || interval == 0 {
            return u32::MAX;
        }
        if self.check(now).is_err() {
            return 0;
        }
        let slack = (self.interval_micros() * f64::from(self.burst - 1)) as i64;
        let early = now.0.saturating_sub(self.start_of(now)).saturating_add(slack);
        u32::try_from(early / interval).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// Counts a start at `now`. One that is late by no more than timers are does not make those after it late: each would
    /// add its own lateness, and the rate would fall behind.
    pub fn take(&mut self, now: Timestamp) {
        if self.per_second > 0.0 {
            self.next_micros = self.start_of(now).saturating_add(self.interval_micros() as i64);
        }
    }

    /// Returns when a start at `now` is taken to be.
    fn start_of(&self, now: Timestamp) -> i64 {
        let is_on_time = now.0.saturating_sub(self.next_micros) <= LATENESS_MICROS;
        if is_on_time { self.next_micros } else { now.0 }
    }

    /// Returns when starts that were granted stop to matter: from then on the bucket is full, as it was at first.
    pub(super) fn rests_at(&self) -> Timestamp {
        Timestamp(self.next_micros.saturating_add(LATENESS_MICROS + 1))
    }

    fn interval_micros(&self) -> f64 {
        (1e6 / self.per_second).min(INTERVAL_MICROS_MAX)
    }
}

/// A rate of bytes that many readers share. Each takes what it has read and then waits its turn, first come first
/// served, so that connections share by the size of their reads and none starves.
#[derive(Debug, Default)]
pub struct ByteRate {
    /// Whether there is a limit: most readers have none, and need not wait for each other to learn so.
    is_limited: AtomicBool,
    state: Mutex<Bytes>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Bytes {
    /// 0: no limit.
    per_second: u64,
    /// Bytes that readers took so far.
    taken: f64,
    /// Bytes that the passing time has allowed so far.
    allowed: f64,
    settled: Option<Instant>,
}

impl Bytes {
    /// Lets time pass at the rate in force. What is not used within a tenth of a second is lost, so that a pause does
    /// not end in a burst.
    fn settle(&mut self, now: Instant) {
        let passed = self.settled.map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        let rate = self.per_second as f64;
        self.allowed = (self.allowed + passed.as_secs_f64() * rate).min(self.taken + rate / 10.0);
        self.settled = Some(now);
    }

    /// Returns how long it takes from the last [`Bytes::settle`] until `bytes` in all are allowed, [`WAIT_MAX`] at most.
    fn wait(&self, bytes: f64) -> Duration {
        let missing = bytes - self.allowed;
        if self.per_second == 0 || missing <= 0.0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64((missing / self.per_second as f64).min(WAIT_MAX.as_secs_f64()))
    }
}

impl ByteRate {
    /// Returns a rate of `per_second` bytes; 0 sets no limit.
    pub fn new(per_second: u64) -> ByteRate {
        let rate = ByteRate::default();
        rate.set(per_second);
        rate
    }

    /// Changes the rate at once, for those who wait too.
    pub fn set(&self, per_second: u64) {
        let mut state = self.lock();
        state.settle(Instant::now());
        state.per_second = per_second;
        self.is_limited.store(per_second > 0, Ordering::Relaxed);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Takes `bytes` and waits until the rate has allowed them.
    pub async fn take(&self, bytes: u64) {
        if !self.is_limited.load(Ordering::Relaxed) {
            return;
        }
        let mine = {
            let mut state = self.lock();
            if state.per_second == 0 {
                return;
            }
            state.settle(Instant::now());
            state.taken += bytes as f64;
            state.taken
        };
        loop {
            let changed = self.changed.notified();
            let wait = {
                let mut state = self.lock();
                state.settle(Instant::now());
                state.wait(mine)
            };
            if wait.is_zero() {
                return;
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(wait + WAIT_EXTRA) => {}
                () = changed => {}
            }
        }
    }

    /// Returns how long it takes until the rate has allowed all bytes that readers took, an hour at most.
    pub(super) fn behind(&self) -> Duration {
        let mut state = self.lock();
        state.settle(Instant::now());
        state.wait(state.taken)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Bytes> {
        // Plain numbers: whoever panicked left them usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
