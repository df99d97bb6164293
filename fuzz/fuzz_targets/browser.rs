//! However a page spells where it comes from: what passes names this server, and comes from its own pages or a listed origin.
#![no_main]

use haul::model::browser::{Asked, BrowserRules, Verdict};
use libfuzzer_sys::fuzz_target;
use url::{Host, Url};

const LISTED: &str = "https://dash.example";

fuzz_target!(|input: (&str, &str, u8)| {
    let (authority, origin, flags) = input;
    let is = |bit: u8| flags & 1 << bit != 0;
    let rules = BrowserRules { hosts: vec!["haul.lan".to_owned()], origins: vec![LISTED.to_owned()] };
    for origin in [origin.to_owned(), format!("http://{authority}{origin}"), format!("http://{origin}"), LISTED.to_owned()] {
        let asked = Asked {
            is_http1: is(0),
            is_tls: is(1),
            is_grpc: is(2),
            is_preflight: is(3),
            is_probe: is(4),
            authorities: vec![authority],
            origins: vec![&origin],
            has_fetch_metadata: is(5),
            fetch_sites: if is(6) { vec!["cross-site"] } else { vec![] },
            ..Asked::default()
        };
        let allowed = match rules.judge(&asked) {
            Verdict::Refused(_) => continue,
            Verdict::Preflight(origin) | Verdict::PassesTo(origin) => Some(origin),
            Verdict::Passes => None,
        };
        if allowed.is_some() {
            assert_eq!(origin, LISTED);
        }
        // What a browser takes from such an authority, if anything, is an address or a name of this server.
        if let Ok(target) = Url::parse(&format!("http://{authority}/")) {
            match target.host() {
                Some(Host::Domain(name)) => assert!(name == "localhost" || name == "haul.lan", "{authority}"),
                host => assert!(host.is_some(), "{authority}"),
            }
            if allowed.is_none() {
                assert!(!is(6), "{authority} from {origin}, which the browser says is another site");
                let own = Url::parse(&origin).unwrap_or_else(|error| panic!("{origin}: {error}"));
                assert_eq!(own.host(), target.host(), "{authority} from {origin}");
            }
        }
    }
});
