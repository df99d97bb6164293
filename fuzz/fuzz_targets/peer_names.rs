//! A certificate stands for a principal exactly if one of its names is the principal's, or lies right below the principal's pattern.
#![no_main]

use haul::model::identity::{Identity, Shown};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<&str>, Vec<&str>, &str)| {
    let (uris, dns, own) = input;
    let shown = Shown::by_certificate(uris.iter().copied(), dns.iter().copied());
    let is_owner = |identity: &Identity| shown.owner(|it| (it == identity).then_some(())).is_some();
    let name = Identity::CertificateDns(own.to_ascii_lowercase());
    if name.objection().is_none() {
        assert_eq!(is_owner(&name), dns.iter().any(|it| it.eq_ignore_ascii_case(own)), "{own} of {dns:?}");
    }
    let uri = Identity::CertificateUri(own.to_owned());
    if uri.objection().is_none() {
        let is_below = |name: &str, parent: &str| {
            let segment = name.strip_prefix(parent).and_then(|rest| rest.strip_prefix('/'));
            segment.is_some_and(|it| !it.is_empty() && it != "*" && !it.contains(['/', '?', '#']))
        };
        let is_meant = |name: &&str| own.strip_suffix("/*").map_or(*name == own, |parent| is_below(name, parent));
        assert_eq!(is_owner(&uri), uris.iter().any(is_meant), "{own} of {uris:?}");
    }
});
