//! Values of settings, read from their text: each function adds what is wrong to a list, and goes on.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::model::secret::Secret;

/// What stands before an address of IPv4 that is written as one of IPv6, in bits.
const MAPPED_BITS: u8 = 96;

/// Reads networks; an address is the network of itself.
pub(super) fn networks(name: &str, texts: Option<&[String]>, wrong: &mut Vec<String>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for text in texts.unwrap_or_default() {
        match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
            Ok(network) => networks.push(as_judged(network.trunc())),
            Err(_) => wrong.push(format!(
                "`{name}` has `{text}`, which is not a network; write it like `10.0.0.0/8`, `fd00::/8` or `192.0.2.1`"
            )),
        }
    }
    networks
}

/// Returns the network of IPv4 that is written as one of IPv6 (`::ffff:10.0.0.0/104`): addresses are judged as what they stand for.
fn as_judged(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    // Whoever names all of these addresses means how they are written, and not all of IPv4.
    let bits = v6.prefix_len().checked_sub(MAPPED_BITS).filter(|bits| *bits > 0);
    v6.network()
        .to_ipv4_mapped()
        .zip(bits)
        .and_then(|(ip, bits)| Ipv4Net::new(ip, bits).ok())
        .map_or(network, IpNet::V4)
}

/// Reads names of hosts, as `url` makes them of text, which is what the host of a URL is compared with.
pub(super) fn hosts(name: &str, texts: Option<&[String]>, wrong: &mut Vec<String>) -> Vec<String> {
    let mut hosts = Vec::new();
    for text in texts.unwrap_or_default() {
        match host(text) {
            Some(host) => hosts.push(host),
            None => wrong.push(format!(
                "`{name}` has `{text}`, which is not the name of a host; write it like `example.com`, without scheme, \
                 port or path"
            )),
        }
    }
    hosts
}

/// The same, where a host may have a port, which then alone is meant.
pub(super) fn hosts_and_ports(name: &str, texts: Option<&[String]>, wrong: &mut Vec<String>) -> Vec<String> {
    let mut hosts = Vec::new();
    for text in texts.unwrap_or_default() {
        let read = match text.rsplit_once(':') {
            Some((before, port)) if !port.ends_with(']') => host(before)
                .zip(port.parse().ok().filter(|port: &u16| *port > 0))
                .map(|(host, port)| format!("{host}:{port}")),
            _ => host(text),
        };
        match read {
            Some(read) => hosts.push(read),
            None => wrong.push(format!(
                "`{name}` has `{text}`, which is not the name of a host; write it like `example.com` or `example.com:8080`, \
                 without scheme or path"
            )),
        }
    }
    hosts
}

fn host(text: &str) -> Option<String> {
    let host = url::Host::parse(text).ok().filter(|_| !text.is_empty())?;
    let mapped = if let url::Host::Ipv6(ip) = &host { ip.to_ipv4_mapped() } else { None };
    Some(mapped.map_or_else(|| host.to_string(), |ip| ip.to_string()))
}

/// The most hosts that may have metrics of their own: each is five series more.
const METRICS_HOSTS_MAX: usize = 100;

/// Reads hosts with or without a port.
pub(super) fn metrics_hosts(texts: Option<&[String]>, wrong: &mut Vec<String>) -> Vec<String> {
    let texts = texts.unwrap_or_default();
    if texts.len() > METRICS_HOSTS_MAX {
        wrong.push(format!("`metrics_hosts` has {} hosts; at most {METRICS_HOSTS_MAX} are accepted", texts.len()));
    }
    let mut hosts: Vec<String> = Vec::new();
    for text in texts {
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) if port.parse::<u16>().is_ok_and(|port| port > 0) => (name, Some(port)),
            _ => (text.as_str(), None),
        };
        match url::Host::parse(name) {
            Ok(host) if !name.is_empty() => {
                let host = port.map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
                if !hosts.contains(&host) {
                    hosts.push(host);
                }
            }
            _ => wrong.push(format!(
                "`metrics_hosts` has `{text}`, which is not a host; write it like `example.com` or `example.com:443`"
            )),
        }
    }
    for host in &hosts {
        let name = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map(|(name, _)| name);
        if let Some(name) = name.filter(|name| hosts.iter().any(|it| it == name)) {
            wrong.push(format!(
                "`metrics_hosts` has `{host}` and `{name}`, which is the host with all of its ports; a request is counted for \
                 one of them, so leave one out"
            ));
        }
    }
    hosts
}

/// Reads ports that may be dialled.
pub(super) fn ports(given: Option<&[u16]>, wrong: &mut Vec<String>) -> Vec<u16> {
    let ports = given.unwrap_or_default().to_vec();
    if ports.contains(&0) {
        wrong.push("`allow_ports` has `0`, and there is no such port; write ports from 1 to 65535".to_owned());
    }
    ports
}

/// Reads prefixes of RFC 6052.
pub(super) fn nat64_prefixes(texts: Option<&[String]>, wrong: &mut Vec<String>) -> Vec<Ipv6Net> {
    let mut prefixes = Vec::new();
    for text in texts.unwrap_or_default() {
        match text.parse::<Ipv6Net>() {
            Ok(prefix) if matches!(prefix.prefix_len(), 32 | 40 | 48 | 56 | 64 | 96) => prefixes.push(prefix),
            _ => wrong.push(format!(
                "`nat64_prefixes` has `{text}`, which is not an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits (RFC 6052)"
            )),
        }
    }
    prefixes
}

/// Reads the URL of a proxy, which may hold a password and so is not repeated.
pub(super) fn egress_proxy(text: &str, wrong: &mut Vec<String>) -> Option<Secret> {
    let fits = |url: &url::Url| {
        ["http", "https", "socks5", "socks5h"].contains(&url.scheme())
            && url.host_str().is_some_and(|it| !it.is_empty())
    };
    if url::Url::parse(text).is_ok_and(|url| fits(&url)) {
        return Some(Secret::new(text));
    }
    wrong.push("`egress_proxy` must be an absolute URL of scheme http, https, socks5 or socks5h".to_owned());
    None
}

/// What every timer can still count, and who writes more means no less than that.
const DURATION_MAX: Duration = Duration::from_secs(3_600 * 24 * 365 * 10);

/// Reads a time, of ten years at most; `default` where nothing is said.
pub(super) fn duration(name: &str, text: Option<&str>, default: Duration, wrong: &mut Vec<String>) -> Duration {
    let Some(text) = text else { return default };
    let time = parse_duration(text).unwrap_or_else(|| {
        wrong.push(format!("`{name}` is `{text}`, which is not a time; write it like `500ms`, `10s`, `5m` or `1h`"));
        default
    });
    time.min(DURATION_MAX)
}

/// Reads a time of hours or days that is more than none; `default` where nothing is said.
pub(super) fn lifetime(name: &str, text: Option<&str>, default: Duration, wrong: &mut Vec<String>) -> Duration {
    let Some(text) = text else { return default };
    parse_lifetime(text).filter(|time| !time.is_zero()).unwrap_or_else(|| {
        wrong.push(format!("`{name}` is `{text}`, which is not a time; write it like `12h` or `90d`"));
        default
    })
}

/// Reads a duration: a number with a unit (`ms`, `s`, `m`, `h`), or seconds without one; `None` when it is neither.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

/// Reads a duration as [`parse_duration`] does, or in days (`90d`).
pub(crate) fn parse_lifetime(text: &str) -> Option<Duration> {
    match text.trim().strip_suffix('d') {
        Some(days) => Duration::try_from_secs_f64(days.trim().parse::<f64>().ok()? * 86_400.0).ok(),
        None => parse_duration(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let millis = |text| parse_duration(text).map(|time| time.as_millis());
        let texts = ["250ms", "10", "1.5s", " 5 m ", "1h", "0"];
        assert_eq!(texts.map(|text| millis(text).unwrap()), [250, 10_000, 1_500, 300_000, 3_600_000, 0]);
        for text in ["", "s", "1d", "-1s", "1.2.3s", "9999999999999999999999h"] {
            assert_eq!(millis(text), None, "{text}");
        }
    }

    #[test]
    fn a_time_is_one_that_timers_count() {
        let mut wrong = Vec::new();
        let read = duration("answer_idle", Some("10000000000000000000"), Duration::ZERO, &mut wrong);
        assert!(wrong.is_empty() && read > Duration::from_hours(24 * 365), "{read:?}");
        assert!(tokio::time::Instant::now().checked_add(read * 20).is_some(), "some are multiplied");
    }

    #[test]
    fn what_is_written_as_ipv6_and_is_ipv4_is_read_as_that() {
        let mut wrong = Vec::new();
        let texts = ["::ffff:10.0.0.0/104", "::ffff:192.0.2.7", "::/0", "::ffff:0:0/96", "fd00::/8"].map(str::to_owned);
        let read: Vec<_> = networks("n", Some(&texts), &mut wrong).iter().map(ToString::to_string).collect();
        assert_eq!(read, ["10.0.0.0/8", "192.0.2.7/32", "::/0", "::ffff:0.0.0.0/96", "fd00::/8"]);
        let texts = ["[::ffff:192.0.2.7]", "[2001:DB8::1]"].map(str::to_owned);
        assert_eq!(hosts("h", Some(&texts), &mut wrong), ["192.0.2.7", "[2001:db8::1]"]);
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn a_host_has_series_of_its_own_by_one_name() {
        let wrong = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            let mut wrong = Vec::new();
            metrics_hosts(Some(&texts), &mut wrong);
            wrong.join("\n")
        };
        assert_eq!(wrong(&["a.example:443", "a.example:80", "b.example"]), "");
        let said = wrong(&["a.example", "b.example", "a.example:443"]);
        assert!(said.contains("`a.example:443` and `a.example`"), "{said}");
    }
}
