//! Bytes that an origin serves: any amount, made from a seed, so that no file is needed and every byte can be checked.

use std::ops::Range;
use std::time::{Duration, UNIX_EPOCH};

use super::reply::Reply;
use super::request::Request;

/// One version of a resource, with correct conditional and range semantics (RFC 9110, sections 13 and 14).
///
/// Two objects of the same seed are the same bytes as far as both reach.
#[derive(Clone, Debug)]
pub struct Object {
    seed: u64,
    size: u64,
    etag: Option<String>,
    last_modified: Option<String>,
    content_type: String,
    ranges: bool,
}

impl Object {
    /// An object with a strong entity tag, a `Last-Modified` and ranges.
    pub fn new(seed: u64, size: u64) -> Object {
        // Each seed is a day of its own, so that versions differ in both validators.
        let modified = UNIX_EPOCH + Duration::from_secs(1_700_000_000 + (seed % 1000) * 86_400);
        Object {
            seed,
            size,
            etag: Some(format!("\"{seed:x}-{size:x}\"")),
            last_modified: Some(httpdate::fmt_http_date(modified)),
            content_type: "application/octet-stream".into(),
            ranges: true,
        }
    }

    /// Sets the entity tag, quotes (and `W/`) included.
    pub fn etag(mut self, etag: &str) -> Object {
        self.etag = Some(etag.into());
        self
    }

    /// Sets the validators that `other` has.
    pub fn validators_of(mut self, other: &Object) -> Object {
        self.etag.clone_from(&other.etag);
        self.last_modified.clone_from(&other.last_modified);
        self
    }

    pub fn no_etag(mut self) -> Object {
        self.etag = None;
        self
    }

    pub fn last_modified(mut self, date: &str) -> Object {
        self.last_modified = Some(date.into());
        self
    }

    pub fn no_last_modified(mut self) -> Object {
        self.last_modified = None;
        self
    }

    /// Answers every GET with the whole object and does not say `Accept-Ranges`.
    pub fn no_ranges(mut self) -> Object {
        self.ranges = false;
        self
    }

    pub fn content_type(mut self, content_type: &str) -> Object {
        self.content_type = content_type.into();
        self
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// All its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.slice(0..self.size)
    }

    /// Some of its bytes.
    pub fn slice(&self, range: Range<u64>) -> Vec<u8> {
        let end = range.end.min(self.size);
        let mut bytes = Vec::with_capacity(end.saturating_sub(range.start) as usize + 8);
        let mut at = range.start;
        while at < end {
            let word = splitmix(self.seed ^ (at / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes();
            let from = (at % 8) as usize;
            let take = (8 - from).min((end - at) as usize);
            bytes.extend_from_slice(&word[from..from + take]);
            at += take as u64;
        }
        bytes
    }

    /// What a correct origin answers to `request`: 200, 206, 304, 412 or 416.
    pub fn respond(&self, request: &Request) -> Reply {
        if self.is_refused(request) {
            return self.with_validators(Reply::status(412));
        }
        if self.is_unchanged(request) {
            return self.with_validators(Reply::status(304));
        }
        let wanted = request.header("range").filter(|_| self.ranges && self.range_applies(request));
        let Some(range) = wanted.and_then(|text| parse_range(text, self.size)) else {
            return self.whole();
        };
        let Some(range) = range else {
            let unsatisfied = Reply::status(416).header("Content-Range", &format!("bytes */{}", self.size));
            return self.with_validators(unsatisfied);
        };
        let content_range = format!("bytes {}-{}/{}", range.start, range.end - 1, self.size);
        let part = Reply::status(206).slice(self, range).header("Content-Range", &content_range);
        self.with_validators(part).header("Content-Type", &self.content_type)
    }

    fn whole(&self) -> Reply {
        let mut reply = Reply::status(200).slice(self, 0..self.size).header("Content-Type", &self.content_type);
        if self.ranges {
            reply = reply.header("Accept-Ranges", "bytes");
        }
        self.with_validators(reply)
    }

    fn with_validators(&self, mut reply: Reply) -> Reply {
        if let Some(etag) = &self.etag {
            reply = reply.header("ETag", etag);
        }
        if let Some(date) = &self.last_modified {
            reply = reply.header("Last-Modified", date);
        }
        reply
    }

    fn is_refused(&self, request: &Request) -> bool {
        if let Some(tags) = request.header("if-match") {
            return tags != "*" && !tags.split(',').any(|tag| self.is_strong_match(tag.trim()));
        }
        match (request.header("if-unmodified-since"), &self.last_modified) {
            (Some(given), Some(own)) => given != own,
            _ => false,
        }
    }

    fn is_unchanged(&self, request: &Request) -> bool {
        if let Some(tags) = request.header("if-none-match") {
            let weak = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
            let own = self.etag.as_deref().map(weak);
            return tags == "*" || tags.split(',').any(|tag| Some(weak(tag)) == own);
        }
        match (request.header("if-modified-since"), &self.last_modified) {
            (Some(given), Some(own)) => given == own,
            _ => false,
        }
    }

    /// `If-Range`: a range is answered only when the validator matches strongly.
    fn range_applies(&self, request: &Request) -> bool {
        match request.header("if-range") {
            None => true,
            Some(tag) if tag.contains('"') => self.is_strong_match(tag),
            Some(date) => self.last_modified.as_deref() == Some(date),
        }
    }

    fn is_strong_match(&self, tag: &str) -> bool {
        !tag.starts_with("W/") && self.etag.as_deref() == Some(tag)
    }
}

/// `None`: not one byte range, so it is ignored. `Some(None)`: it cannot be satisfied.
#[allow(clippy::option_option)]
fn parse_range(text: &str, size: u64) -> Option<Option<Range<u64>>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first, last) {
        ("", suffix) => size.saturating_sub(suffix.parse().ok()?)..size,
        (first, "") => first.parse().ok()?..size,
        (first, last) => first.parse().ok()?..last.parse::<u64>().ok()?.saturating_add(1).min(size),
    };
    Some((range.start < range.end).then_some(range))
}

fn splitmix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
