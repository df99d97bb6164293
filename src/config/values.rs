//! Values of settings, read from their text: each function adds what is wrong to a list, and goes on.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

/// Reads networks; an address is the network of itself.
pub(super) fn networks(name: &str, texts: Option<&[String]>, wrong: &mut Vec<String>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for text in texts.unwrap_or_default() {
        match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
            Ok(network) => networks.push(network.trunc()),
            Err(_) => wrong.push(format!(
                "`{name}` has `{text}`, which is not a network; write it like `10.0.0.0/8`, `fd00::/8` or `192.0.2.1`"
            )),
        }
    }
    networks
}

/// Reads names of hosts, as `url` makes them of text, which is what the host of a URL is compared with.
pub(super) fn hosts(name: &str, texts: Option<&[String]>, wrong: &mut Vec<String>) -> Vec<String> {
    let mut hosts = Vec::new();
    for text in texts.unwrap_or_default() {
        match url::Host::parse(text) {
            Ok(host) if !text.is_empty() => hosts.push(host.to_string()),
            _ => wrong.push(format!(
                "`{name}` has `{text}`, which is not the name of a host; write it like `example.com`, without scheme, \
                 port or path"
            )),
        }
    }
    hosts
}

/// Reads a time; `default` where nothing is said.
pub(super) fn duration(name: &str, text: Option<&str>, default: Duration, wrong: &mut Vec<String>) -> Duration {
    let Some(text) = text else { return default };
    parse_duration(text).unwrap_or_else(|| {
        wrong.push(format!("`{name}` is `{text}`, which is not a time; write it like `500ms`, `10s`, `5m` or `1h`"));
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
}
