//! How long an origin asks to be left alone: `Retry-After` (RFC 9110, section 10.2.3), else the `RateLimit` headers of
//! the IETF drafts, in their older form (`RateLimit-Reset: 30`) and their newer (`RateLimit: "default";r=0;t=30`).

use std::time::{Duration, UNIX_EPOCH};

use http::HeaderMap;

use crate::model::time::Timestamp;

/// The wait from `now`, not yet capped; zero for a date that has passed. `None`: the origin does not say.
pub fn of(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    text("retry-after")
        .and_then(|value| parse(value, now))
        .or_else(|| text("ratelimit-reset").and_then(seconds))
        .or_else(|| text("ratelimit").and_then(reset_of))
}

/// `Retry-After` in both its forms.
pub fn parse(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Some(wait) = seconds(value) {
        return Some(wait);
    }
    let date = httpdate::parse_http_date(value).ok()?.duration_since(UNIX_EPOCH).ok()?;
    let micros = i64::try_from(date.as_micros()).ok()?;
    Some(Timestamp(micros).since(now))
}

/// Whole seconds, and fractions too, which some origins send.
fn seconds(value: &str) -> Option<Duration> {
    let value = value.trim();
    if !value.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More than fits is more than anyone waits.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::from(u32::MAX))));
    }
    Duration::try_from_secs_f64(value.parse().ok()?).ok()
}

/// The `t` of a spent quota (`r=0`), or the older `reset`.
fn reset_of(value: &str) -> Option<Duration> {
    let mut waits = value.split(',').filter_map(|policy| {
        let parameter = |name: &str| {
            policy.split([';', ',']).find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('=')).map(str::trim)
        };
        let is_spent = parameter("r").is_none_or(|left| left == "0");
        if is_spent { parameter("t").or_else(|| parameter("reset")).and_then(seconds) } else { None }
    });
    let first = waits.next()?;
    Some(waits.fold(first, Duration::max))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn wait(name: &'static str, value: &str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        of(&headers, Timestamp(1_000_000_000_000_000)).map(|wait| wait.as_secs())
    }

    #[test]
    fn reads_every_form() {
        assert_eq!(wait("retry-after", " 120 "), Some(120));
        assert_eq!(wait("retry-after", "1.5"), Some(1));
        assert_eq!(wait("retry-after", "Sun, 09 Sep 2001 01:47:10 GMT"), Some(30));
        assert_eq!(wait("retry-after", "Sun, 09 Sep 2001 01:40:00 GMT"), Some(0));
        assert_eq!(wait("retry-after", "99999999999999999999999"), Some(u64::from(u32::MAX)));
        assert_eq!(wait("retry-after", "-1"), None);
        assert_eq!(wait("ratelimit-reset", "30"), Some(30));
        assert_eq!(wait("ratelimit", "limit=100, remaining=0, reset=50"), Some(50));
        assert_eq!(wait("ratelimit", r#""burst";r=3;t=9, "day";r=0;t=40"#), Some(40));
        assert_eq!(wait("ratelimit", r#""burst";r=3;t=9"#), None);
    }

    proptest! {
        #[test]
        fn never_panics(value in ".*") {
            let _ = parse(&value, Timestamp(0));
            let _ = reset_of(&value);
        }
    }
}
