//! May the bytes of this answer go into that file, and where? The one place that decides it.
//!
//! Pure: [`first_ask`] says what to ask for with what is held, [`decide`] what the answer is good for. Every row of the
//! table in the tests is a way in which downloaders were seen to end with a wrong file and to call it a success.
//!
//! Whatever is decided here, [`crate::files::part`] checks the versions once more before it takes a byte.

use std::fmt;
use std::ops::Range;

use crate::files::part::{Stored, Trust};
use crate::files::version::{Sameness, Version};
use crate::model::failure::{Failure, FailureReason};
use crate::net::range::ContentRange;

/// A date is sent as a validator only when the resource had rested that long: the two clocks may differ
/// (RFC 7232, section 2.2.2).
const DATE_SETTLED_SECONDS: i64 = 60;

/// What to ask an origin for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ask {
    /// The bytes; `None`: the whole. An end of `u64::MAX` is left open.
    pub range: Option<Range<u64>>,
    /// The validator under which a range is wanted, and else the whole; empty: none.
    pub if_range: String,
    /// What an answer before this one did wrong, after which nothing of the held bytes is trusted to this origin.
    pub distrust: Option<Why>,
}

/// What the head of an answer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub status: u16,
    /// With the total size, as far as it is known from whichever header.
    pub version: Version,
    pub content_range: Option<ContentRange>,
    pub content_type: String,
    /// In a content coding: its bytes are not those of the resource, or are made anew each time.
    pub is_encoded: bool,
}

impl Answer {
    fn is_html(&self) -> bool {
        is_html(&self.content_type)
    }
}

/// What an answer is good for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Its body is the whole, and what is held is of no use: `None` when nothing was held.
    Begin(Option<Why>),
    /// Its body is the bytes of the held version from `at` to before `end`.
    Continue { at: u64, end: u64 },
    /// Its body is the whole of the held version: up to `to` there is nothing to write.
    Discard { to: u64 },
    /// Nothing is missing.
    Complete,
    /// Its body is of no use; ask this instead.
    AskAgain(Ask),
    /// Its body is of no use, and asking again is not either.
    Refuse(Failure),
    /// It is an error; judging its status is for [`crate::net::classify`].
    Status,
}

/// Why held bytes are not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    ContentChanged,
    TagChanged,
    Unproven,
    WrongRange,
    NoContentRange,
    Encoded,
    Unsatisfiable,
    ResumeDisabled,
    ChecksumMismatch,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::ContentChanged => "content changed",
            Why::TagChanged => "the entity tag changed",
            Why::Unproven => "nothing proves that the content is the same",
            Why::WrongRange => "the origin sent another range than it was asked for",
            Why::NoContentRange => "the origin sent a range without saying which",
            Why::Encoded => "the content is encoded, so it has no ranges",
            Why::Unsatisfiable => "the origin has not the range that is missing",
            Why::ResumeDisabled => "resuming is switched off",
            Why::ChecksumMismatch => "the checksum did not match",
        })
    }
}

/// What to ask for first: from the first missing byte on.
pub(super) fn first_ask(stored: Option<&Stored>, trust: Trust) -> Ask {
    match stored {
        Some(stored) if is_worth_asking(&stored.binding.version, trust) => {
            let total = stored.binding.version.total.unwrap_or(u64::MAX);
            let gap = stored.ranges.gaps(total).next();
            Ask {
                range: gap.map(|gap| gap.start..open_end(gap.end, total)),
                ..conditional(&stored.binding.version, trust)
            }
        }
        _ => Ask::default(),
    }
}

fn is_worth_asking(held: &Version, trust: Trust) -> bool {
    held.is_provable() || (trust.has_digest() && held.total.is_some())
}

/// An ask for a range of a version, under the strongest condition that it allows. Another source does not know the
/// validators of the first.
pub(super) fn conditional(version: &Version, trust: Trust) -> Ask {
    let if_range = if trust == Trust::DigestAcross {
        String::new()
    } else if version.has_strong_etag() {
        version.etag.clone()
    } else if version.settled_seconds() >= DATE_SETTLED_SECONDS {
        version.last_modified.clone()
    } else {
        String::new()
    };
    Ask { if_range, ..Ask::default() }
}

/// A range up to the end is asked for without an end, so that the answer also tells when there is more than expected.
fn open_end(end: u64, total: u64) -> u64 {
    if end == total { u64::MAX } else { end }
}

/// What `answer` to `ask` is good for, with `stored` held.
pub(super) fn decide(stored: Option<&Stored>, ask: &Ask, answer: &Answer, trust: Trust) -> Verdict {
    match answer.status {
        200 | 203 => whole(stored, ask, answer, trust),
        206 => partial(stored, ask, answer, trust),
        416 if ask.range.is_some() => unsatisfied(stored, answer),
        _ => Verdict::Status,
    }
}

fn whole(stored: Option<&Stored>, ask: &Ask, answer: &Answer, trust: Trust) -> Verdict {
    let Some(stored) = stored else { return Verdict::Begin(ask.distrust) };
    if let Some(why) = ask.distrust {
        return Verdict::Begin(Some(why));
    }
    if is_page_instead(stored, answer) {
        return page_instead(stored);
    }
    if answer.is_encoded {
        return Verdict::Begin(Some(Why::Encoded));
    }
    if !stored.admits(&answer.version, trust) {
        return Verdict::Begin(Some(mismatch(stored, answer)));
    }
    // The same version, and yet not the range: an origin that does not understand `If-Range`, perhaps.
    if ask.range.is_some() && !ask.if_range.is_empty() {
        return Verdict::AskAgain(Ask { if_range: String::new(), ..ask.clone() });
    }
    let total = answer.version.total.or(stored.binding.version.total).unwrap_or(u64::MAX);
    Verdict::Discard { to: stored.ranges.gaps(total).next().map_or(0, |gap| gap.start) }
}

fn partial(stored: Option<&Stored>, ask: &Ask, answer: &Answer, trust: Trust) -> Verdict {
    let (Some(stored), Some(range)) = (stored, &ask.range) else {
        return Verdict::Refuse(Failure::retryable(
            FailureReason::Protocol,
            "the origin answered 206 (Partial Content) to a request for the whole",
        ));
    };
    if is_page_instead(stored, answer) {
        return page_instead(stored);
    }
    if answer.is_encoded {
        return ask_whole(Some(Why::Encoded));
    }
    let Some(ContentRange::Bytes { first, last, .. }) = answer.content_range else {
        return ask_whole(Some(Why::NoContentRange));
    };
    if first != range.start || last >= range.end {
        return ask_whole(Some(Why::WrongRange));
    }
    if !stored.admits(&answer.version, trust) {
        return ask_whole(None);
    }
    Verdict::Continue { at: first, end: last + 1 }
}

fn unsatisfied(stored: Option<&Stored>, answer: &Answer) -> Verdict {
    if let (Some(stored), Some(ContentRange::Unsatisfied { total })) = (stored, answer.content_range)
        && stored.ranges.is_all_of(total)
        && stored.binding.version.compare(&answer.version) != Sameness::Different
    {
        return Verdict::Complete;
    }
    ask_whole(Some(Why::Unsatisfiable))
}

fn ask_whole(distrust: Option<Why>) -> Verdict {
    Verdict::AskAgain(Ask { distrust, ..Ask::default() })
}

fn mismatch(stored: &Stored, answer: &Answer) -> Why {
    match stored.binding.version.compare(&answer.version) {
        Sameness::Unproven => Why::Unproven,
        Sameness::Drifted => Why::TagChanged,
        Sameness::Same | Sameness::Different => Why::ContentChanged,
    }
}

/// A page where a file was: a login, a notice, a captive portal. It must not replace what is held.
fn is_page_instead(stored: &Stored, answer: &Answer) -> bool {
    answer.is_html() && !stored.binding.content_type.is_empty() && !is_html(&stored.binding.content_type)
}

fn page_instead(stored: &Stored) -> Verdict {
    Verdict::Refuse(Failure::retryable(
        FailureReason::BadContent,
        format!(
            "the origin answers with an HTML page where it had `{}` before; what is held is kept",
            stored.binding.content_type
        ),
    ))
}

fn is_html(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("text/html") || essence.eq_ignore_ascii_case("application/xhtml+xml")
}

#[cfg(test)]
#[path = "resume_tests.rs"]
mod tests;
