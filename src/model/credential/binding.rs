//! To what a credential is bound: which requests it goes with, and whose jobs may use it. Pure.
//!
//! What is compared is the URL as it is sent: parsed, with its dot segments resolved and its host in A-labels. What origins
//! read in more than one way never matches, so that no reading of it is of another place.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::{Host, Url};

use crate::model::failure::is_default;
use crate::model::made_by::PrincipalNo;
use crate::model::method;

/// Methods that go with a credential which names none.
const METHODS_DEFAULT: [&str; 2] = ["GET", "HEAD"];
/// Parts of a path that origins read in more than one way, in lower case. No prefix of a path has one.
const SEPARATORS: [&str; 7] = ["//", "\\", ";", "%2f", "%5c", "%2e", "%3b"];
/// More of them, that no URL may have: what is encoded twice, control characters (the first of which ends a text in C), and bytes
/// that some read as separators since they are no UTF-8.
const DISGUISED: [&str; 11] = ["%25", "%0", "%1", "%7f", "%c0", "%c1", "%e0%8", "%e0%9", "%f0%8", "%f8%8", "%fc%8"];
/// Labels that the suffix behind `*.` has at least: `*.com` would be everybody's.
const SUFFIX_LABELS_MIN: usize = 2;

/// To what a credential is bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Binding {
    /// Where it may go; none: nowhere.
    pub hosts: Vec<HostPattern>,
    /// Below which paths; none: all.
    #[serde(skip_serializing_if = "is_default")]
    pub path_prefixes: Vec<PathPrefix>,
    /// With which methods; none: GET and HEAD.
    #[serde(skip_serializing_if = "is_default")]
    pub methods: Vec<String>,
    /// Whether it may go unencrypted.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_http: bool,
    /// Whose jobs may use it; none: those of every submitter of the tenant.
    #[serde(skip_serializing_if = "is_default")]
    pub users: BTreeSet<PrincipalNo>,
    /// Whether answers are taken that hold it.
    #[serde(skip_serializing_if = "is_default")]
    pub skip_echo_scan: bool,
}

impl Binding {
    /// Returns whether the credential goes with a request.
    pub fn fits(&self, method: &str, url: &Url) -> bool {
        let is_encrypted = url.scheme() == "https";
        let has_scheme = is_encrypted || (self.allow_http && url.scheme() == "http");
        let has_user = !url.username().is_empty() || url.password().is_some();
        has_scheme
            && !has_user
            && self.allows(method)
            && self.hosts.iter().any(|pattern| pattern.fits(url))
            && self.covers_path(url.path())
    }

    /// Returns whether jobs of this principal may use it.
    pub fn serves(&self, user: PrincipalNo) -> bool {
        self.users.is_empty() || self.users.contains(&user)
    }

    /// Returns what this binding allows and `other` does not, as the name of the first such field; `None`: it is as narrow.
    pub fn wider_than(&self, other: &Binding) -> Option<&'static str> {
        let methods = |binding: &Binding| -> Vec<String> {
            let own = binding.methods.clone();
            if own.is_empty() { METHODS_DEFAULT.map(str::to_owned).to_vec() } else { own }
        };
        let known = methods(other);
        if !self.hosts.iter().all(|host| other.hosts.iter().any(|old| old.covers(host))) {
            return Some("hosts");
        }
        let is_below = |prefix: &PathPrefix| other.path_prefixes.iter().any(|old| old.covers(&prefix.0));
        let has_paths = other.path_prefixes.is_empty()
            || (!self.path_prefixes.is_empty() && self.path_prefixes.iter().all(is_below));
        if !has_paths {
            return Some("path_prefixes");
        }
        if !methods(self).iter().all(|method| known.contains(method)) {
            return Some("methods");
        }
        if self.allow_http && !other.allow_http {
            return Some("allow_http");
        }
        if !other.users.is_empty() && (self.users.is_empty() || !self.users.is_subset(&other.users)) {
            return Some("users");
        }
        (self.skip_echo_scan && !other.skip_echo_scan).then_some("skip_echo_scan")
    }

    fn allows(&self, method: &str) -> bool {
        if self.methods.is_empty() {
            return METHODS_DEFAULT.contains(&method);
        }
        self.methods.iter().any(|own| own == method)
    }

    fn covers_path(&self, path: &str) -> bool {
        !is_ambiguous(path)
            && (self.path_prefixes.is_empty() || self.path_prefixes.iter().any(|prefix| prefix.covers(path)))
    }
}

/// Returns whether origins may read a path in more than one way.
fn is_ambiguous(path: &str) -> bool {
    let is_no_digits = |after: &str| after.bytes().take(2).filter(u8::is_ascii_hexdigit).count() < 2;
    has_any(path, &SEPARATORS) || has_any(path, &DISGUISED) || path.split('%').skip(1).any(is_no_digits)
}

fn has_any(path: &str, parts: &[&str]) -> bool {
    let path = path.to_ascii_lowercase();
    parts.iter().any(|part| path.contains(part))
}

/// Returns why a credential cannot go with this method; `None` where it can.
pub fn method_objection(text: &str) -> Option<String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || text.len() > 32 || !text.bytes().all(is_token) {
        return Some("is not a method (RFC 9110, 9.1)".to_owned());
    }
    method::objection(text).map(|why| (*why).to_owned())
}

/// A host that a credential may go to, with the subdomains of a name where it begins with `*.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    /// As URLs have it: a name of A-labels in lower case, or an address.
    name: String,
    /// Whether it is what stands behind `*.`.
    is_suffix: bool,
    /// `None`: the one of the scheme.
    port: Option<u16>,
}

impl HostPattern {
    fn fits(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        let default = if url.scheme() == "https" { 443 } else { 80 };
        let has_port = url.port().unwrap_or(default) == self.port.unwrap_or(default);
        let is_name = matches!(url.host(), Some(Host::Domain(_)));
        let has_name = if self.is_suffix { is_name && is_below(host, &self.name) } else { host == self.name };
        has_port && has_name && !host.ends_with('.')
    }

    /// Returns whether this pattern is for whatever `other` is for.
    fn covers(&self, other: &HostPattern) -> bool {
        let has_name = match (self.is_suffix, other.is_suffix) {
            (true, true) => self.name == other.name || is_below(&other.name, &self.name),
            (true, false) => other.is_name() && is_below(&other.name, &self.name),
            (false, true) => false,
            (false, false) => self.name == other.name,
        };
        has_name && self.port == other.port
    }

    fn is_name(&self) -> bool {
        matches!(Host::parse(&self.name), Ok(Host::Domain(_)))
    }
}

/// Returns whether a name has one label or more before `suffix`.
fn is_below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).and_then(|rest| rest.strip_suffix('.')).is_some_and(|rest| !rest.is_empty())
}

/// Why a text is no pattern of a host, or no prefix of a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadPattern(&'static str);

impl FromStr for HostPattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "is not a host; write it as `api.example.com`, `api.example.com:8443` or `*.example.com`";
        if text.is_empty() || text.len() > 260 || text.contains(|letter: char| "/\\@?#%".contains(letter)) {
            return Err(BadPattern(RULE));
        }
        if text.chars().any(|letter| letter.is_whitespace() || letter.is_control()) {
            return Err(BadPattern(RULE));
        }
        let (is_suffix, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (name, port) = match rest.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, Some(port)),
            _ => (rest, None),
        };
        let is_number = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = match port {
            Some(port) if is_number(port) => Some(port.parse().map_err(|_| BadPattern(RULE))?),
            Some(_) => return Err(BadPattern(RULE)),
            None => None,
        };
        if port == Some(0) {
            return Err(BadPattern("has the port 0, which cannot be connected to"));
        }
        let host = Host::parse(name).map_err(|_| BadPattern(RULE))?;
        match &host {
            Host::Domain(name) => {
                if name.contains('*') {
                    return Err(BadPattern("has a `*` that is not its first label"));
                }
                if name.split('.').any(str::is_empty) {
                    return Err(BadPattern("has an empty label, or a dot at its end"));
                }
                if is_suffix && name.split('.').count() < SUFFIX_LABELS_MIN {
                    return Err(BadPattern("has fewer than two labels after `*.`"));
                }
            }
            Host::Ipv4(_) | Host::Ipv6(_) if is_suffix => {
                return Err(BadPattern("has `*.` before an address"));
            }
            Host::Ipv4(_) | Host::Ipv6(_) => {}
        }
        Ok(HostPattern { name: host.to_string(), is_suffix, port })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_suffix { "*." } else { "" })?;
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// A path below which a credential may go, in whole segments: `/v1` is for `/v1` and `/v1/x`, and not for `/v12`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPrefix(String);

impl PathPrefix {
    fn covers(&self, path: &str) -> bool {
        path.strip_prefix(self.0.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl PathPrefix {
    /// Returns why no URL is below this path; `None` where some are. One that is stored is read all the same.
    pub fn objection(&self) -> Option<&'static str> {
        is_ambiguous(&self.0).then_some(
            "can be no part of a URL that a credential goes to; leave out `%25`, percent-encoded control characters, bytes \
             that are no UTF-8, and a `%` without two digits",
        )
    }
}

impl FromStr for PathPrefix {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "is not a path; write it as `/v1/items`, without `?`, `#`, `//`, `;`, `\\`, dot segments and \
                            percent-encoded separators";
        let mut url = Url::parse("https://host/").map_err(|_| BadPattern(RULE))?;
        let is_path = text.starts_with('/') && !text.contains(['?', '#']) && !text.chars().any(char::is_control);
        if !is_path
            || has_any(text, &SEPARATORS)
            || text.len() > 1024
            || text.split('/').any(|part| matches!(part, "." | ".."))
        {
            return Err(BadPattern(RULE));
        }
        url.set_path(text);
        Ok(PathPrefix(url.path().trim_end_matches('/').to_owned()))
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "/" } else { &self.0 })
    }
}

/// Stores a pattern as the text that people write.
macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(HostPattern, PathPrefix);

#[cfg(test)]
#[path = "binding_tests.rs"]
mod tests;
