//! Seconds and dates, in any year, at any time that a clock of ours can show.
#![no_main]

use haul::model::time::Timestamp;
use haul::net::retry_after;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (i64, &str)| {
    let (now, value) = input;
    // Before 1970 a number of seconds since then is a longer wait than itself.
    let now = Timestamp(now.rem_euclid(Timestamp::MAX.0));
    let wait = retry_after::parse(value, now);
    if let (Some(wait), Ok(seconds)) = (wait, value.trim().parse::<u64>()) {
        assert!(wait.as_secs() <= seconds, "{value:?}");
    }
});
