//! Which bytes of a content a client wants, by its `Range` and its conditions (RFC 9110). Pure.

use std::time::SystemTime;

use http::HeaderMap;
use http::header::{HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE};

/// What a request for a content comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it.
    Whole,
    /// So many bytes from there on.
    Part(u64, u64),
    /// Nothing: the client has it.
    NotModified,
    /// Nothing: it is not the content that the client means.
    Changed,
    /// Nothing: there are fewer bytes.
    BeyondEnd,
}

/// Returns whether a request has a range or a condition, so that its body may be less than the whole.
pub(crate) fn are_asked(headers: &HeaderMap) -> bool {
    [RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE]
        .iter()
        .any(|name| headers.contains_key(name))
}

/// What the conditions of a request are judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Version<'a> {
    /// Its strong tag.
    pub(crate) tag: &'a str,
    /// When it was made, in whole seconds; `None`: nobody knows.
    pub(crate) modified: Option<SystemTime>,
    /// How long it is.
    pub(crate) total: u64,
}

/// Judges the headers of a request for a content. A condition by tag goes before one by date (RFC 9110, 13.2.2).
pub(crate) fn judge(headers: &HeaderMap, is_head: bool, version: Version<'_>) -> Wanted {
    let Version { tag, modified, total } = version;
    let date =
        |name: &HeaderName| headers.get(name)?.to_str().ok().and_then(|text| httpdate::parse_http_date(text).ok());
    if headers.contains_key(IF_MATCH) {
        if !names(headers, &IF_MATCH, tag, false) {
            return Wanted::Changed;
        }
    } else if let (Some(since), Some(modified)) = (date(&IF_UNMODIFIED_SINCE), modified)
        && modified > since
    {
        return Wanted::Changed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if names(headers, &IF_NONE_MATCH, tag, true) {
            return Wanted::NotModified;
        }
    } else if let (Some(since), Some(modified)) = (date(&IF_MODIFIED_SINCE), modified)
        && modified <= since
    {
        return Wanted::NotModified;
    }
    // A result never changes, so its date says as much as its tag.
    let is_same = headers
        .get(IF_RANGE)
        .is_none_or(|it| it.as_bytes() == tag.as_bytes() || (modified.is_some() && date(&IF_RANGE) == modified));
    // A range is for GET alone (RFC 9110, 14.2).
    let range = headers.get(RANGE).filter(|_| is_same && !is_head).and_then(|it| it.to_str().ok());
    range.map_or(Wanted::Whole, |range| part(range, total))
}

/// Returns whether a list of tags has this one.
fn names(headers: &HeaderMap, name: &HeaderName, tag: &str, may_be_weak: bool) -> bool {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(',')).any(|item| {
        let item = item.trim();
        let strong = item.strip_prefix("W/").filter(|_| may_be_weak).unwrap_or(item);
        item == "*" || strong == tag
    })
}

/// Reads one range. Several, and what is not understood, mean the whole.
fn part(range: &str, total: u64) -> Wanted {
    let Some(spec) = range.trim().strip_prefix("bytes=").filter(|it| !it.contains(',')) else { return Wanted::Whole };
    let Some((from, to)) = spec.trim().split_once('-') else { return Wanted::Whole };
    let number = |text: &str| text.bytes().all(|it| it.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    match (from.trim(), to.trim()) {
        ("", count) => match number(count) {
            Some(0) => Wanted::BeyondEnd,
            Some(_) if total == 0 => Wanted::BeyondEnd,
            Some(count) => Wanted::Part(total.saturating_sub(count), count.min(total)),
            None => Wanted::Whole,
        },
        (from, to) => {
            let last = if to.is_empty() { Some(u64::MAX) } else { number(to) };
            match (number(from), last) {
                (Some(from), Some(last)) if from <= last && from >= total => Wanted::BeyondEnd,
                (Some(from), Some(last)) if from <= last => Wanted::Part(from, last.min(total - 1) - from + 1),
                _ => Wanted::Whole,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_by_their_text() {
        for (range, total, wanted) in [
            ("bytes=0-4", 10, Wanted::Part(0, 5)),
            ("bytes=5-", 10, Wanted::Part(5, 5)),
            ("bytes=9-20", 10, Wanted::Part(9, 1)),
            ("bytes=-3", 10, Wanted::Part(7, 3)),
            ("bytes=-30", 10, Wanted::Part(0, 10)),
            ("bytes=10-", 10, Wanted::BeyondEnd),
            ("bytes=-0", 10, Wanted::BeyondEnd),
            ("bytes=-1", 0, Wanted::BeyondEnd),
            ("bytes=0-", 0, Wanted::BeyondEnd),
            ("bytes=4-2", 10, Wanted::Whole),
            ("bytes=0-1,3-4", 10, Wanted::Whole),
            ("bytes=a-b", 10, Wanted::Whole),
            ("bytes=", 10, Wanted::Whole),
            ("items=0-4", 10, Wanted::Whole),
            ("bytes=0-99999999999999999999", 10, Wanted::Whole),
            ("bytes=+1-2", 10, Wanted::Whole),
        ] {
            assert_eq!(part(range, total), wanted, "{range} of {total}");
        }
    }

    #[test]
    fn conditions_come_before_ranges() {
        let [before, made, after] = [946_684_799, 946_684_800, 946_684_801]
            .map(|seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds));
        let version = Version { tag: "\"a\"", modified: Some(made), total: 10 };
        let [before, made, after] = [before, made, after].map(httpdate::fmt_http_date);
        let (before, made, after) = (before.as_str(), made.as_str(), after.as_str());
        for (headers, wanted) in [
            (&[(IF_NONE_MATCH, "\"a\"")][..], Wanted::NotModified),
            (&[(IF_NONE_MATCH, "\"x\", W/\"a\"")], Wanted::NotModified),
            (&[(IF_NONE_MATCH, "*")], Wanted::NotModified),
            (&[(IF_NONE_MATCH, "\"b\"")], Wanted::Whole),
            (&[(IF_MATCH, "\"b\""), (RANGE, "bytes=0-0")], Wanted::Changed),
            (&[(IF_MATCH, "W/\"a\"")], Wanted::Changed),
            (&[(IF_MATCH, "\"b\", \"a\""), (RANGE, "bytes=0-0")], Wanted::Part(0, 1)),
            (&[(IF_RANGE, "\"a\""), (RANGE, "bytes=0-0")], Wanted::Part(0, 1)),
            (&[(IF_RANGE, "\"b\""), (RANGE, "bytes=0-0")], Wanted::Whole),
            (&[(IF_RANGE, "W/\"a\""), (RANGE, "bytes=0-0")], Wanted::Whole),
            (&[(IF_RANGE, made), (RANGE, "bytes=0-0")], Wanted::Part(0, 1)),
            (&[(IF_RANGE, after), (RANGE, "bytes=0-0")], Wanted::Whole),
            (&[(IF_MODIFIED_SINCE, made)], Wanted::NotModified),
            (&[(IF_MODIFIED_SINCE, after)], Wanted::NotModified),
            (&[(IF_MODIFIED_SINCE, before)], Wanted::Whole),
            (&[(IF_MODIFIED_SINCE, "yesterday")], Wanted::Whole),
            (&[(IF_NONE_MATCH, "\"b\""), (IF_MODIFIED_SINCE, made)], Wanted::Whole),
            (&[(IF_UNMODIFIED_SINCE, before)], Wanted::Changed),
            (&[(IF_UNMODIFIED_SINCE, made), (RANGE, "bytes=0-0")], Wanted::Part(0, 1)),
            (&[(IF_MATCH, "\"a\""), (IF_UNMODIFIED_SINCE, before)], Wanted::Whole),
        ] {
            let map = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
            assert_eq!(judge(&map, false, version), wanted, "{headers:?}");
        }
    }
}
