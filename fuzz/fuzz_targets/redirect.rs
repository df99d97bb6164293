//! Wherever an origin redirects to: http or https only, never down from https, and never farther than allowed.
#![no_main]

use haul::net::redirect::{Trail, decide};
use http::{Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use url::Url;

fuzz_target!(|input: (u16, &[u8], bool, u8)| {
    let (status, location, is_secure, followed) = input;
    let status = StatusCode::from_u16(300 + status % 10).unwrap();
    let from = Url::parse(if is_secure { "https://a.example/x?y#z" } else { "http://a.example/x?y#z" }).unwrap();
    let trail = Trail { from: &from, method: &Method::GET, followed: u32::from(followed), limit: 10 };
    if let Ok(Some(hop)) = decide(status, Some(location), &trail) {
        assert!(matches!(hop.url.scheme(), "http" | "https") && hop.url.has_host());
        assert!(!is_secure || hop.url.scheme() == "https");
        assert!(followed < 10);
        assert_eq!(hop.leaves_origin, hop.url.origin() != from.origin());
    }
});
