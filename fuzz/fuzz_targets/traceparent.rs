//! Whatever a caller sends as its place in a trace, what is read of it is written and read again as the same.
#![no_main]

use haul::model::trace::TraceParent;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Some(place) = TraceParent::parse(text) else { return };
    assert!(place.trace != 0 && place.span != 0, "{place:?}");
    assert_eq!(TraceParent::parse(&place.to_string()), Some(place));
});
