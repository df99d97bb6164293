//! Looks at the heads of HTTP/1.1 answers on their way to hyper.
//!
//! Lines that are not headers are passed over, which must not happen to one that was meant to say where the body ends: a
//! body that is cut would pass for a whole one. hyper does not tell which lines it has passed over.
//!
//! What hyper refuses is put right, since one odd line must not cost the answer, nor its meaning: control characters and
//! a bare CR become spaces (RFC 9110, section 5.5); a status line is read as curl reads it, with spaces more or less and
//! in either case; of a head of thousands of lines those that nobody reads are passed over; an answer of HTTP/1.0 becomes
//! one of HTTP/1.1, because some are chunked all the same, and its
//! connection is not used again unless it says so; and `Transfer-Encoding: identity`, with which old servers say that
//! there is none (RFC 2616, section 3.6), or one without a value, becomes a line that is passed over.
//!
//! Lines are looked at when they are whole: the beginning of one is held back until its end has come. Behind the head of a
//! chunked body, [`Chunks`] looks at its framing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::{HeaderMap, header};

use crate::net::aside::Aside;
use crate::net::chunks::{Chunks, Framed};
use crate::net::lock;

/// The bytes that may come before the body of an answer: its head, and all interim answers and empty lines before it. What
/// goes on for longer does not end.
const HEAD_BYTES_MAX: usize = 2 << 20;
/// Longer lines are handed on in pieces: no framing header and no status line that is one has so many bytes.
const LINE_BYTES_MAX: usize = 256;
/// Lines beyond this are put aside unless they frame the body: hyper has room for a hundred headers.
const LINES_SHOWN_MAX: usize = 64;
/// Lines beyond this are passed over unless haul reads headers of their name.
const LINES_KEPT_MAX: usize = 1_000;
/// What the names begin with of headers that haul reads.
const READ: [&str; 17] = [
    "accept-ranges",
    "connection",
    "content-",
    MISSPELT_LENGTH,
    "date",
    "etag",
    "keep-alive",
    "last-modified",
    "link",
    "location",
    "ratelimit",
    "repr-digest",
    "retry-after",
    "set-cookie",
    "transfer-encoding",
    "www-authenticate",
    "x-",
];
/// Of those that begin with `x-`, which are the most by far.
const READ_OF_X: [&str; 5] =
    ["x-amz-checksum-", "x-ms-retry-after-ms", "x-rate-limit-", "x-ratelimit-", "x-retry-after"];
/// How an answer of HTTP/1.0 begins.
const OLD_VERSION: &[u8] = b"HTTP/1.0";
/// The headers that frame a body, without what is not a letter.
const FRAMING: [(&str, &str); 2] = [("contentlength", "content-length"), ("transferencoding", "transfer-encoding")];

/// A length in the spelling of variables, which some programs give their headers.
pub(super) const MISSPELT_LENGTH: &str = "content_length";

/// Shared by the stream that is read and the connection that asks.
#[derive(Default)]
pub(super) struct Watch {
    /// Whether the next bytes belong to a head, or to a chunked body.
    is_on: AtomicBool,
    /// Bytes that came while it was on.
    bytes: AtomicUsize,
    scan: Mutex<Scan>,
}

#[derive(Default)]
#[allow(clippy::struct_excessive_bools)] // Each is a fact of its own about the lines that went by.
struct Scan {
    /// Lines of this head so far.
    lines: usize,
    /// Bytes of the current line that were handed on.
    handed_on: usize,
    is_interim: bool,
    /// Whether more belongs to the current line: its end has not come, or the line behind it is a fold.
    goes_on: bool,
    is_broken: bool,
    before: Before,
    is_http10: bool,
    /// Whether the last line that names transfer codings says that the body is chunked, as far as that is plain.
    is_chunked: bool,
    aside: Aside,
    /// The last line of those that frame the body beyond [`LINES_SHOWN_MAX`]; empty: none, or one that goes on.
    framed: Vec<u8>,
    /// Behind the head of a chunked body.
    chunks: Option<Chunks>,
}

/// The line before the next, with the folds behind it.
#[derive(Default, PartialEq, Eq)]
enum Before {
    #[default]
    Other,
    /// It says that there is no transfer coding, and is passed over.
    Identity,
    /// It names one.
    Coding,
}

/// What to do with bytes that were looked at.
pub(super) struct Seen {
    /// How many at their end are to be held back and shown again, with those that follow.
    pub(super) held: usize,
    /// What is to be handed on instead of those from an offset on.
    pub(super) instead: Option<(usize, Vec<u8>)>,
}

impl Seen {
    fn all() -> Seen {
        Seen { held: 0, instead: None }
    }
}

impl Watch {
    /// Begins with the head of the next answer.
    pub(super) fn begin(&self) {
        *lock(&self.scan) = Scan::default();
        self.bytes.store(0, Ordering::Relaxed);
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Looks at bytes, of which the last `new` have just come, and puts them right.
    pub(super) fn see(&self, bytes: &mut [u8], new: usize) -> Seen {
        if !self.is_on.load(Ordering::Relaxed) {
            return Seen::all();
        }
        let mut scan = lock(&self.scan);
        if let Some(chunks) = &mut scan.chunks {
            let framed = chunks.see(bytes);
            self.is_on.store(*chunks != Chunks::Over, Ordering::Relaxed);
            return match framed {
                Framed::AsTheyAre => Seen::all(),
                Framed::Instead(bytes) => Seen { held: 0, instead: Some((0, bytes)) },
            };
        }
        match scan.look(bytes) {
            Look::Over { line, body } => {
                let mut chunks = scan.is_chunked.then(Chunks::new);
                let framed = chunks.as_mut().map_or(Framed::AsTheyAre, |chunks| chunks.see(&bytes[body..]));
                self.is_on.store(chunks.is_some_and(|chunks| chunks != Chunks::Over), Ordering::Relaxed);
                self.bytes.store(0, Ordering::Relaxed);
                scan.chunks = chunks;
                let rest = match framed {
                    // The line that ends the head has one CR at most.
                    Framed::AsTheyAre if body - line <= 2 => return Seen::all(),
                    Framed::AsTheyAre => bytes[body..].to_vec(),
                    Framed::Instead(rest) => rest,
                };
                Seen { held: 0, instead: Some((line, [b"\r\n", &rest[..]].concat())) }
            }
            Look::GoesOn { held } => {
                self.bytes.fetch_add(new, Ordering::Relaxed);
                Seen { held, instead: None }
            }
        }
    }

    /// Returns whether what comes before the body does not end.
    pub(super) fn is_endless(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > HEAD_BYTES_MAX
    }

    /// Returns whether the last head had a framing header that is broken.
    pub(super) fn is_broken(&self) -> bool {
        lock(&self.scan).is_broken
    }

    /// Takes the lines of the last head that hyper was not shown.
    pub(super) fn take_aside(&self) -> Aside {
        std::mem::take(&mut lock(&self.scan).aside)
    }

    /// Returns whether the chunks behind the last head are looked at, although by `headers` its body has none.
    pub(super) fn is_misled(&self, headers: &HeaderMap) -> bool {
        let is_chunked = |value: &http::HeaderValue| value.to_str().is_ok_and(|list| ends_chunked(list.as_bytes()));
        lock(&self.scan).is_chunked
            && !headers.get_all(header::TRANSFER_ENCODING).iter().next_back().is_some_and(is_chunked)
    }

    /// Returns whether the last head was of HTTP/1.0, whose connections end with their answer by default.
    pub(super) fn is_http10(&self) -> bool {
        lock(&self.scan).is_http10
    }
}

/// What is known of a head after some more bytes of it.
enum Look {
    /// Where its last line begins, which is empty, and what is behind it.
    Over { line: usize, body: usize },
    /// So many bytes begin a line whose end has not come.
    GoesOn { held: usize },
}

impl Scan {
    fn look(&mut self, bytes: &mut [u8]) -> Look {
        let mut start = 0;
        while let Some(length) = bytes[start..].iter().position(|byte| *byte == b'\n') {
            let next = bytes.get(start + length + 1).copied();
            let line = &bytes[start..];
            let may_go_on = next.is_none() && length < LINE_BYTES_MAX && self.handed_on == 0;
            if may_go_on && (self.names_no_coding(line) || self.is_open(line) || self.may_be_surplus(line)) {
                // What it says depends on whether the next line goes on with it.
                return Look::GoesOn { held: bytes.len() - start };
            }
            self.goes_on = matches!(next, Some(b' ' | b'\t'));
            let line_start = start;
            let line = &mut bytes[start..start + length];
            start += length + 1;
            // A program that writes its own CR through one that adds another has written two.
            let end = line.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
            let surplus = line.len().saturating_sub(end + 1);
            // The rest of a line that was handed on in part may have nothing else.
            if end > 0 || self.handed_on > 0 {
                line[end..end + surplus].fill(b' ');
            }
            let line = &mut line[..end];
            if std::mem::take(&mut self.handed_on) > 0 {
                clean(line);
                self.aside.go_on(line);
            } else if self.is_end(line) {
                return Look::Over { line: line_start, body: start };
            }
        }
        let rest = &mut bytes[start..];
        if rest.len() <= LINE_BYTES_MAX && self.handed_on == 0 {
            return Look::GoesOn { held: rest.len() };
        }
        // Whether a CR ends the line shows with the next byte.
        let held = usize::from(rest.ends_with(b"\r"));
        let (piece, _) = rest.split_at_mut(rest.len() - held);
        if self.handed_on > 0 {
            clean(piece);
            self.aside.go_on(piece);
        } else {
            self.goes_on = true;
            self.is_end(piece);
            // A list of codings whose end is not known: no honest one is so long.
            self.is_chunked &= self.before != Before::Coding;
            self.is_broken |= self.before == Before::Identity;
        }
        self.handed_on += piece.len();
        Look::GoesOn { held }
    }

    /// Whether a line names no transfer coding at all.
    fn names_no_coding(&self, line: &[u8]) -> bool {
        self.lines > 0 && coding_of(line).is_some_and(|(_, list)| members(list).next().is_none())
    }

    /// Whether a list of transfer codings ends with a comma, behind which a fold may add one.
    fn is_open(&self, line: &[u8]) -> bool {
        self.lines > 0 && coding_of(line).is_some_and(|(_, list)| list.ends_with(b","))
    }

    /// Whether a line may be passed over as one that frames the body as a line before it does.
    fn may_be_surplus(&self, line: &[u8]) -> bool {
        self.lines > LINES_SHOWN_MAX && matches!(line.first(), Some(b'C' | b'c' | b'T' | b't'))
    }

    /// Takes in a line and puts it right; `true`: it is the one behind the head.
    fn is_end(&mut self, line: &mut [u8]) -> bool {
        match (self.lines, &*line) {
            // Empty lines before a head are allowed.
            (0, []) => return false,
            (0, _) => {
                clean(line);
                correct_status(line);
                self.is_interim = line.get(9) == Some(&b'1') && !line[9..].starts_with(b"101");
                self.is_http10 = line.starts_with(OLD_VERSION);
                // Later versions of HTTP/1 are as this one (RFC 9110, section 2.5).
                if line.starts_with(b"HTTP/1.") && line.get(7).is_some_and(u8::is_ascii_digit) {
                    line[7] = b'1';
                }
            }
            (_, []) if self.is_interim => {
                self.lines = 0;
                self.is_chunked = false;
                self.aside = Aside::default();
                self.framed.clear();
                return false;
            }
            (_, []) => return true,
            (nth, header) => {
                let is_fold = header.starts_with(b" ") || header.starts_with(b"\t");
                // What is added to a line that is passed over would go with it.
                let adds_coding = self.before == Before::Identity && is_fold && !header.trim_ascii().is_empty();
                self.is_broken |= adds_coding || is_broken(header, is_fold, nth == 1);
                let colon = colon_of_identity(header, self.goes_on);
                let surplus = if nth > LINES_SHOWN_MAX && !is_fold { self.colon_of_surplus(header) } else { None };
                if is_fold {
                    self.framed.clear();
                    clean(line);
                    self.aside.go_on(line);
                } else {
                    self.aside.close();
                }
                let header = &*line;
                if let Some(colon) = surplus {
                    clean(line);
                    if nth <= LINES_KEPT_MAX || is_read(&line[..colon]) {
                        self.aside.begin(line);
                    }
                    // No name begins so and no fold does, so that it is passed over, whatever else stands in it.
                    line[0] = b'(';
                    self.before = Before::Other;
                } else if colon.is_some() {
                    self.before = Before::Identity;
                } else if is_fold {
                    self.is_chunked &= self.before != Before::Coding;
                } else if coding_of(header).is_some() {
                    if !self.goes_on {
                        end_with_member(line);
                    }
                    let list = coding_of(line).map_or(&[][..], |(_, list)| list);
                    self.is_chunked = list.is_ascii() && ends_chunked(list);
                    self.before = Before::Coding;
                } else {
                    self.before = Before::Other;
                }
                if let Some(colon) = colon.filter(|_| surplus.is_none()) {
                    // Without its colon it is not a header.
                    line[colon] = b' ';
                }
                clean(line);
            }
        }
        self.lines += 1;
        false
    }

    /// Returns where the colon is of a line that hyper need not be shown: it does not say how the answer is framed, or says no
    /// more than the last one that did.
    fn colon_of_surplus(&mut self, line: &[u8]) -> Option<usize> {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (line[..colon].trim_ascii_end(), &line[colon + 1..]);
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        let closes = || value.windows(5).any(|word| word.eq_ignore_ascii_case(b"close"));
        let frames = FRAMING.iter().any(|(_, name)| is(name)) || (is("connection") && (self.goes_on || closes()));
        if !frames {
            return Some(colon);
        }
        let is_same = !self.goes_on && self.framed == line;
        self.framed.clear();
        if !self.goes_on {
            self.framed.extend_from_slice(line);
        }
        is_same.then_some(colon)
    }
}

/// Makes spaces of control characters.
fn clean(line: &mut [u8]) {
    line.iter_mut().filter(|byte| byte.is_ascii_control() && **byte != b'\t').for_each(|byte| *byte = b' ');
}

/// Makes spaces of the empty members that a list ends with. They mean nothing, and hyper takes the last member for the one that
/// frames the body, whatever it is.
fn end_with_member(line: &mut [u8]) {
    let is_of_member = |byte: &u8| *byte != b',' && !byte.is_ascii_whitespace();
    let end = line.iter().rposition(is_of_member).map_or(0, |last| last + 1);
    line[end..].fill(b' ');
}

/// Puts a status line right that curl takes: `http/1.1`, several spaces before the status, and none behind it. What is
/// left over becomes spaces of the reason, which means nothing.
fn correct_status(line: &mut [u8]) {
    const STATUS_AT: usize = OLD_VERSION.len() + 1;
    if line.len() <= STATUS_AT || !line[..5].eq_ignore_ascii_case(b"HTTP/") || line[STATUS_AT - 1] != b' ' {
        return;
    }
    line[..4].make_ascii_uppercase();
    if matches!(&line[5..8], b"2.0" | b"3.0") {
        // A front end that copies the status line of what is behind it.
        line[5..8].copy_from_slice(b"1.1");
    }
    let spaces = line[STATUS_AT..].iter().take_while(|byte| **byte == b' ').count();
    line.copy_within(STATUS_AT + spaces.., STATUS_AT);
    let end = line.len() - spaces;
    line[end..].fill(b' ');
    let status_end = STATUS_AT + 3;
    if line.get(status_end).is_some_and(|next| *next != b' ' && !next.is_ascii_digit()) {
        line[status_end] = b' ';
    }
}

/// Returns where the colon is of a line that says that the body has no transfer coding, or says nothing of it.
fn colon_of_identity(line: &[u8], goes_on: bool) -> Option<usize> {
    let (colon, list) = coding_of(line)?;
    let is_empty = members(list).next().is_none();
    let is_none = members(list).all(|coding| coding.eq_ignore_ascii_case(b"identity"));
    (is_none && !(is_empty && goes_on)).then_some(colon)
}

/// The members of a list that are not empty, which mean nothing (RFC 9110, section 5.6.1.2).
fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// Whether haul reads a header of this name.
fn is_read(name: &[u8]) -> bool {
    let begins = |with: &&str| name.get(..with.len()).is_some_and(|own| own.eq_ignore_ascii_case(with.as_bytes()));
    match READ.iter().find(|name| begins(name)) {
        Some(&"x-") => READ_OF_X.iter().any(begins),
        found => found.is_some(),
    }
}

/// Whether a list of transfer codings ends with chunks, by the rule of hyper, which frames the body by it.
fn ends_chunked(list: &[u8]) -> bool {
    list.rsplit(|byte| *byte == b',').next().is_some_and(|last| last.trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// Returns where the colon of a `Transfer-Encoding` is, and its value.
fn coding_of(line: &[u8]) -> Option<(usize, &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let is_name = line[..colon].trim_ascii_end().eq_ignore_ascii_case(b"transfer-encoding");
    is_name.then(|| (colon, line[colon + 1..].trim_ascii()))
}

/// Returns whether a line was meant to be a framing header, and is not one. Blanks before it make a fold of it, which is one
/// of nothing where it is the first line behind the status.
fn is_broken(line: &[u8], is_fold: bool, is_first: bool) -> bool {
    if is_fold && !is_first {
        return false;
    }
    let colon = line.iter().position(|byte| *byte == b':');
    let (name, value) = colon.map_or((line, None), |at| (&line[..at], Some(&line[at + 1..])));
    let letters = || name.iter().filter(|byte| byte.is_ascii_alphabetic()).map(u8::to_ascii_lowercase);
    let Some((_, right)) = FRAMING.iter().find(|(meant, _)| letters().eq(meant.bytes())) else { return false };
    // Not a framing header, and yet it tells how many bytes there are, which the end of the connection confirms.
    let is_number =
        value.is_some_and(|value| !value.trim_ascii().is_empty() && value.trim_ascii().iter().all(u8::is_ascii_digit));
    if name.eq_ignore_ascii_case(MISSPELT_LENGTH.as_bytes()) && is_number {
        return false;
    }
    let is_name = name.trim_ascii_end().eq_ignore_ascii_case(right.as_bytes());
    let is_text = |value: &[u8]| value.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f));
    is_fold || !is_name || !value.is_some_and(is_text)
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
