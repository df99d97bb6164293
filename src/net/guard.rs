//! Which addresses may be dialled.
//!
//! A task names any URL it likes, so without this a client of haul reaches whatever the server reaches: its own
//! loopback, the metadata service of a cloud, a database next door. The judgement is on the address that is then
//! dialled, never on text, so neither odd spellings nor a name that changes its address get around it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

use crate::net::ports;

/// What names end in that are given out by a network itself, and by nobody else: RFC 6761, 6762 (appendix G) and 8375, and what
/// routers and clusters use.
const INNER_ENDS: [&str; 11] = [
    ".localhost",
    ".internal",
    ".local",
    ".lan",
    ".home.arpa",
    ".localdomain",
    ".home",
    ".corp",
    ".intranet",
    ".private",
    ".svc",
];

/// The operator's rules. The default lets only public addresses through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Lets loopback, private, link-local and the other addresses of [`Refusal::is_private`] through.
    pub allow_private: bool,
    /// Exceptions: addresses in here are dialled whatever they are.
    pub allow_networks: Vec<IpNet>,
    /// Never dialled; stronger than every allowance.
    pub deny_networks: Vec<IpNet>,
    /// Exceptions: names whose addresses are dialled whatever they are. `*.example.com` stands for all names below, and
    /// `example.com:8080` for that port alone. An address, written as in a URL, stands for the URLs that name it.
    pub allow_hosts: Vec<String>,
    /// Names that are never asked for; stronger than every allowance. Patterns as above; an address is never dialled, whatever
    /// leads to it.
    pub deny_hosts: Vec<String>,
    /// Prefixes by which the network translates to IPv4 (RFC 6052), beside the well-known one.
    pub nat64_prefixes: Vec<Ipv6Net>,
    /// Exceptions: ports that are dialled though another protocol than HTTP is spoken there.
    pub allow_ports: Vec<u16>,
}

/// Why an address is not dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The text of each says what it is.
pub enum Refusal {
    #[error("a loopback address")]
    Loopback,
    #[error("a private address")]
    Private,
    #[error("a link-local address")]
    LinkLocal,
    #[error("an address of carrier-grade NAT")]
    CarrierNat,
    #[error("a unique-local address")]
    UniqueLocal,
    #[error("the unspecified address")]
    Unspecified,
    #[error("an address for benchmarks")]
    Benchmark,
    #[error("an address for documentation")]
    Documentation,
    #[error("a multicast address")]
    Multicast,
    #[error("the broadcast address")]
    Broadcast,
    #[error("a reserved address")]
    Reserved,
    #[error("denied by the server's configuration")]
    Denied,
    #[error("a port of another protocol than HTTP")]
    Port,
    #[error("a name of the proxy's own network")]
    InnerName,
}

impl Refusal {
    /// Returns whether `allow_private` lifts it. The others cannot be a host, or were denied by name.
    pub fn is_private(self) -> bool {
        !matches!(self, Self::Multicast | Self::Broadcast | Self::Reserved | Self::Denied | Self::Port)
    }
}

impl Guard {
    /// Judges an address by itself.
    pub fn judge(&self, ip: IpAddr) -> Result<(), Refusal> {
        self.judge_as(None, ip)
    }

    /// Judges an address that a name resolved to, or that a URL names, which is dialled at a port.
    pub fn judge_as(&self, place: Option<(&str, u16)>, ip: IpAddr) -> Result<(), Refusal> {
        let within = |networks: &[IpNet], ip: IpAddr| networks.iter().any(|network| network.contains(&ip));
        let translated = self.translated(ip).map(|inner| [Some(inner), None]);
        let inner = translated.unwrap_or_else(|| embedded(ip));
        let mut every = std::iter::once(ip).chain(inner.into_iter().flatten());
        if every.any(|ip| within(&self.deny_networks, ip) || self.is_denied(ip)) {
            return Err(Refusal::Denied);
        }
        if within(&self.allow_networks, ip) || place.is_some_and(|(name, port)| self.is_allowed(name, port)) {
            return Ok(());
        }
        let mut inner = inner.into_iter().flatten().peekable();
        if inner.peek().is_none() {
            return self.lift(kind(ip));
        }
        // The outer form is only a wrapping: what counts is where the packets end.
        for ip in inner {
            if !within(&self.allow_networks, ip) {
                self.lift(kind(ip))?;
            }
        }
        Ok(())
    }

    /// Returns whether an address stands among the hosts that are denied.
    fn is_denied(&self, ip: IpAddr) -> bool {
        !self.deny_hosts.is_empty() && matches(&self.deny_hosts, &written(ip))
    }

    /// Judges a host name before it is resolved.
    pub fn judge_name(&self, name: &str) -> Result<(), Refusal> {
        if matches(&self.deny_hosts, name) { Err(Refusal::Denied) } else { Ok(()) }
    }

    /// Judges a host name that a proxy is going to resolve: names that lead to the proxy itself, or into its network, are
    /// refused, since nobody here sees the address.
    pub fn judge_proxied_name(&self, name: &str, port: u16) -> Result<(), Refusal> {
        self.judge_name(name)?;
        let own = name.trim_end_matches('.').to_ascii_lowercase();
        let is_inner = own == "localhost"
            || INNER_ENDS.iter().any(|end| own.ends_with(end))
            || own.starts_with("metadata")
            || !own.contains('.');
        if is_inner && !self.allow_private && !self.is_allowed(name, port) {
            return Err(Refusal::InnerName);
        }
        Ok(())
    }

    fn is_allowed(&self, name: &str, port: u16) -> bool {
        self.allow_hosts.iter().any(|pattern| match pattern.rsplit_once(':') {
            // What is behind the last colon of an address of IPv6 is no number, since a bracket ends it.
            Some((host, only)) if !only.ends_with(']') => only.parse::<u16>() == Ok(port) && matches_one(host, name),
            _ => matches_one(pattern, name),
        })
    }

    /// The IPv4 address that the network's own translation makes of an address (RFC 6052, 2.2).
    fn translated(&self, ip: IpAddr) -> Option<IpAddr> {
        let IpAddr::V6(v6) = ip else { return None };
        let prefix = self.nat64_prefixes.iter().find(|prefix| prefix.contains(&v6))?;
        let octets = v6.octets();
        // Bits 64 to 71 are not part of the address.
        let first = usize::from(prefix.prefix_len()) / 8;
        let mut places = (first..16).filter(|place| *place != 8 || first == 12);
        let mut v4 = [0; 4];
        for octet in &mut v4 {
            *octet = octets[places.next()?];
        }
        Some(IpAddr::V4(v4.into()))
    }

    /// Judges a port.
    pub fn judge_port(&self, port: u16) -> Result<(), Refusal> {
        if ports::is_blocked(port) && !self.allow_ports.contains(&port) { Err(Refusal::Port) } else { Ok(()) }
    }

    fn lift(&self, refusal: Option<Refusal>) -> Result<(), Refusal> {
        match refusal {
            Some(refusal) if !(self.allow_private && refusal.is_private()) => Err(refusal),
            _ => Ok(()),
        }
    }
}

fn matches(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| matches_one(pattern, name))
}

fn matches_one(pattern: &str, name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    match pattern.strip_prefix('*') {
        // `*.example.com`: the dot stays in the suffix, so that `badexample.com` is another name.
        Some(suffix) => {
            let at = name.len().saturating_sub(suffix.len());
            name.len() > suffix.len() && name.get(at..).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
        }
        None => pattern.strip_suffix('.').unwrap_or(pattern).eq_ignore_ascii_case(name),
    }
}

/// Returns an address as the host of a URL is written, by which it is compared with patterns.
pub(super) fn written(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// The IPv4 addresses that an IPv6 address stands for, if it is a wrapping of some.
fn embedded(ip: IpAddr) -> [Option<IpAddr>; 2] {
    let IpAddr::V6(v6) = ip else { return [None, None] };
    let octets = v6.octets();
    let at = |start: usize| {
        let mut v4 = [0; 4];
        v4.copy_from_slice(&octets[start..start + 4]);
        Some(IpAddr::V4(v4.into()))
    };
    let flipped = || {
        let bits = u32::from_be_bytes([octets[12], octets[13], octets[14], octets[15]]);
        Some(IpAddr::V4(Ipv4Addr::from(!bits)))
    };
    match v6.segments() {
        // `::` and `::1` are addresses of their own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None, None],
        // Compatible (::/96), mapped (::ffff:0:0/96), translated (::ffff:0:0:0/96), NAT64 (64:ff9b::/96).
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => {
            [at(12), None]
        }
        // 6to4.
        [0x2002, ..] => [at(2), None],
        // Teredo: the server, and the client with its bits flipped.
        [0x2001, 0, ..] => [at(4), flipped()],
        _ => [None, None],
    }
}

fn kind(ip: IpAddr) -> Option<Refusal> {
    match ip {
        IpAddr::V4(v4) => kind_v4(v4),
        IpAddr::V6(v6) => kind_v6(v6),
    }
}

/// After the IANA registry of special-purpose IPv4 addresses.
fn kind_v4(ip: Ipv4Addr) -> Option<Refusal> {
    match ip.octets() {
        [0, 0, 0, 0] => Some(Refusal::Unspecified),
        [127, ..] => Some(Refusal::Loopback),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some(Refusal::Private),
        // The second is what a machine of Azure reaches its own host by, as others do by the first. It is in no registry.
        [169, 254, ..] | [168, 63, 129, 16] => Some(Refusal::LinkLocal),
        [100, 64..=127, ..] => Some(Refusal::CarrierNat),
        [198, 18 | 19, ..] => Some(Refusal::Benchmark),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Some(Refusal::Documentation),
        [224..=239, ..] => Some(Refusal::Multicast),
        [255, 255, 255, 255] => Some(Refusal::Broadcast),
        [0 | 240..=255, ..] | [192, 0, 0, _] | [192, 88, 99, _] => Some(Refusal::Reserved),
        _ => None,
    }
}

/// After the IANA registry of special-purpose IPv6 addresses. Only `2000::/3` is given out as global unicast, so all
/// that is neither in there nor named here is refused as well.
fn kind_v6(ip: Ipv6Addr) -> Option<Refusal> {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(Refusal::Unspecified),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Refusal::Loopback),
        [0xfc00..=0xfdff, ..] => Some(Refusal::UniqueLocal),
        [0xfe80..=0xfebf, ..] => Some(Refusal::LinkLocal),
        // Site-local, and the NAT64 prefix for use inside one network (RFC 8215): what is behind it is not known.
        [0xfec0..=0xfeff, ..] | [0x64, 0xff9b, 1, ..] => Some(Refusal::Private),
        [0xff00..=0xffff, ..] => Some(Refusal::Multicast),
        [0x2001, 2, 0, ..] => Some(Refusal::Benchmark),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Some(Refusal::Documentation),
        // Protocol assignments: PCP and TURN anycast, AMT, ORCHID, DS-Lite and others that serve no files.
        [0x2001, 1 | 3..=0x1ff, ..] => Some(Refusal::Reserved),
        [0x2000..=0x3fff, ..] => None,
        _ => Some(Refusal::Reserved),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_a_network_translates_is_judged_as_what_it_is() {
        let prefixes = [
            "2001:db8::/32",
            "2001:db9:100::/40",
            "2001:dba:122::/48",
            "2001:dbb:122:300::/56",
            "2001:dbc:122:344::/64",
            "2001:dbd:122:344::/96",
        ];
        let guard = Guard { nat64_prefixes: prefixes.map(|it| it.parse().unwrap()).to_vec(), ..Guard::default() };
        // The examples of RFC 6052, 2.4, each with a prefix of its own, for 192.0.2.33 and 8.8.8.8.
        for (documentation, public) in [
            ("2001:db8:c000:221::", "2001:db8:808:808::"),
            ("2001:db9:1c0:2:21::", "2001:db9:108:808:8::"),
            ("2001:dba:122:c000:2:2100::", "2001:dba:122:808:8:800::"),
            ("2001:dbb:122:3c0:0:221::", "2001:dbb:122:308:8:808::"),
            ("2001:dbc:122:344:c0:2:2100::", "2001:dbc:122:344:8:808:800::"),
            ("2001:dbd:122:344::192.0.2.33", "2001:dbd:122:344::8.8.8.8"),
        ] {
            assert_eq!(guard.judge(ip(documentation)), Err(Refusal::Documentation), "{documentation}");
            assert_eq!(guard.judge(ip(public)), Ok(()), "{public}");
        }
        assert_eq!(guard.judge(ip("2001:dbd:122:344::127.0.0.1")), Err(Refusal::Loopback));
    }

    #[test]
    fn names_of_the_own_network_of_a_proxy_are_not_asked_for() {
        let guard = Guard { allow_hosts: vec!["files.internal".into()], ..Guard::default() };
        for name in
            ["localhost", "LOCALHOST.", "a.localhost", "metadata.google.internal", "x.local", "metadata", "intranet"]
                .into_iter()
                .chain(["nas.lan", "router.home.arpa", "a.localdomain", "NAS.Home.", "git.corp", "api.default.svc"])
        {
            assert_eq!(guard.judge_proxied_name(name, 443), Err(Refusal::InnerName), "{name}");
            assert_eq!(Guard { allow_private: true, ..guard.clone() }.judge_proxied_name(name, 443), Ok(()), "{name}");
        }
        for name in
            ["files.internal", "example.com", "localhost.example.com", "xn--local.example", "vlan.example", "a.plan"]
        {
            assert_eq!(guard.judge_proxied_name(name, 443), Ok(()), "{name}");
        }
    }

    #[test]
    fn an_address_among_the_denied_hosts_is_dialled_by_nobody() {
        let denied = ["8.8.8.8", "[2606:4700::1111]"].map(str::to_owned).to_vec();
        let open = Guard { allow_private: true, allow_hosts: vec!["a.example".into()], ..Guard::default() };
        let guard = Guard { deny_hosts: denied, allow_networks: vec!["8.0.0.0/8".parse().unwrap()], ..open };
        for text in ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"] {
            assert_eq!(guard.judge(ip(text)), Err(Refusal::Denied), "{text}");
            assert_eq!(guard.judge_as(Some(("a.example", 80)), ip(text)), Err(Refusal::Denied), "{text}");
        }
        for text in ["8.8.8.9", "2606:4700::1112"] {
            assert_eq!(guard.judge(ip(text)), Ok(()), "{text}");
        }
    }

    #[test]
    fn every_kind_of_address_by_default_and_with_private_networks() {
        let open = Guard { allow_private: true, ..Guard::default() };
        let table = [
            "0.0.0.0",
            "0.1.2.3",
            "8.8.8.8",
            "10.0.0.1",
            "100.63.255.255",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.9",
            "169.254.169.254",
            "168.63.129.15",
            "168.63.129.16",
            "172.15.0.1",
            "172.31.255.255",
            "192.0.0.170",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.19.0.1",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::ffff:0:10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::808:808",
            "64:ff9b:1::808:808",
            "100::1",
            "2001:0:808:808::f5ff:fffe",
            "2001:0:808:808::f7f7:f7f7",
            "2001:1::1",
            "2001:2::1",
            "2001:10::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:808:808::",
            "2606:4700::1111",
            "3fff::1",
            "4000::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ]
        .into_iter()
        .map(|text| {
            let say = |guard: &Guard| guard.judge(ip(text)).map_or_else(|refusal| refusal.to_string(), |()| "-".into());
            format!("{text}: {} | {}\n", say(&Guard::default()), say(&open))
        })
        .collect::<Vec<String>>()
        .concat();
        insta::assert_snapshot!(table);
    }

    #[test]
    fn denial_is_stronger_than_allowance_and_sees_through_wrappings() {
        let guard = Guard {
            allow_networks: vec!["10.1.0.0/16".parse().unwrap()],
            deny_networks: vec!["10.1.9.0/24".parse().unwrap(), "8.8.8.0/24".parse().unwrap()],
            allow_hosts: vec!["*.corp.example".into(), "files".into()],
            deny_hosts: vec!["bad.example".into()],
            ..Guard::default()
        };
        assert_eq!(guard.judge(ip("10.1.2.3")), Ok(()));
        assert_eq!(guard.judge(ip("::ffff:10.1.2.3")), Ok(()));
        assert_eq!(guard.judge(ip("10.2.2.3")), Err(Refusal::Private));
        assert_eq!(guard.judge(ip("10.1.9.3")), Err(Refusal::Denied));
        assert_eq!(guard.judge(ip("64:ff9b::8.8.8.8")), Err(Refusal::Denied));
        assert_eq!(guard.judge_as(Some(("a.corp.example", 80)), ip("127.0.0.1")), Ok(()));
        assert_eq!(guard.judge_as(Some(("FILES.", 80)), ip("127.0.0.1")), Ok(()));
        assert_eq!(guard.judge_as(Some(("corp.example", 80)), ip("127.0.0.1")), Err(Refusal::Loopback));
        assert_eq!(guard.judge_as(Some(("xcorp.example", 80)), ip("127.0.0.1")), Err(Refusal::Loopback));
        assert_eq!(guard.judge_as(Some(("files", 80)), ip("8.8.8.8")), Err(Refusal::Denied));
        assert_eq!(guard.judge_name("bad.example."), Err(Refusal::Denied));
    }

    #[test]
    fn a_name_may_be_allowed_at_one_port_alone() {
        let allow_hosts =
            vec!["db.internal:5000".to_owned(), "*.corp.example:80".to_owned(), "all.internal".to_owned()];
        let guard = Guard { allow_hosts, ..Guard::default() };
        for (name, port, is_allowed) in [
            ("db.internal", 5_000, true),
            ("DB.internal.", 5_000, true),
            ("db.internal", 5_001, false),
            ("a.db.internal", 5_000, false),
            ("a.corp.example", 80, true),
            ("a.corp.example", 443, false),
            ("all.internal", 1, true),
        ] {
            assert_eq!(guard.judge_as(Some((name, port)), ip("10.0.0.1")).is_ok(), is_allowed, "{name}:{port}");
            let inner = name.ends_with("internal") || name.ends_with('.');
            assert_eq!(guard.judge_proxied_name(name, port).is_ok(), is_allowed || !inner, "{name}:{port}");
        }
    }

    proptest! {
        #[test]
        fn a_wrapping_is_judged_as_what_it_wraps(bits: u32) {
            let guard = Guard::default();
            let v4 = Ipv4Addr::from(bits);
            let [a, b, c, d] = v4.octets().map(u16::from);
            let (high, low) = (a << 8 | b, c << 8 | d);
            let plain = guard.judge(v4.into()).is_ok();
            for wrapping in [
                v4.to_ipv6_mapped(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0, 0x808, 0x808, 0, 0, !high, !low),
            ] {
                prop_assert_eq!(guard.judge(wrapping.into()).is_ok(), plain, "{}", wrapping);
            }
        }

        #[test]
        fn only_global_unicast_passes(bits: u128) {
            let ip = Ipv6Addr::from(bits);
            if Guard::default().judge(ip.into()).is_ok() && embedded(ip.into())[0].is_none() {
                prop_assert!((0x2000..=0x3fff).contains(&ip.segments()[0]));
            }
        }
    }
}
