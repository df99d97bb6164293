//! Who calls, as far as a certificate says it: the names in it, and whom the operator says they are. Pure.

/// A name of a certificate, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who calls with it.
    pub principal: String,
    /// The name that stands in the certificate.
    pub name: CertificateName,
}

/// A subject alternative name. The common name of a certificate never counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateName {
    /// A URI, as SPIFFE has them. A last segment `*` stands for any one segment.
    Uri(String),
    /// A DNS name, in lower case.
    Dns(String),
}

impl CertificateName {
    /// Returns why a name cannot be one; `None` where it can.
    pub fn objection(&self) -> Option<&'static str> {
        match self {
            Self::Dns(name) if name.is_empty() || name.contains('*') => Some("has to be one name, written in full"),
            Self::Uri(uri) => {
                let path = uri.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
                let literal = uri.strip_suffix("/*").unwrap_or(uri);
                let has_host = path.is_some_and(|(host, _)| !host.is_empty());
                (!has_host || literal.contains('*'))
                    .then_some("has to be a URI with a host and a path; only its last segment may be `*`")
            }
            Self::Dns(_) => None,
        }
    }
}

/// Returns whose a certificate with these names is; `None` where nobody is named, or several are.
///
/// A URI that is named in full goes before one that a `*` stands for.
pub fn principal_of<'a>(identities: &'a [Identity], uris: &[&str], dns: &[&str]) -> Option<&'a str> {
    let exact = identities.iter().filter(|identity| match &identity.name {
        CertificateName::Uri(name) => uris.contains(&name.as_str()) && !name.ends_with("/*"),
        CertificateName::Dns(name) => dns.iter().any(|it| it.eq_ignore_ascii_case(name)),
    });
    let exact: Vec<_> = exact.collect();
    let found = if exact.is_empty() {
        identities
            .iter()
            .filter(|it| matches!(&it.name, CertificateName::Uri(name) if uris.iter().any(|uri| is_below(name, uri))))
            .collect()
    } else {
        exact
    };
    let first = found.first()?.principal.as_str();
    found.iter().all(|identity| identity.principal == first).then_some(first)
}

/// Returns whether `uri` is what `pattern`, which ends in `/*`, stands for.
fn is_below(pattern: &str, uri: &str) -> bool {
    let rest = pattern.strip_suffix('*').and_then(|parent| uri.strip_prefix(parent));
    rest.is_some_and(|segment| !segment.is_empty() && !segment.contains(['/', '?', '#']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(principal: &str, name: &str) -> Identity {
        Identity { principal: principal.into(), name: CertificateName::Uri(name.into()) }
    }

    #[test]
    fn the_exact_name_goes_before_the_pattern_and_two_principals_are_none() {
        let dns = |principal: &str, name: &str| Identity {
            principal: principal.into(),
            name: CertificateName::Dns(name.into()),
        };
        let known = [
            uri("any", "spiffe://a/ns/*"),
            uri("ci", "spiffe://a/ns/ci"),
            dns("host", "host.example"),
            dns("other", "other.example"),
        ];
        assert_eq!(principal_of(&known, &["spiffe://a/ns/ci"], &[]), Some("ci"));
        assert_eq!(principal_of(&known, &["spiffe://a/ns/x"], &[]), Some("any"));
        assert_eq!(principal_of(&known, &[], &["HOST.example"]), Some("host"));
        assert_eq!(principal_of(&known, &[], &["host.example", "other.example"]), None);
        for stranger in [
            "spiffe://a/ns/",
            "spiffe://a/ns/x/y",
            "spiffe://a/ns",
            "spiffe://b/ns/x",
            "spiffe://a/ns/*/x",
            "spiffe://a/ns/x?y",
        ] {
            assert_eq!(principal_of(&known, &[stranger], &[]), None, "{stranger}");
        }
        assert_eq!(principal_of(&known, &[], &["x.host.example"]), None);
    }

    #[test]
    fn patterns_end_a_path_below_a_host() {
        for good in ["spiffe://a/ns/*", "spiffe://a/*", "spiffe://a/b"] {
            assert_eq!(CertificateName::Uri(good.into()).objection(), None, "{good}");
        }
        for bad in ["", "spiffe://*", "spiffe:///*", "spiffe://a/*/b", "spiffe://a*/b", "a/b", "spiffe://a/b*"] {
            assert!(CertificateName::Uri(bad.into()).objection().is_some(), "{bad}");
        }
        assert!(CertificateName::Dns("*.a".into()).objection().is_some());
    }
}
