//! Rates under tokio's paused time.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use crate::limits::rate::{ByteRate, Gcra};
use crate::model::time::Timestamp;

const SECOND: i64 = 1_000_000;

proptest! {
    /// However the callers come, no window of any length sees more starts than the rate and one burst allow, and what
    /// makes up for the lateness of timers.
    #[test]
    fn starts_stay_within_the_rate(
        rate in 0.5f64..200.0, burst in 1u32..10, gaps in prop::collection::vec(0i64..300_000, 1..200),
    ) {
        let mut gcra = Gcra::new(rate, burst);
        let mut now = 0;
        let mut starts = Vec::new();
        for gap in gaps {
            now += gap;
            if gcra.check(Timestamp(now)).is_ok() {
                gcra.take(Timestamp(now));
                starts.push(now);
            }
        }
        for (i, first) in starts.iter().enumerate() {
            for (j, last) in starts.iter().enumerate().skip(i) {
                let window = (last - first) as f64 / SECOND as f64;
                prop_assert!((j - i + 1) as f64 <= (window + 0.01) * rate + f64::from(burst) + 0.01);
            }
        }
    }

    /// Timers that wake late cost the rate nothing.
    #[test]
    fn a_rate_is_accurate_over_five_seconds(
        rate in 5f64..900.0, burst in 1u32..4, late in prop::collection::vec(0i64..2_500, 1..50),
    ) {
        let mut gcra = Gcra::new(rate, burst);
        let (mut now, mut starts) = (0, 0);
        for late in late.iter().cycle() {
            if let Err(until) = gcra.check(Timestamp(now)) {
                now = until.0 + late;
            }
            if now > 5 * SECOND {
                break;
            }
            gcra.take(Timestamp(now));
            starts += 1;
        }
        let expected = 5.0 * rate;
        let off = (f64::from(starts) - expected).abs();
        prop_assert!(off <= expected * 0.02 + f64::from(burst) + 1.0, "{starts} and not {expected}");
    }

    /// Somebody who waits as told gets through exactly then.
    #[test]
    fn the_time_that_is_told_is_enough(rate in 0.5f64..1000.0, burst in 1u32..5) {
        let mut gcra = Gcra::new(rate, burst);
        let mut now = Timestamp(0);
        for _ in 0..50 {
            if let Err(until) = gcra.check(now) {
                prop_assert!(until > now);
                now = until;
            }
            prop_assert!(gcra.check(now).is_ok());
            gcra.take(now);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_flow_at_the_rate_and_evenly() {
    let rate = ByteRate::new(1_000_000);
    let start = Instant::now();
    let read = |chunk: u64, times: u64| {
        let rate = &rate;
        async move {
            for _ in 0..times {
                rate.take(chunk).await;
            }
            start.elapsed()
        }
    };
    let (a, b) = tokio::join!(read(50_000, 50), read(50_000, 50));
    let spent = a.max(b).as_secs_f64();
    assert!((4.75..5.1).contains(&spent), "5 MB at 1 MB/s took {spent} s");
    assert!(a.abs_diff(b) < Duration::from_millis(120), "{a:?} and {b:?}");
}

#[test]
fn a_rate_that_is_raised_holds_on_to_nothing_of_the_low_one() {
    let mut gcra = Gcra::new(0.000_000_1, 1);
    gcra.take(Timestamp(0));
    gcra.set(10.0, 1, Timestamp(1_000_000));
    assert_eq!(gcra.check(Timestamp(1_000_000)), Err(Timestamp(1_100_000)));
    assert_eq!(gcra.check(Timestamp(1_100_000)), Ok(()));
    // What the new rate would not have allowed yet is not given again by changing it.
    gcra.take(Timestamp(1_100_000));
    gcra.set(10.0, 1, Timestamp(1_150_000));
    assert_eq!(gcra.check(Timestamp(1_150_000)), Err(Timestamp(1_200_000)));
    // Nor does a detour over no rate at all leave the far future in force.
    let mut gcra = Gcra::new(0.001, 1);
    gcra.take(Timestamp(0));
    gcra.set(0.0, 1, Timestamp(1));
    gcra.set(1.0, 1, Timestamp(2));
    assert_eq!(gcra.check(Timestamp(1_000_002)), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_new_rate_reaches_those_who_wait() {
    let rate = ByteRate::new(1);
    let start = Instant::now();
    let waiting = rate.take(1_000_000);
    let lift = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        rate.set(0);
    };
    tokio::join!(waiting, lift);
    assert!(start.elapsed() < Duration::from_secs(2));
}
