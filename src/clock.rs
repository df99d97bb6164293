//! What time it is, for stamps and for waits alike. Waiting itself is tokio's.
//!
//! Limits, backoffs and deadlines are kept as stamps, some of them across restarts, so stamps have to follow the wall
//! clock. The wall clock jumps when somebody sets it: an hour back would hold a paused host for an hour longer. So the
//! process has one clock that counts elapsed time from the wall clock's reading at its start, and then only leans towards
//! the wall clock. It must not know what the time is needed for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use tokio::time::Instant;

use crate::model::time::Timestamp;

/// The share of elapsed time by which the clock runs fast or slow to meet the wall clock: one twentieth. No wait is off by
/// more, and a second that the wall clock was set by is made up within 20.
const SLEW_DIVISOR: i64 = 20;
/// Elapsed time between two looks at the wall clock, in microseconds.
const SLEW_INTERVAL_MICROS: i64 = 1_000;
/// A difference between the two clocks that operators should know of, in microseconds; it takes minutes to make up.
const DIFFERENCE_NOTED_MICROS: i64 = 10_000_000;

/// Where stamps come from. Clones are one clock.
#[derive(Clone, Debug)]
pub enum Clock {
    /// Elapsed time since a reading of the wall clock, slewed towards the wall clock.
    System(Arc<SlewedClock>),
    /// A clock that starts at a given time and goes with tokio's time, which tests pause and turn by hand.
    Paced {
        /// The time when it started.
        base: Timestamp,
        /// When it started.
        start: Instant,
    },
}

impl Clock {
    /// A clock that starts with what the system's wall clock says now. One process needs one: two may differ by what the
    /// wall clock was set between their starts.
    pub fn system() -> Clock {
        Clock::System(Arc::new(SlewedClock::new(elapsed_micros(), wall_micros())))
    }

    /// A clock that goes with tokio's time, from `base` on.
    pub fn paced(base: Timestamp) -> Clock {
        Clock::Paced { base, start: Instant::now() }
    }

    /// The time now. Never before what any clone said earlier.
    pub fn now(&self) -> Timestamp {
        match self {
            Clock::System(clock) => Timestamp(clock.read(elapsed_micros(), wall_micros)),
            Clock::Paced { base, start } => base.plus(start.elapsed()),
        }
    }
}

/// A reading that follows elapsed time and approaches the wall clock without jumps. All numbers are microseconds; both
/// readings come in as arguments. Readers share it without a lock.
#[derive(Debug)]
pub struct SlewedClock {
    /// What is added to elapsed time.
    offset: AtomicI64,
    /// The elapsed time at which `offset` was corrected last. Whoever moves it owns the correction for the time between.
    corrected: AtomicI64,
    /// The highest reading so far: a correction of another thread may come between a reading and the next.
    latest: AtomicI64,
    /// Whether the log has a line on the present difference.
    is_noted: AtomicBool,
}

impl SlewedClock {
    fn new(elapsed: i64, wall: i64) -> SlewedClock {
        SlewedClock {
            offset: AtomicI64::new(wall.saturating_sub(elapsed)),
            corrected: AtomicI64::new(elapsed),
            latest: AtomicI64::new(wall),
            is_noted: AtomicBool::new(false),
        }
    }

    fn read(&self, elapsed: i64, wall: impl FnOnce() -> i64) -> i64 {
        let corrected = self.corrected.load(Ordering::Relaxed);
        let passed = elapsed.saturating_sub(corrected);
        if passed >= SLEW_INTERVAL_MICROS && self.claim(corrected, elapsed) {
            let difference = wall().saturating_sub(elapsed.saturating_add(self.offset.load(Ordering::Relaxed)));
            let most = passed / SLEW_DIVISOR;
            self.offset.fetch_add(difference.clamp(-most, most), Ordering::Relaxed);
            self.note(difference);
        }
        let reading = elapsed.saturating_add(self.offset.load(Ordering::Relaxed));
        self.latest.fetch_max(reading, Ordering::Relaxed).max(reading)
    }

    /// Takes the correction for the time from `corrected` to `elapsed`; one of several threads gets it.
    fn claim(&self, corrected: i64, elapsed: i64) -> bool {
        self.corrected.compare_exchange(corrected, elapsed, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn note(&self, difference: i64) {
        if difference.abs() < DIFFERENCE_NOTED_MICROS {
            self.is_noted.store(false, Ordering::Relaxed);
        } else if !self.is_noted.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the system's clock was set: it is {} s {} the server's, which makes that up by 3 s a minute; a restart \
                 takes the system's time at once",
                difference.abs() / 1_000_000,
                if difference > 0 { "ahead of" } else { "behind" },
            );
        }
    }
}

/// Microseconds that have passed since some fixed moment, those in which the machine was suspended included: an origin
/// that asked for an hour does not know that we slept.
#[cfg(target_os = "linux")]
fn elapsed_micros() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000)
}

/// Microseconds that have passed since some fixed moment. Where they stand still while the machine is suspended, the clock
/// makes that up as any other difference.
#[cfg(not(target_os = "linux"))]
fn elapsed_micros() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000)
}

#[allow(clippy::disallowed_methods)] // This is the place that the others are sent to.
fn wall_micros() -> i64 {
    let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000;
    const HOUR: i64 = 3_600 * SECOND;
    const START: i64 = 1_700_000_000 * SECOND;

    /// Both sources, turned by hand: the wall clock runs with elapsed time and can be set.
    struct Machine {
        clock: SlewedClock,
        elapsed: i64,
        wall: i64,
    }

    impl Machine {
        fn new() -> Machine {
            let (elapsed, wall) = (77 * HOUR, START);
            Machine { clock: SlewedClock::new(elapsed, wall), elapsed, wall }
        }

        fn pass(&mut self, micros: i64) -> i64 {
            self.elapsed += micros;
            self.wall += micros;
            self.clock.read(self.elapsed, || self.wall)
        }

        /// Seconds that a wait of `wait` microseconds takes when it is watched every `step`.
        fn wait(&mut self, wait: i64, step: i64) -> f64 {
            let until = self.pass(0) + wait;
            let start = self.elapsed;
            while self.pass(step) < until {}
            (self.elapsed - start) as f64 / SECOND as f64
        }
    }

    #[test]
    fn a_clock_that_nobody_sets_is_the_wall_clock() {
        let mut machine = Machine::new();
        for step in [0, 1, 999, 1_000, 1_001, SECOND, HOUR, 7] {
            assert_eq!(machine.pass(step), machine.wall);
        }
    }

    #[test]
    fn an_hour_back_makes_no_wait_longer_than_a_twentieth() {
        let mut machine = Machine::new();
        machine.wall -= HOUR;
        let waited = machine.wait(60 * SECOND, 10_000);
        assert!((60.0..63.2).contains(&waited), "{waited} s");
        machine.pass(21 * HOUR);
        assert_eq!(machine.pass(0), machine.wall, "and the difference is made up");
    }

    #[test]
    fn an_hour_ahead_ends_no_wait_earlier_than_a_twentieth() {
        let mut machine = Machine::new();
        machine.wall += HOUR;
        let waited = machine.wait(60 * SECOND, 10_000);
        assert!((57.1..60.0).contains(&waited), "{waited} s");
        machine.pass(21 * HOUR);
        assert_eq!(machine.pass(0), machine.wall, "and the difference is made up");
    }

    #[test]
    fn a_suspended_machine_has_waited() {
        let mut machine = Machine::new();
        let before = machine.pass(SECOND);
        // Nobody reads the clock while the machine sleeps, and both sources go on.
        assert_eq!(machine.pass(HOUR), before + HOUR);
        // A source that stands still meanwhile shows as a wall clock that was set ahead.
        machine.wall += HOUR;
        let after = machine.pass(SECOND);
        assert_eq!(after, before + HOUR + SECOND + SECOND / SLEW_DIVISOR);
    }

    #[test]
    fn threads_never_see_it_go_back() {
        let clock = SlewedClock::new(0, START);
        let elapsed = AtomicI64::new(0);
        let last = std::sync::Mutex::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let before = *last.lock().unwrap();
                        let now = elapsed.fetch_add(400, Ordering::Relaxed);
                        let reading = clock.read(now, || START - HOUR);
                        assert!(reading >= before, "{reading} after {before}");
                        let mut last = last.lock().unwrap();
                        *last = reading.max(*last);
                    }
                });
            }
        });
    }

    #[test]
    fn the_system_clock_starts_at_the_time_of_day_and_goes() {
        let clock = Clock::system();
        let first = clock.now();
        assert!((wall_micros() - first.0).abs() < HOUR);
        while clock.now() == first {
            std::thread::yield_now();
        }
        assert!(clock.now() > first);
    }

    proptest! {
        /// However the wall clock is set, every stretch of time is told within a twentieth, and what one look adds.
        #[test]
        fn no_stretch_is_told_wrong(
            moves in prop::collection::vec((0i64..5 * SECOND, prop_oneof![Just(0), -HOUR..HOUR]), 1..100),
        ) {
            let mut machine = Machine::new();
            let mut readings = vec![(machine.elapsed, machine.pass(0))];
            for (step, set) in moves {
                machine.wall += set;
                let reading = machine.pass(step);
                readings.push((machine.elapsed, reading));
            }
            for (i, (elapsed, reading)) in readings.iter().enumerate() {
                for (later_elapsed, later_reading) in &readings[i..] {
                    let passed = later_elapsed - elapsed;
                    let told = later_reading - reading;
                    prop_assert!(told >= 0);
                    prop_assert!((told - passed).abs() <= (passed + SLEW_INTERVAL_MICROS) / SLEW_DIVISOR + 1);
                }
            }
        }
    }
}
