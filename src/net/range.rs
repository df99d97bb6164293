//! `Content-Range` (RFC 9110, section 14.4), and whether a body is a part.

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode};

use crate::net::framing::MISSPELT_LENGTH;

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

/// As [`content_range`], also where the unit is left away and the length of the body confirms that the range is of bytes.
pub fn content_range_of_bytes(status: StatusCode, headers: &HeaderMap) -> Option<ContentRange> {
    let named = content_range(headers);
    if named.is_some() || status != StatusCode::PARTIAL_CONTENT {
        return named;
    }
    let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let range = parse(&format!("bytes {value}"))?;
    let ContentRange::Bytes { first, last, .. } = range else { return None };
    (content_length(headers) == Some(last - first + 1)).then_some(range)
}

/// Returns whether an answer says that its body is a part of something and not the whole.
///
/// A part that is sent as 200 is a part all the same, unless its length says otherwise. One that is sent as 206 need not say
/// which part it is: it may have several, or a range that makes no sense. Ranges of other units than bytes number the items
/// of a listing, each page of which is whole.
pub fn is_part(status: StatusCode, headers: &HeaderMap) -> bool {
    let Some(ContentRange::Bytes { first, last, .. }) = content_range(headers) else {
        return status == StatusCode::PARTIAL_CONTENT && !has_range_of_items(headers);
    };
    if whole_length(status, headers).is_some() {
        return false;
    }
    let has_its_length = content_length(headers).is_none_or(|length| length == last - first + 1);
    status == StatusCode::PARTIAL_CONTENT || (status == StatusCode::OK && has_its_length)
}

/// Returns whether the range is of another unit than bytes. Some leave the name of theirs away.
fn has_range_of_items(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| !value.trim().get(..5).is_some_and(|unit| unit.eq_ignore_ascii_case("bytes")))
}

/// Returns how many bytes an answer has whose `Content-Range` says that it holds all there are. A body that does not say itself how
/// long it is may end early without another sign.
pub fn whole_length(status: StatusCode, headers: &HeaderMap) -> Option<u64> {
    let Some(ContentRange::Bytes { first: 0, last, total }) = content_range(headers) else { return None };
    let is_whole = match status {
        StatusCode::OK => total.is_none_or(|total| total == last + 1),
        StatusCode::PARTIAL_CONTENT => total == Some(last + 1),
        _ => false,
    };
    is_whole.then_some(last + 1)
}

/// Returns how many bytes the body of an answer has that only the end of its connection ends, where headers say so whose name
/// frames nothing.
///
/// # Errors
///
/// They do not agree on a number.
pub(super) fn misspelt_length(headers: &HeaderMap) -> Result<Option<u64>, ()> {
    if headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING) {
        return Ok(None);
    }
    let values = headers.get_all(MISSPELT_LENGTH).iter();
    let lengths = values.map(|value| value.to_str().ok().and_then(|text| number(text.trim())));
    match lengths.reduce(|one, other| one.filter(|_| one == other)) {
        Some(None) => Err(()),
        told => Ok(told.flatten()),
    }
}

/// Returns how many bytes the body of an answer has, as its head says. A length that is told several times is one if all are
/// the same (RFC 9110, section 8.6).
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    content_lengths(headers).reduce(|one, other| one.filter(|_| one == other)).flatten()
}

/// Returns whether an answer tells several lengths that differ, or one that is no number.
pub(super) fn has_broken_length(headers: &HeaderMap) -> bool {
    headers.contains_key(CONTENT_LENGTH) && content_length(headers).is_none()
}

fn content_lengths(headers: &HeaderMap) -> impl Iterator<Item = Option<u64>> {
    let values = headers.get_all(CONTENT_LENGTH).iter();
    values.flat_map(|value| value.to_str().unwrap_or("?").split(',')).map(|length| number(length.trim()))
}

/// Reads the value of the header. As curl and browsers do, it takes what old servers write: `bytes=` or `bytes:`, blanks
/// around the numbers, and no total.
pub fn parse(value: &str) -> Option<ContentRange> {
    let value = value.trim();
    let unit = value.get(..5).filter(|unit| unit.eq_ignore_ascii_case("bytes"))?;
    let rest = &value[unit.len()..];
    let (range, total) = match rest.strip_prefix(['=', ':']).or_else(|| rest.strip_prefix(char::is_whitespace))? {
        rest if rest.contains('/') => rest.split_once('/')?,
        rest => (rest, "*"),
    };
    let (range, total) = (range.trim(), total.trim());
    if range == "*" {
        return Some(ContentRange::Unsatisfied { total: number(total)? });
    }
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first.trim())?, number(last.trim())?);
    let total = if matches!(total, "*" | "") { None } else { Some(number(total)?) };
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
        for odd in ["bytes=0-9/100", "bytes: 0-9/100", "bytes  0 - 9 / 100", "bytes\t0-9/100", " BYTES:0-9/100 "] {
            assert_eq!(parse(odd), bytes(0, 9, Some(100)), "{odd}");
        }
        assert_eq!([parse("bytes 0-9"), parse("bytes 0-9/")], [bytes(0, 9, None); 2]);
        for bad in [
            "",
            "bytes",
            "bytes -9",
            "bytes 9-0/100",
            "bytes 0-100/100",
            "items 0-9/100",
            "bytes +1-9/100",
            "bytes0-9/100",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        for endless in ["bytes 0-18446744073709551616/*", "bytes 0-18446744073709551615/*"] {
            assert_eq!(parse(endless), None);
        }
    }

    #[test]
    fn a_range_without_a_unit_is_one_of_bytes_where_the_body_has_as_many() {
        let of = |status, length: &'static str, range: &'static str| {
            let headers = [(CONTENT_LENGTH, length), (CONTENT_RANGE, range)];
            let headers = headers.map(|(name, value)| (name, http::HeaderValue::from_static(value)));
            content_range_of_bytes(status, &headers.into_iter().collect())
        };
        let bytes = Some(ContentRange::Bytes { first: 10, last: 19, total: Some(100) });
        assert_eq!(of(StatusCode::PARTIAL_CONTENT, "10", "10-19/100"), bytes);
        assert_eq!(of(StatusCode::PARTIAL_CONTENT, "11", "10-19/100"), None);
        assert_eq!(of(StatusCode::OK, "10", "10-19/100"), None);
        assert_eq!(of(StatusCode::PARTIAL_CONTENT, "10", "items 10-19/100"), None);
        assert_eq!(of(StatusCode::PARTIAL_CONTENT, "10", "*/100"), None);
    }

    #[test]
    fn a_length_of_another_name_is_told_where_nothing_frames_the_body() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(http::HeaderName::from_static(name), http::HeaderValue::from_static(value));
            }
            misspelt_length(&headers)
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[("content_length", "10")]), Ok(Some(10)));
        assert_eq!(of(&[("content_length", "10"), ("content_length", "10")]), Ok(Some(10)));
        assert_eq!(of(&[("content_length", "10"), ("content-length", "9")]), Ok(None));
        assert_eq!(of(&[("content_length", "10"), ("transfer-encoding", "chunked")]), Ok(None));
        assert_eq!(of(&[("content_length", "x")]), Err(()));
        assert_eq!(of(&[("content_length", "10"), ("content_length", "11")]), Err(()));
    }

    #[test]
    fn a_length_may_be_told_twice() {
        let told = |lines: &[&'static str]| {
            let pairs = lines.iter().map(|line| (CONTENT_LENGTH, http::HeaderValue::from_static(line)));
            let headers = pairs.fold(HeaderMap::new(), |mut all, (name, value)| {
                all.append(name, value);
                all
            });
            (content_length(&headers), has_broken_length(&headers))
        };
        assert_eq!(told(&[]), (None, false));
        assert_eq!([told(&["10"]), told(&["10, 10"]), told(&["10", "10"])], [(Some(10), false); 3]);
        for bad in [&["10, 11"][..], &["10", "11"], &["10", "11", "10"], &["-1"], &["+1"], &["1", "x"], &[""]] {
            assert_eq!(told(bad), (None, true), "{bad:?}");
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
