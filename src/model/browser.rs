//! Whether a request may come from where it comes: what keeps the web pages of others away from a server. Pure.
//!
//! A page in a browser beside the server can send requests to it, and can let its own name lead to the server's address.
//! So a request that a browser could have sent must name this server by a name that is its own, and come from a page of
//! its own or of an origin that the operator listed. It is judged before anything runs: the rules of browsers alone would
//! only keep the answer from a page whose call is done by then.

use std::net::{Ipv4Addr, Ipv6Addr};

/// What the operator allows beside the server's own names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrowserRules {
    /// Names under which browsers may reach the server, in lower case, without a port.
    pub hosts: Vec<String>,
    /// Origins whose pages may call the server, as browsers write them (`https://example.com`).
    pub origins: Vec<String>,
}

/// What the head of a request says about where it comes from.
#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // Each is a fact of its own, which the rules combine.
pub struct Asked<'a> {
    /// Whether it came over HTTP/1.
    pub is_http1: bool,
    /// Whether it came over TLS that ends in this process.
    pub is_tls: bool,
    /// Whether it is gRPC over its own content type, which no page can send over HTTP/2.
    pub is_grpc: bool,
    /// Whether it asks for nothing but whether the server is well, which anybody may know by any name.
    pub is_probe: bool,
    /// Whether somebody goes to a page of the dashboard, by a link of whatever page. The page holds no data, and what it asks
    /// for it asks for itself.
    pub is_visit: bool,
    /// Whether it asks what another request may do (`OPTIONS` with `Access-Control-Request-Method`).
    pub is_preflight: bool,
    /// The authority of its target, else each `Host`.
    pub authorities: Vec<&'a str>,
    /// Each `Origin`.
    pub origins: Vec<&'a str>,
    /// Each `Sec-Fetch-Site`.
    pub fetch_sites: Vec<&'a str>,
    /// Whether it has `authorization` where that is needed. A page cannot make its visitor's browser add that, so the name
    /// by which it reached the server does not matter then.
    pub is_authorized: bool,
    /// Whether it has any `Sec-Fetch-*`, which browsers add and pages cannot.
    pub has_fetch_metadata: bool,
    /// The DNS names of the server's certificate, in lower case; `*.` stands for one label.
    pub certificate_names: &'a [String],
}

/// The decision over a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It goes on.
    Passes,
    /// It goes on, and its answer may be read by pages of this origin.
    PassesTo(&'a str),
    /// It is answered with what pages of this origin may send.
    Preflight(&'a str),
    /// It is refused, and nothing runs.
    Refused(Foreign),
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// It names another host than this server, or none, or several.
    Authority,
    /// It comes from a page of another origin.
    Origin,
}

impl Asked<'_> {
    /// Returns whether a page of this server sent a request that the rules let pass: a listed origin is another one. gRPC of
    /// its own content type over HTTP/2 is sent by no page.
    pub fn is_of_own_page(&self) -> bool {
        if self.is_grpc && !self.is_http1 {
            return false;
        }
        let authority = match self.authorities[..] {
            [authority] => Authority::parse(authority),
            _ => None,
        };
        match (&self.fetch_sites[..], &self.origins[..], authority) {
            (["same-origin"], _, _) => true,
            ([], [origin], Some(authority)) => is_same(origin, &authority, self.is_tls),
            _ => false,
        }
    }
}

impl BrowserRules {
    /// Judges a request by its head: the host that it names first, then the origin, then what the browser says itself.
    pub fn judge<'a>(&self, asked: &Asked<'a>) -> Verdict<'a> {
        let is_from_browser = !asked.origins.is_empty() || asked.has_fetch_metadata;
        let may_name_any_host = asked.is_probe || (!asked.is_http1 && asked.is_grpc);
        if may_name_any_host && !is_from_browser {
            return Verdict::Passes;
        }
        let authority = match asked.authorities[..] {
            [authority] => {
                Authority::parse(authority).filter(|it| asked.is_authorized || self.is_own(it, asked.certificate_names))
            }
            _ => None,
        };
        let Some(authority) = authority else { return Verdict::Refused(Foreign::Authority) };
        let origin = match asked.origins[..] {
            [] => None,
            [origin] => Some(origin),
            _ => return Verdict::Refused(Foreign::Origin),
        };
        let listed = origin.filter(|origin| self.origins.iter().any(|it| it == origin));
        if listed.is_none() && origin.is_some_and(|origin| !is_same(origin, &authority, asked.is_tls)) {
            return Verdict::Refused(Foreign::Origin);
        }
        if asked.is_preflight && origin.is_some() {
            return listed.map_or(Verdict::Refused(Foreign::Origin), Verdict::Preflight);
        }
        if let Some(listed) = listed {
            return Verdict::PassesTo(listed);
        }
        match asked.fetch_sites[..] {
            [] | ["same-origin" | "none"] => Verdict::Passes,
            [_] if asked.is_visit && origin.is_none() => Verdict::Passes,
            _ => Verdict::Refused(Foreign::Origin),
        }
    }

    /// Returns whether no page of others can have this host as its own. A page's host is always a name, since an address
    /// leads to whoever has it; of names, only those that are this server's count.
    fn is_own(&self, authority: &Authority<'_>, certificate_names: &[String]) -> bool {
        let host = authority.host;
        let is_literal = host.parse::<Ipv4Addr>().is_ok()
            || host
                .strip_prefix('[')
                .and_then(|it| it.strip_suffix(']'))
                .is_some_and(|it| it.parse::<Ipv6Addr>().is_ok());
        is_literal
            || host.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host))
            || certificate_names.iter().any(|name| covers(name, host))
    }
}

/// Returns whether a name of a certificate is that of a host.
fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(parent) => {
            host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && parent.eq_ignore_ascii_case(rest))
        }
        None => name.eq_ignore_ascii_case(host),
    }
}

/// Returns whether an origin is the host that the request names. A proxy may end TLS in front of a server that does not.
fn is_same(origin: &str, own: &Authority<'_>, is_tls: bool) -> bool {
    let (default_port, rest) = match origin.split_once("://") {
        Some(("https", rest)) => (443, rest),
        Some(("http", rest)) if !is_tls => (80, rest),
        _ => return false,
    };
    let Some(theirs) = Authority::parse(rest) else { return false };
    theirs.host.eq_ignore_ascii_case(own.host)
        && theirs.port.unwrap_or(default_port) == own.port.unwrap_or(default_port)
}

/// A host, and the port if it is written.
#[derive(Debug, PartialEq, Eq)]
struct Authority<'a> {
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    fn parse(text: &'a str) -> Option<Authority<'a>> {
        // A colon within brackets is part of an address.
        let at = text.rfind(':').filter(|at| !text[*at..].contains(']'));
        let (host, port) = at.map_or((text, None), |at| (&text[..at], Some(&text[at + 1..])));
        let is_digits = |port: &str| !port.is_empty() && port.bytes().all(|it| it.is_ascii_digit());
        let port = match port {
            Some(port) if is_digits(port) => Some(port.parse().ok()?),
            Some(_) => return None,
            None => None,
        };
        let is_odd = |letter: char| letter.is_whitespace() || matches!(letter, '@' | '/' | '\\' | '?' | '#');
        (!host.is_empty() && !host.contains(is_odd)).then_some(Authority { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> BrowserRules {
        BrowserRules { hosts: vec!["haul.lan".into()], origins: vec!["https://dash.example".into()] }
    }

    fn web<'a>(host: &'a str, origin: Option<&'a str>) -> Asked<'a> {
        Asked { is_http1: true, authorities: vec![host], origins: origin.into_iter().collect(), ..Asked::default() }
    }

    const FOREIGN_HOST: Verdict<'_> = Verdict::Refused(Foreign::Authority);
    const FOREIGN_ORIGIN: Verdict<'_> = Verdict::Refused(Foreign::Origin);

    #[test]
    fn pages_of_the_server_are_those_that_the_browser_or_their_origin_says() {
        let own = web("localhost:1", Some("http://localhost:1"));
        assert!(own.is_of_own_page());
        assert!(Asked { origins: Vec::new(), fetch_sites: vec!["same-origin"], ..own.clone() }.is_of_own_page());
        for other in [
            Asked { origins: Vec::new(), ..own.clone() },
            Asked { origins: vec!["http://localhost:2"], ..own.clone() },
            Asked { origins: vec!["https://dash.example"], ..own.clone() },
            Asked { fetch_sites: vec!["cross-site"], ..own.clone() },
            Asked { fetch_sites: vec!["same-site"], ..own.clone() },
            Asked { fetch_sites: vec!["none"], ..own.clone() },
            Asked { fetch_sites: vec!["same-origin", "same-origin"], ..own.clone() },
            Asked { is_tls: true, ..own.clone() },
            Asked { is_grpc: true, is_http1: false, fetch_sites: vec!["same-origin"], ..own.clone() },
        ] {
            assert!(!other.is_of_own_page(), "{other:?}");
        }
    }

    #[test]
    fn a_host_is_an_address_or_an_own_name() {
        let names = ["a.example".to_owned(), "*.b.example".to_owned()];
        for good in [
            "127.0.0.1:4285",
            "127.0.0.1",
            "[::1]:4285",
            "[::1]",
            "LocalHost:1",
            "192.0.2.7",
            "haul.lan",
            "HAUL.lan:80",
            "A.example",
            "x.b.example:443",
        ] {
            let asked = Asked { certificate_names: &names, ..web(good, None) };
            assert_eq!(rules().judge(&asked), Verdict::Passes, "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil.localhost",
            "localhost.",
            "haul.lan.",
            "127.1",
            "2130706433",
            "0x7f.0.0.1",
            "::1",
            "[::1",
            "[evil]",
            "x@127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:x",
            "127.0.0.1:99999",
            "127.0.0.1/x",
            "y.x.b.example",
            "b.example",
            ".b.example",
            "127.0.0.1 ",
            "127.0.0.1:+80",
        ] {
            let asked = Asked { certificate_names: &names, ..web(bad, None) };
            assert_eq!(rules().judge(&asked), FOREIGN_HOST, "{bad}");
        }
        for several in [vec![], vec!["127.0.0.1", "127.0.0.1"]] {
            assert_eq!(rules().judge(&Asked { authorities: several, ..web("", None) }), FOREIGN_HOST);
        }
    }

    #[test]
    fn an_origin_is_the_own_host_or_a_listed_one() {
        for (host, origin, is_tls, verdict) in [
            ("localhost:4285", "http://localhost:4285", false, Verdict::Passes),
            ("localhost:80", "http://localhost", false, Verdict::Passes),
            ("haul.lan", "https://haul.lan", false, Verdict::Passes),
            ("haul.lan", "https://haul.lan:443", true, Verdict::Passes),
            ("haul.lan", "http://haul.lan", true, FOREIGN_ORIGIN),
            ("[::1]:4285", "http://[::1]:4285", false, Verdict::Passes),
            ("localhost:4285", "http://localhost:4286", false, FOREIGN_ORIGIN),
            ("localhost:4285", "http://127.0.0.1:4285", false, FOREIGN_ORIGIN),
            ("localhost", "null", false, FOREIGN_ORIGIN),
            ("localhost", "", false, FOREIGN_ORIGIN),
            ("localhost", "ftp://localhost", false, FOREIGN_ORIGIN),
            ("localhost", "http://localhost.evil", false, FOREIGN_ORIGIN),
            ("localhost", "https://dash.example", false, Verdict::PassesTo("https://dash.example")),
            ("localhost", "http://dash.example", false, FOREIGN_ORIGIN),
            ("localhost", "https://dash.example.evil", false, FOREIGN_ORIGIN),
            ("evil", "https://dash.example", false, FOREIGN_HOST),
        ] {
            let asked = Asked { is_tls, ..web(host, Some(origin)) };
            assert_eq!(rules().judge(&asked), verdict, "{host} {origin}");
        }
        let twice = Asked { origins: vec!["http://localhost"; 2], ..web("localhost", None) };
        assert_eq!(rules().judge(&twice), FOREIGN_ORIGIN);
    }

    #[test]
    fn what_the_browser_says_of_a_page_counts() {
        for (sites, verdict) in [
            (vec!["none"], Verdict::Passes),
            (vec!["same-origin"], Verdict::Passes),
            (vec!["same-site"], FOREIGN_ORIGIN),
            (vec!["cross-site"], FOREIGN_ORIGIN),
            (vec!["none", "none"], FOREIGN_ORIGIN),
            (vec!["new"], FOREIGN_ORIGIN),
        ] {
            let asked = Asked { fetch_sites: sites.clone(), has_fetch_metadata: true, ..web("localhost", None) };
            assert_eq!(rules().judge(&asked), verdict, "{sites:?}");
        }
        let listed = Asked { fetch_sites: vec!["cross-site"], ..web("localhost", Some("https://dash.example")) };
        assert_eq!(rules().judge(&listed), Verdict::PassesTo("https://dash.example"));
    }

    #[test]
    fn links_of_others_lead_to_pages() {
        let visit = |host| Asked {
            fetch_sites: vec!["cross-site"],
            has_fetch_metadata: true,
            is_visit: true,
            ..web(host, None)
        };
        assert_eq!(rules().judge(&visit("localhost")), Verdict::Passes);
        assert_eq!(rules().judge(&visit("evil")), FOREIGN_HOST);
        assert_eq!(rules().judge(&Asked { origins: vec!["http://evil"], ..visit("localhost") }), FOREIGN_ORIGIN);
        assert_eq!(rules().judge(&Asked { fetch_sites: vec!["cross-site"; 2], ..visit("localhost") }), FOREIGN_ORIGIN);
    }

    #[test]
    fn preflights_are_answered_for_listed_origins_alone() {
        let ask = |origin| Asked { is_preflight: true, ..web("localhost", Some(origin)) };
        assert_eq!(rules().judge(&ask("https://dash.example")), Verdict::Preflight("https://dash.example"));
        assert_eq!(rules().judge(&ask("http://localhost")), FOREIGN_ORIGIN);
        assert_eq!(rules().judge(&ask("http://evil")), FOREIGN_ORIGIN);
    }

    #[test]
    fn probes_may_name_any_host() {
        let probe = || Asked { is_probe: true, ..web("haul.default.svc", None) };
        assert_eq!(rules().judge(&probe()), Verdict::Passes);
        assert_eq!(rules().judge(&Asked { is_http1: false, ..probe() }), Verdict::Passes);
        assert_eq!(rules().judge(&Asked { has_fetch_metadata: true, ..probe() }), FOREIGN_HOST);
    }

    #[test]
    fn what_no_page_can_send_may_use_any_name_and_no_other_origin() {
        let sent = |origin| Asked { is_authorized: true, ..web("evil.example", origin) };
        assert_eq!(rules().judge(&sent(None)), Verdict::Passes);
        assert_eq!(rules().judge(&sent(Some("http://other.example"))), FOREIGN_ORIGIN);
        assert_eq!(rules().judge(&Asked { authorities: vec![], ..sent(None) }), FOREIGN_HOST);
    }

    #[test]
    fn grpc_without_a_browser_may_name_any_host() {
        let grpc = || Asked { is_http1: false, is_grpc: true, ..web("haul.default.svc", None) };
        assert_eq!(rules().judge(&grpc()), Verdict::Passes);
        assert_eq!(rules().judge(&Asked { is_grpc: false, ..grpc() }), FOREIGN_HOST);
        assert_eq!(rules().judge(&Asked { has_fetch_metadata: true, ..grpc() }), FOREIGN_HOST);
        assert_eq!(rules().judge(&Asked { origins: vec!["null"], ..grpc() }), FOREIGN_HOST);
    }
}
