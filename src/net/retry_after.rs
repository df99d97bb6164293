//! How long an origin asks to wait: `Retry-After` (RFC 9110, section 10.2.3) and its likes in milliseconds, else the rate
//! limits that an answer describes: `RateLimit` in its older and newer drafts, and the `X-RateLimit-Reset` that came
//! before both. Pure.
//!
//! Origins write times in more forms than the RFC has: as seconds or milliseconds since 1970, and as RFC 3339 does. All
//! are read wherever a time may stand, since none can be taken for another.

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, header};

use crate::model::time::Timestamp;

/// A number of seconds from here on is a point in time since 1970: it is in 2001, and as a wait 31 years long.
const POINT_IN_TIME_SECONDS: u64 = 1_000_000_000;
/// A number from here on is a point in time in milliseconds, as some origins write it.
const POINT_IN_TIME_MILLIS: u64 = 1_000_000_000_000;

/// What some origins send beside `Retry-After` or instead of it, in milliseconds.
const IN_MILLIS: [&str; 2] = ["retry-after-ms", "x-ms-retry-after-ms"];

/// Returns how long `Retry-After` asks to wait; zero for a date that has passed, `None` where it does not say.
///
/// Dates are judged by the answer's own `Date`, since the clocks of origins are wrong more often than their
/// differences; where there is none, by `now`.
pub fn of(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let now = date(headers).unwrap_or(now);
    let millis = |name| Some(seconds(text(headers, name)?)? / 1_000);
    text(headers, "retry-after").and_then(|value| parse(value, now)).or_else(|| IN_MILLIS.into_iter().find_map(millis))
}

/// As [`of`], for a redirect: without a `Date`, a date says nothing.
pub(super) fn of_redirect(headers: &HeaderMap) -> Option<Duration> {
    let value = text(headers, "retry-after")?;
    match date(headers) {
        Some(now) => parse(value, now),
        None => seconds(value).filter(|wait| wait.as_secs() < POINT_IN_TIME_SECONDS),
    }
}

/// Returns when the quota that an answer says is spent is filled up again, as a wait. Resets that are points in time
/// are judged as in [`of`].
pub fn of_rate_limit(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let now = date(headers).unwrap_or(now);
    let spent = |left: &str, name: &str| {
        let is_spent = text(headers, left).is_none_or(|left| left.trim() == "0");
        if is_spent { text(headers, name) } else { None }
    };
    spent("ratelimit-remaining", "ratelimit-reset")
        .and_then(|value| parse(value, now))
        .or_else(|| text(headers, "ratelimit").and_then(reset_of))
        .or_else(|| spent("x-ratelimit-remaining", "x-ratelimit-reset-after").and_then(seconds))
        .or_else(|| spent("x-ratelimit-remaining", "x-ratelimit-reset").and_then(|value| parse(value, now)))
}

/// Reads a wait in seconds, or a point in time as the wait until then.
pub fn parse(value: &str, now: Timestamp) -> Option<Duration> {
    let Some(wait) = seconds(value) else {
        return time_of(value).map(|time| time.since(now)).or_else(|| leading_seconds(value));
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
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    time_of(headers.get(header::DATE)?.to_str().ok()?)
}

fn time_of(value: &str) -> Option<Timestamp> {
    let value = value.trim();
    let since_1970 = match httpdate::parse_http_date(value) {
        Ok(date) => date.duration_since(UNIX_EPOCH).ok()?,
        Err(_) => of_rfc3339(value)?,
    };
    i64::try_from(since_1970.as_micros()).ok().map(Timestamp)
}

/// Reads `2026-09-01T10:00:00Z`, with a fraction or not, and with an offset, as the time since 1970.
fn of_rfc3339(value: &str) -> Option<Duration> {
    let (date, time) = value.split_once(['T', 't', ' '])?;
    let zone = time.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = (&time[..zone], &time[zone..]);
    let [year, month, day] = numbers(date, '-')?;
    let whole = time.split_once('.').map_or(time, |(whole, _)| whole);
    let [hour, minute, second] = numbers(whole, ':')?;
    let is_date = year >= 1970 && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let offset = match zone.strip_prefix(['+', '-']) {
        None => 0,
        Some(offset) => {
            let [hours, minutes] = numbers(offset, ':')?;
            let minutes = hours * 60 + minutes;
            if zone.starts_with('+') { minutes * 60 } else { -minutes * 60 }
        }
    };
    // Days are counted in years that begin in March, so that leap days come last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 719_469;
    u64::try_from(days * 86_400 + hour * 3_600 + minute * 60 + second - offset).ok().map(Duration::from_secs)
}

/// As many numbers of at most four digits as there is room for, and no more.
fn numbers<const COUNT: usize>(text: &str, between: char) -> Option<[i64; COUNT]> {
    let mut numbers = [0; COUNT];
    let mut parts = text.split(between);
    for number in &mut numbers {
        let part = parts.next()?;
        let is_number = (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        *number = if is_number { part.parse().ok()? } else { return None };
    }
    parts.next().is_none().then_some(numbers)
}

/// Whole seconds, and fractions too, which some origins send.
fn seconds(value: &str) -> Option<Duration> {
    let value = value.trim();
    if !value.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More than fits is more than anyone waits.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    Duration::try_from_secs_f64(value.parse().ok()?).ok()
}

/// Seconds with something behind them: a unit, or the value of a second header that a proxy has joined to the first.
fn leading_seconds(value: &str) -> Option<Duration> {
    let value = value.trim().trim_start_matches('"');
    let digits = &value[..value.bytes().take_while(u8::is_ascii_digit).count()];
    let is_number = value[digits.len()..].starts_with([',', ';', ' ', 's', '"']);
    if is_number { seconds(digits) } else { None }
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
        for odd in ["7, 9", "7s", "7 seconds", "\"7\"", "7;x"] {
            assert_eq!(wait(&[("retry-after", odd)]), Some(7), "{odd}");
        }
        for bad in ["7x", "", "\"", "s"] {
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
            ("2001-09-09t03:47:10.25+02:00", 30),
            ("2001-09-08 20:17:10-05:30", 30),
            ("2001-09-09T01:46:39Z", 0),
        ] {
            assert_eq!(wait(&[("retry-after", value)]), Some(seconds), "{value}");
        }
        for bad in
            ["2001-09-09", "2001-09-09T01:47", "2001-13-09T01:47:10Z", "2001-09-09T01:47:10", "2001-09-09T1:2:3+1"]
        {
            assert_eq!(wait(&[("retry-after", bad)]), None, "{bad}");
        }
        assert_eq!(wait(&[("retry-after-ms", "2500")]), Some(2));
        assert_eq!(wait(&[("x-ms-retry-after-ms", "3000"), ("retry-after", "9")]), Some(9));
    }

    proptest! {
        #[test]
        fn never_panics(value in ".*|[0-9]{0,25}|[0-9]{1,4}(-[0-9]{1,2}){2}T([0-9]{1,2}:){2}[0-9]{1,2}(Z|[+-][0-9:]{0,5})") {
            let _ = parse(&value, Timestamp(0));
            let _ = of_rfc3339(&value);
            let _ = reset_of(&value);
        }
    }
}
