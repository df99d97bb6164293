//! A range that is understood is one: not empty, and within the whole. Arithmetic on it cannot overflow.
#![no_main]

use haul::net::range::{self, ContentRange};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &str| {
    if let Some(ContentRange::Bytes { first, last, total }) = range::parse(value) {
        assert!(first <= last && last < u64::MAX, "{value:?}");
        assert!(total.is_none_or(|total| last < total), "{value:?}");
    }
});
