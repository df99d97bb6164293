//! `Content-Range` (RFC 9110, section 14.4), and whether a body is a part.

use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use http::{HeaderMap, StatusCode};

/// Which bytes of how many an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentRange {
    /// `bytes FIRST-LAST/TOTAL`, both ends included; the total may be `*`.
    Bytes {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte, at least that of the first.
        last: u64,
        /// Size of the whole, where the origin knows it; more than `last`.
        total: Option<u64>,
    },
    /// `bytes */TOTAL`, with status 416.
    Unsatisfied {
        /// Size of the whole.
        total: u64,
    },
}

/// The answer's range. `None` without the header, or when it makes no sense.
pub fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    parse(headers.get(CONTENT_RANGE)?.to_str().ok()?)
}

/// Returns whether an answer says that its body is a part of something and not the whole.
///
/// A part that is sent as 200 is a part all the same, unless its length says otherwise. Ranges of other units than bytes
/// number the items of a listing, each page of which is whole.
pub fn is_part(status: StatusCode, headers: &HeaderMap) -> bool {
    let Some(ContentRange::Bytes { first, last, .. }) = content_range(headers) else { return false };
    if whole_length(status, headers).is_some() {
        return false;
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let has_its_length = length.is_none_or(|length| length == last - first + 1);
    status == StatusCode::PARTIAL_CONTENT || (status == StatusCode::OK && has_its_length)
}

/// Returns how many bytes an answer has whose `Content-Range` says that it holds all there are. A body that does not say
/// itself how long it is may end early without another sign.
pub fn whole_length(status: StatusCode, headers: &HeaderMap) -> Option<u64> {
    let Some(ContentRange::Bytes { first: 0, last, total }) = content_range(headers) else { return None };
    let is_whole = match status {
        StatusCode::OK => total.is_none_or(|total| total == last + 1),
        StatusCode::PARTIAL_CONTENT => total == Some(last + 1),
        _ => false,
    };
    is_whole.then_some(last + 1)
}

/// Reads the value of the header.
pub fn parse(value: &str) -> Option<ContentRange> {
    let (unit, rest) = value.trim().split_once(' ')?;
    let (range, total) = rest.trim().split_once('/')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    if range == "*" {
        return Some(ContentRange::Unsatisfied { total: number(total)? });
    }
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let total = if total == "*" { None } else { Some(number(total)?) };
    // No size is past the largest number there is.
    let makes_sense = first <= last && last < total.unwrap_or(u64::MAX);
    makes_sense.then_some(ContentRange::Bytes { first, last, total })
}

/// Digits and nothing else: the standard library's parser takes a plus sign too.
fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_ranges_that_make_sense() {
        let bytes = |first, last, total| Some(ContentRange::Bytes { first, last, total });
        assert_eq!(parse("bytes 0-9/100"), bytes(0, 9, Some(100)));
        assert_eq!(parse("Bytes 5-5/*"), bytes(5, 5, None));
        assert_eq!(parse("bytes */100"), Some(ContentRange::Unsatisfied { total: 100 }));
        for bad in ["", "bytes", "bytes 0-9", "bytes 9-0/100", "bytes 0-100/100", "items 0-9/100", "bytes +1-9/100"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        for endless in ["bytes 0-18446744073709551616/*", "bytes 0-18446744073709551615/*"] {
            assert_eq!(parse(endless), None);
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_what_it_reads_makes_sense(value in ".*|bytes [0-9*+-]{0,24}/[0-9*]{0,24}") {
            if let Some(ContentRange::Bytes { first, last, total }) = parse(&value) {
                prop_assert!(first <= last && total.is_none_or(|total| last < total));
            }
        }
    }
}
