//! The target that is found stands in the header as it is.
#![no_main]

use haul::net::link;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &str| {
    let page = "http://a/list?page=1".parse().expect("a URL");
    if let Ok(Some(target)) = link::next_in(value, &page) {
        assert!(value.contains(&format!("<{target}>")) || value.contains(target), "{value:?} {target:?}");
        assert!(!target.contains('>'), "{target:?}");
    }
});
