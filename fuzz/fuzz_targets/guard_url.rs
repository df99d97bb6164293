//! However a URL spells an address: what the default guard lets through is public by the standard library's judgement too.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use haul::model::host::Host;
use haul::model::secret;
use haul::net::Guard;
use libfuzzer_sys::fuzz_target;
use url::Url;

fuzz_target!(|text: &str| {
    let _ = secret::redacted_text(text);
    let Ok(url) = Url::parse(text) else { return };
    let shown = secret::redacted(&url);
    if let (Some(password), Ok(again)) = (url.password(), Url::parse(&shown)) {
        assert!(again.password().is_none_or(|left| left != password || left == "REDACTED"), "{shown}");
    }
    if matches!(url.scheme(), "http" | "https") && url.has_host() {
        assert!(Host::of(&url).is_some(), "{url}");
    }
    let ip = match url.host() {
        Some(url::Host::Ipv4(ip)) => IpAddr::V4(ip),
        Some(url::Host::Ipv6(ip)) => IpAddr::V6(ip),
        _ => return,
    };
    if Guard::default().judge(ip).is_ok() {
        match ip {
            IpAddr::V4(ip) => assert!(is_public_v4(ip), "{ip} of {url}"),
            IpAddr::V6(ip) => assert!(is_public_v6(ip), "{ip} of {url}"),
        }
    }
});

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    let is_shared = first == 100 && (64..128).contains(&second);
    !(ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified() || ip.is_broadcast())
        && !(ip.is_multicast() || ip.is_documentation() || is_shared || first == 0 || first >= 240)
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    let low = || Ipv4Addr::from((u32::from(segments[6]) << 16) | u32::from(segments[7]));
    let embedded = match segments {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(low()),
        [0x2002, high, below, ..] => Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(below))),
        _ => None,
    };
    !(ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || ip.is_unique_local()
        || ip.is_unicast_link_local())
        && embedded.is_none_or(is_public_v4)
}
