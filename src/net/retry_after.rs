//! How long an origin asks to wait: `Retry-After` (RFC 9110, section 10.2.3) and its likes in milliseconds, else the rate
//! limits that an answer describes: `RateLimit` in its older and newer drafts, and the `X-RateLimit-Reset` that came
//! before both. Pure.
//!
//! Origins write times in more forms than the RFC has: as seconds or milliseconds since 1970, and in those of
//! [`date`]. All are read wherever a time may stand, since none can be taken for another.

use std::time::Duration;

use http::{HeaderMap, header};

use crate::model::time::Timestamp;
use crate::net::date;

/// A number of seconds from here on is a point in time since 1970: it is in 2001, and as a wait 31 years long.
const POINT_IN_TIME_SECONDS: u64 = 1_000_000_000;
/// A number from here on is a point in time in milliseconds, as some origins write it.
const POINT_IN_TIME_MILLIS: u64 = 1_000_000_000_000;

/// What some origins send beside `Retry-After` or instead of it, in milliseconds.
const IN_MILLIS: [&str; 2] = ["retry-after-ms", "x-ms-retry-after-ms"];
/// What some origins send instead of `Retry-After`.
const IN_ITS_STEAD: [&str; 2] = ["x-retry-after", "x-ratelimit-retry-after"];

/// Returns how long `Retry-After` asks to wait; zero for a date that has passed, `None` where it does not say.
///
/// Dates are judged by the answer's own `Date`, since the clocks of origins are wrong more often than their
/// differences; where there is none, by `now`.
pub fn of(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let now = made_at(headers).unwrap_or(now);
    // Told twice, the longer wait is not too short for either.
    let told = |name| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.filter_map(|value| parse(value, now)).max()
    };
    let millis = |name| Some(seconds(text(headers, name)?)? / 1_000);
    told("retry-after")
        .or_else(|| IN_MILLIS.into_iter().find_map(millis))
        .or_else(|| IN_ITS_STEAD.into_iter().find_map(told))
}

/// As [`of`], for a redirect: without a `Date`, a date says nothing.
pub(super) fn of_redirect(headers: &HeaderMap) -> Option<Duration> {
    if let Some(now) = made_at(headers) {
        return of(headers, now);
    }
    let wait = seconds(text(headers, "retry-after")?)?;
    (wait.as_secs() < POINT_IN_TIME_SECONDS).then_some(wait)
}

/// Returns when the quota that an answer says is spent is filled up again, as a wait. Resets that are points in time
/// are judged as in [`of`].
pub fn of_rate_limit(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let now = made_at(headers).unwrap_or(now);
    let spent = |left: &str, name: &str| {
        let is_spent = text(headers, left).is_none_or(|left| left.trim() == "0");
        if is_spent { text(headers, name) } else { None }
    };
    spent("ratelimit-remaining", "ratelimit-reset")
        .and_then(|value| parse(value, now))
        .or_else(|| text(headers, "ratelimit").and_then(reset_of))
        .or_else(|| spent("x-ratelimit-remaining", "x-ratelimit-reset-after").and_then(seconds))
        .or_else(|| spent("x-ratelimit-remaining", "x-ratelimit-reset").and_then(|value| parse(value, now)))
        .or_else(|| spent("x-rate-limit-remaining", "x-rate-limit-reset").and_then(|value| parse(value, now)))
}

/// Reads a wait in seconds, or a point in time as the wait until then.
pub fn parse(value: &str, now: Timestamp) -> Option<Duration> {
    let Some(wait) = seconds(value) else {
        return date::parse(value).map(|time| time.since(now)).or_else(|| with_unit(value));
    };
    let number = wait.as_secs();
    let since_1970 = match number {
        POINT_IN_TIME_MILLIS.. => Duration::from_millis(number),
        POINT_IN_TIME_SECONDS.. => wait,
        _ => return Some(wait),
    };
    // A number too large for a point in time asks for a long wait.
    Some(i64::try_from(since_1970.as_micros()).map_or(wait, |micros| Timestamp(micros).since(now)))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Returns when the answer was made, by the origin's clock.
fn made_at(headers: &HeaderMap) -> Option<Timestamp> {
    date::parse(headers.get(header::DATE)?.to_str().ok()?)
}

/// Whole seconds, and fractions too, which some origins send.
fn seconds(value: &str) -> Option<Duration> {
    let value = value.trim();
    let value = value.strip_prefix('+').unwrap_or(value);
    if !value.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More than fits is more than anyone waits.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    Duration::try_from_secs_f64(value.parse().ok()?).ok()
}

/// A number with something behind it: a unit, or what a proxy has put there. Of several, as a proxy makes of headers that
/// came twice, the longest wait.
fn with_unit(value: &str) -> Option<Duration> {
    let one = |value: &str| {
        let value = value.trim().trim_start_matches('"').trim_start_matches('+');
        let is_of_number = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
        let (number, unit) = value.split_at(value.bytes().take_while(|byte| is_of_number(byte)).count());
        let unit = unit.split([';', '"']).next().unwrap_or_default().trim().to_ascii_lowercase();
        let factor = match unit.as_str() {
            "ms" | "millis" | "milliseconds" => 0.001,
            "" | "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
            "h" | "hour" | "hours" => 3_600.0,
            _ => return None,
        };
        Duration::try_from_secs_f64(seconds(number)?.as_secs_f64() * factor).ok()
    };
    value.split(',').filter_map(one).max()
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

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| ((*name).parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
    }

    const NOW: Timestamp = Timestamp(1_000_000_000_000_000);

    fn wait(pairs: &[(&'static str, &str)]) -> Option<u64> {
        of(&headers(pairs), NOW).map(|wait| wait.as_secs())
    }

    fn rate_limit(pairs: &[(&'static str, &str)]) -> Option<u64> {
        of_rate_limit(&headers(pairs), NOW).map(|wait| wait.as_secs())
    }

    #[test]
    fn reads_every_form() {
        assert_eq!(wait(&[("retry-after", " 120 ")]), Some(120));
        assert_eq!(wait(&[("retry-after", "1.5")]), Some(1));
        assert_eq!(wait(&[("retry-after", "Sun, 09 Sep 2001 01:47:10 GMT")]), Some(30));
        assert_eq!(wait(&[("retry-after", "Sun, 09 Sep 2001 01:40:00 GMT")]), Some(0));
        assert_eq!(wait(&[("retry-after", "99999999999999999999999")]), Some(u64::MAX));
        assert_eq!(wait(&[("retry-after", "-1")]), None);
        for odd in ["5, 7", "7, 7", "7s", "7 seconds", "\"7\"", "7;x", "+7", "7.0", "7000 ms", "soon, 7"] {
            assert_eq!(wait(&[("retry-after", odd)]), Some(7), "{odd}");
        }
        assert_eq!(wait(&[("retry-after", "2 minutes")]), Some(120));
        for bad in ["7x", "", "\"", "s", "7 Sep", "7 Sep 2001", "1.2.3 s", "-7 s"] {
            assert_eq!(wait(&[("retry-after", bad)]), None, "{bad}");
        }
        assert_eq!(rate_limit(&[("ratelimit-reset", "30")]), Some(30));
        assert_eq!(rate_limit(&[("ratelimit", "limit=100, remaining=0, reset=50")]), Some(50));
        assert_eq!(rate_limit(&[("ratelimit", r#""burst";r=3;t=9, "day";r=0;t=40"#)]), Some(40));
        assert_eq!(rate_limit(&[("ratelimit", r#""burst";r=3;t=9"#)]), None);
        assert_eq!(rate_limit(&[("x-ratelimit-reset-after", "2.5")]), Some(2));
        assert_eq!(rate_limit(&[("x-ratelimit-reset", "9"), ("x-ratelimit-remaining", "58")]), None, "not spent");
        assert_eq!(rate_limit(&[("x-ratelimit-reset", "9"), ("x-ratelimit-remaining", "0")]), Some(9));
    }

    #[test]
    fn dates_are_judged_by_the_clock_that_wrote_them() {
        let late = ("date", "Sun, 09 Sep 2001 02:00:00 GMT");
        let until = ("retry-after", "Sun, 09 Sep 2001 02:00:07 GMT");
        assert_eq!(wait(&[until, late]), Some(7));
        assert_eq!(of_redirect(&headers(&[until, late])), Some(Duration::from_secs(7)));
        assert_eq!(of_redirect(&headers(&[until])), None, "no clock, no wait");
        assert_eq!(
            rate_limit(&[("ratelimit-reset", "1000000809"), ("date", "Sun, 09 Sep 2001 02:00:00 GMT")]),
            Some(9)
        );
    }

    #[test]
    fn a_reset_may_be_a_point_in_time() {
        assert_eq!(rate_limit(&[("ratelimit-reset", "1000000012")]), Some(12));
        assert_eq!(rate_limit(&[("x-ratelimit-reset", "1000000012")]), Some(12));
        assert_eq!(rate_limit(&[("x-ratelimit-reset", "1000000012000")]), Some(12));
        assert_eq!(rate_limit(&[("x-ratelimit-reset", "Sun, 09 Sep 2001 01:47:10 GMT")]), Some(30));
        assert_eq!(rate_limit(&[("x-ratelimit-reset", "1000000000")]), Some(0));
        assert_eq!(rate_limit(&[("x-ratelimit-reset", "2001-09-09T01:47:10Z")]), Some(30));
        for (value, seconds) in [
            ("1000000012", 12),
            ("1000000012000", 12),
            ("2001-09-09T01:47:10Z", 30),
            ("9 Sep 2001 03:47:10 +0200", 30),
            ("2001-09-09T01:46:39Z", 0),
        ] {
            assert_eq!(wait(&[("retry-after", value)]), Some(seconds), "{value}");
        }
        assert_eq!(wait(&[("retry-after-ms", "2500")]), Some(2));
        assert_eq!(wait(&[("x-ms-retry-after-ms", "3000"), ("retry-after", "9")]), Some(9));
    }

    #[test]
    fn told_twice_the_longer_wait_counts_and_other_names_where_it_is_not_told() {
        assert_eq!(wait(&[("retry-after", "soon"), ("retry-after", "3"), ("retry-after", "1")]), Some(3));
        assert_eq!(wait(&[("x-retry-after", "3")]), Some(3));
        assert_eq!(wait(&[("x-ratelimit-retry-after", "3"), ("retry-after", "1")]), Some(1));
        let reset =
            |left: &'static str| rate_limit(&[("x-rate-limit-remaining", left), ("x-rate-limit-reset", "1000000012")]);
        assert_eq!([reset("0"), reset("1")], [Some(12), None]);
    }

    proptest! {
        #[test]
        fn never_panics(value in ".*|[0-9]{0,25}|[0-9.]{0,5} ?[a-z]{0,3}(, ?[0-9]{0,3}){0,2}") {
            let _ = parse(&value, Timestamp(0));
            let _ = reset_of(&value);
        }
    }
}
