//! What a page of somebody else could send passes under no spelling of a host or an origin.
#![no_main]

use haul::model::browser::{Asked, BrowserRules, Verdict};
use libfuzzer_sys::fuzz_target;

/// Whether nobody but this server can have the host: an address, or `localhost`.
fn is_own(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => return rest.split_once(']').is_some_and(|(it, _)| it.parse::<std::net::Ipv6Addr>().is_ok()),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::Ipv4Addr>().is_ok()
}

fuzz_target!(|input: (&str, &str, &str, bool)| {
    let (authority, origin, site, is_tls) = input;
    let rules = BrowserRules::default();
    let passes = |asked: &Asked<'_>| !matches!(rules.judge(asked), Verdict::Refused(_));
    let plain = Asked { is_http1: true, is_tls, authorities: vec![authority], ..Asked::default() };
    if passes(&plain) {
        assert!(is_own(authority), "{authority:?}");
    }
    let of_page = Asked { origins: vec![origin], has_fetch_metadata: true, ..plain.clone() };
    if passes(&of_page) {
        let (_, named) = origin.split_once("://").unwrap_or_else(|| panic!("{origin:?} to {authority:?}"));
        assert!(is_own(authority) && is_own(named), "{origin:?} to {authority:?}");
    }
    let said = Asked { fetch_sites: vec![site], has_fetch_metadata: true, ..plain.clone() };
    if passes(&said) {
        assert!(matches!(site, "same-origin" | "none"), "{site:?}");
    }
    // Two of one kind are an attempt to be read in two ways.
    assert!(!passes(&Asked { authorities: vec![authority, authority], ..plain.clone() }));
    assert!(!passes(&Asked { origins: vec![origin, origin], ..plain.clone() }));
    assert!(!passes(&Asked { authorities: Vec::new(), ..plain }));
});
