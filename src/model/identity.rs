//! By what a caller is known without a token: names in a certificate, and users of this machine. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A name by which a principal is known. The common name of a certificate never counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// A URI among the subject alternative names, as SPIFFE has them. A last segment `*` stands for any one segment.
    CertificateUri(String),
    /// A DNS name among the subject alternative names, in lower case.
    CertificateDns(String),
    /// A user of this machine, at the other end of a Unix socket.
    UnixUid(u32),
    /// The group of such a user.
    UnixGid(u32),
}

/// The identities of the settings, each with the name of its principal.
pub type Identities = BTreeMap<Identity, String>;

impl Identity {
    /// Returns why a name cannot be one; `None` where it can.
    pub fn objection(&self) -> Option<&'static str> {
        match self {
            Self::CertificateDns(name) if name.is_empty() || name.contains('*') => {
                Some("has to be one name, written in full")
            }
            Self::CertificateUri(uri) => {
                let path = uri.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
                let literal = uri.strip_suffix("/*").unwrap_or(uri);
                let has_host = path.is_some_and(|(host, _)| !host.is_empty());
                (!has_host || literal.contains('*'))
                    .then_some("has to be a URI with a host and a path; only its last segment may be `*`")
            }
            Self::CertificateDns(_) | Self::UnixUid(_) | Self::UnixGid(_) => None,
        }
    }
}

/// The identities that the other end of a connection has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Those that stand for one peer.
    exact: Vec<Identity>,
    /// Those that stand for several.
    broad: Vec<Identity>,
}

impl Shown {
    /// Takes the subject alternative names of a certificate.
    pub fn by_certificate<'a>(
        uris: impl IntoIterator<Item = &'a str>,
        dns: impl IntoIterator<Item = &'a str>,
    ) -> Shown {
        let mut shown = Shown::default();
        for uri in uris {
            // What stands for several is no name of one.
            if let Some((parent, segment)) = uri.rsplit_once('/').filter(|(_, segment)| *segment != "*") {
                shown.exact.push(Identity::CertificateUri(uri.to_owned()));
                if !segment.is_empty() && !segment.contains(['?', '#']) {
                    shown.broad.push(Identity::CertificateUri(format!("{parent}/*")));
                }
            }
        }
        shown.exact.extend(dns.into_iter().map(|name| Identity::CertificateDns(name.to_ascii_lowercase())));
        shown
    }

    /// Takes the user and the group of a peer on this machine.
    pub fn by_socket(uid: u32, gid: u32) -> Shown {
        Shown { exact: vec![Identity::UnixUid(uid)], broad: vec![Identity::UnixGid(gid)] }
    }

    /// Returns whose these are by what `of` knows; `None` where they are nobody's, or those of several.
    ///
    /// What stands for one peer goes before what stands for several.
    pub fn owner<T: PartialEq, I: IntoIterator<Item = T>>(&self, of: impl Fn(&Identity) -> I) -> Option<T> {
        for shown in [&self.exact, &self.broad] {
            let mut owners = shown.iter().flat_map(&of);
            if let Some(first) = owners.next() {
                return owners.all(|other| other == first).then_some(first);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(name: &str) -> Identity {
        Identity::CertificateUri(name.into())
    }

    fn dns(name: &str) -> Identity {
        Identity::CertificateDns(name.into())
    }

    #[test]
    fn the_exact_name_goes_before_the_pattern_and_two_principals_are_none() {
        let known = BTreeMap::from([
            (uri("spiffe://a/ns/*"), "any"),
            (uri("spiffe://a/ns/ci"), "ci"),
            (dns("host.example"), "host"),
            (dns("other.example"), "other"),
            (Identity::UnixUid(7), "user"),
            (Identity::UnixGid(7), "group"),
        ]);
        let of = |shown: Shown| shown.owner(|it| known.get(it).copied());
        let by = |uris: &[&str], dns: &[&str]| of(Shown::by_certificate(uris.iter().copied(), dns.iter().copied()));
        assert_eq!(by(&["spiffe://a/ns/ci"], &[]), Some("ci"));
        assert_eq!(by(&["spiffe://a/ns/x"], &[]), Some("any"));
        assert_eq!(by(&[], &["HOST.example"]), Some("host"));
        assert_eq!(by(&[], &["host.example", "other.example"]), None);
        assert_eq!(by(&["spiffe://a/ns/x", "spiffe://a/ns/ci"], &[]), Some("ci"));
        for stranger in [
            "spiffe://a/ns/",
            "spiffe://a/ns/x/y",
            "spiffe://a/ns",
            "spiffe://b/ns/x",
            "spiffe://a/ns/*/x",
            "spiffe://a/ns/*",
            "spiffe://a/ns/x?y",
            "spiffe://a/ns/ci\0",
        ] {
            let expected = (stranger == "spiffe://a/ns/ci\0").then_some("any");
            assert_eq!(by(&[stranger], &[]), expected, "{stranger}");
        }
        assert_eq!(by(&[], &["x.host.example"]), None);
        assert_eq!(of(Shown::by_socket(7, 7)), Some("user"));
        assert_eq!(of(Shown::by_socket(8, 7)), Some("group"));
        assert_eq!(of(Shown::by_socket(8, 8)), None);
    }

    #[test]
    fn patterns_end_a_path_below_a_host() {
        for good in ["spiffe://a/ns/*", "spiffe://a/*", "spiffe://a/b"] {
            assert_eq!(uri(good).objection(), None, "{good}");
        }
        for bad in ["", "spiffe://*", "spiffe:///*", "spiffe://a/*/b", "spiffe://a*/b", "a/b", "spiffe://a/b*"] {
            assert!(uri(bad).objection().is_some(), "{bad}");
        }
        assert!(dns("*.a").objection().is_some());
    }
}
