//! Seconds and dates, in any year, at any time of ours.
#![no_main]

use haul::model::time::Timestamp;
use haul::net::retry_after;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (i64, &str)| {
    let (now, value) = input;
    let wait = retry_after::parse(value, Timestamp(now));
    if let (Some(wait), Ok(seconds)) = (wait, value.trim().parse::<u64>()) {
        assert!(wait.as_secs() <= seconds, "{value:?}");
    }
});
