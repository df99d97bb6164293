//! Points in time as origins write them: the three forms of HTTP (RFC 9110, section 5.6.7), RFC 3339, and the dates of
//! mail (RFC 5322) with what programs make of them. Pure.
//!
//! The last are read as RFC 6265, section 5.1.1, reads the dates of cookies: a time, a day, a month and a year in any
//! order, so that a zone other than GMT, dashes, or a weekday that is missing does not cost the date.

use std::time::{Duration, UNIX_EPOCH};

use crate::model::time::Timestamp;

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// The zones that mail has names for (RFC 5322, section 4.3), in hours from GMT.
const ZONES: [(&str, i64); 12] = [
    ("gmt", 0),
    ("utc", 0),
    ("ut", 0),
    ("z", 0),
    ("est", -5),
    ("edt", -4),
    ("cst", -6),
    ("cdt", -5),
    ("mst", -7),
    ("mdt", -6),
    ("pst", -8),
    ("pdt", -7),
];

/// Reads a point in time. `None` for a text that is none, or one before 1970.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let since_1970 = match httpdate::parse_http_date(text) {
        Ok(date) => date.duration_since(UNIX_EPOCH).ok()?,
        Err(_) => of_rfc3339(text).or_else(|| of_mail(text))?,
    };
    i64::try_from(since_1970.as_micros()).ok().map(Timestamp)
}

/// Reads `2026-09-01T10:00:00Z`, with a fraction or not, and with an offset, as the time since 1970.
fn of_rfc3339(text: &str) -> Option<Duration> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let zone = time.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = (&time[..zone], &time[zone..]);
    let [year, month, day] = numbers(date, '-')?;
    let offset = if zone.starts_with(['+', '-']) { offset(zone)? } else { 0 };
    since_1970([year, month, day], clock(time)?, offset)
}

/// Reads `Tue, 1 Sep 2026 10:00:00 +0000`, and what is nearly that. Where there is no zone it is GMT, as in all of HTTP.
fn of_mail(text: &str) -> Option<Duration> {
    let (mut time, mut day, mut month, mut year, mut zone) = (None, None, None, None, None);
    for token in text.split([' ', '\t', ',']).filter(|token| !token.is_empty()) {
        if token.starts_with(|c: char| c.is_ascii_digit()) && token.contains(':') {
            set(&mut time, clock(token)?)?;
        } else if let Some(sign) = token.find(['+', '-']).filter(|sign| *sign == 0 || names_zone(&token[..*sign])) {
            // `+0000` alone, and behind the name of the zone that it counts from.
            zone = Some(offset(&token[sign..])?);
        } else {
            for part in token.split('-') {
                let word = part.to_ascii_lowercase();
                let nth = |names: &[&str]| names.iter().position(|name| word.starts_with(name));
                if let Ok(number) = part.parse::<u16>() {
                    let is_day = part.len() <= 2 && day.is_none();
                    set(if is_day { &mut day } else { &mut year }, i64::from(number))?;
                } else if let Some(nth) = nth(&MONTHS) {
                    set(&mut month, i64::try_from(nth).ok()? + 1)?;
                } else if let Some((_, hours)) = ZONES.iter().find(|(name, _)| *name == word) {
                    zone = zone.or(Some(hours * 3_600));
                } else {
                    nth(&WEEKDAYS)?;
                }
            }
        }
    }
    // As RFC 6265 has it.
    let year = match year? {
        year @ 0..=69 => 2_000 + year,
        year @ 70..=99 => 1_900 + year,
        year => year,
    };
    since_1970([year, month?, day?], time?, zone.unwrap_or(0))
}

/// Notes what must not come twice.
fn set<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

fn names_zone(text: &str) -> bool {
    ["gmt", "utc"].iter().any(|name| text.eq_ignore_ascii_case(name))
}

/// Reads `hh:mm:ss`, with a fraction that does not count.
fn clock(text: &str) -> Option<[i64; 3]> {
    numbers(text.split_once('.').map_or(text, |(whole, _)| whole), ':')
}

/// Reads `+hh:mm` or `+hhmm`, in seconds.
fn offset(text: &str) -> Option<i64> {
    let digits = text.get(1..)?;
    let [hours, minutes] = match numbers(digits, ':') {
        Some(both) => both,
        None if digits.len() == 4 => [numbers::<1>(digits.get(..2)?, ':')?[0], numbers::<1>(digits.get(2..)?, ':')?[0]],
        None => return None,
    };
    let seconds = (hours * 60 + minutes) * 60;
    Some(if text.starts_with('-') { -seconds } else { seconds })
}

fn since_1970([year, month, day]: [i64; 3], [hour, minute, second]: [i64; 3], offset: i64) -> Option<Duration> {
    let is_date = year >= 1970 && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_moment_in_every_form() {
        for text in [
            "Sun, 09 Sep 2001 01:47:10 GMT",
            "Sunday, 09-Sep-01 01:47:10 GMT",
            "Sun Sep  9 01:47:10 2001",
            "2001-09-09T01:47:10Z",
            "2001-09-09t03:47:10.25+02:00",
            "2001-09-08 20:17:10-05:30",
            "Sun, 09 Sep 2001 01:47:10 UTC",
            "Sun, 09 Sep 2001 01:47:10 +0000",
            "Sun, 9 Sep 2001 03:47:10 +0200",
            "Sun, 09 Sep 2001 01:47:10 GMT+00:00",
            "Sat, 08 Sep 2001 17:47:10 PST",
            "Sun, 09-Sep-2001 01:47:10 GMT",
            "Tue, 09 Sep 2001 01:47:10 GMT",
            "9 September 2001 01:47:10 GMT",
            "9 Sep 2001 1:47:10",
            "sun, 09 sep 2001 01:47:10 gmt",
            "Sun, Sep 9 2001 01:47:10.5 GMT",
        ] {
            assert_eq!(parse(text), Some(Timestamp(1_000_000_030_000_000)), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "9",
            "9 Sep",
            "9 Sep 2001",
            "01:47:10",
            "9 9 9 01:47:10",
            "9 Sep Oct 2001 01:47:10",
            "9 Sep 2001 01:47:10 01:47:10",
            "9 Sep 2001 25:47:10",
            "32 Sep 2001 01:47:10",
            "9 Sep 2001 01:47",
            "9 Sep 2001 01:47:10 XST",
            "9 Sep 2001 01:47:10 +2",
            "9 Sep 1960 01:47:10",
            "2001-09-09",
            "2001-09-09T01:47",
            "2001-13-09T01:47:10Z",
            "2001-09-09T01:47:10",
            "2001-09-09T1:2:3+1",
            "2001-09-09T01:47:10+aéb",
            "9 Sep 2001 01:47:10 +aéb",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*|[0-9]{1,4}(-[0-9]{1,2}){2}T([0-9]{1,2}:){2}[0-9]{1,2}(Z|[+-][0-9:]{0,5})|([a-zA-Z0-9:+-]{0,6}[ ,]){0,7}") {
            let _ = parse(&text);
        }

        #[test]
        fn reads_what_others_write(seconds in 0u64..200_000_000_000) {
            let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
            prop_assert_eq!(of_mail(&text), Some(Duration::from_secs(seconds)), "{}", text);
        }
    }
}
