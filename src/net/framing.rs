//! Looks at the heads of HTTP/1.1 answers on their way to hyper.
//!
//! Lines that are not headers are passed over, which must not happen to one that was meant to say where the body ends: a
//! body that is cut would pass for a whole one. hyper does not tell which lines it has passed over.
//!
//! Three things that hyper refuses are put right, since one odd line must not cost the answer, nor its meaning: control
//! characters and a bare CR become spaces (RFC 9110, section 5.5); an answer of HTTP/1.0 becomes one of HTTP/1.1, because
//! some are chunked all the same, and its connection is not used again unless it says so; and `Transfer-Encoding:
//! identity`, with which old servers say that there is none (RFC 2616, section 3.6), becomes a line that is passed over.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::net::lock;

/// The bytes that may come before the body of an answer: its head, and all interim answers and empty lines before it. What
/// goes on for longer does not end.
const HEAD_BYTES_MAX: usize = 2 << 20;
/// What is kept of a line: more than a framing header has.
const LINE_BYTES_MAX: usize = 256;
/// How an answer of HTTP/1.0 begins.
const OLD_VERSION: &[u8] = b"HTTP/1.0";
/// The headers that frame a body, without what is not a letter.
const FRAMING: [(&str, &str); 2] = [("contentlength", "content-length"), ("transferencoding", "transfer-encoding")];

/// Shared by the stream that is read and the connection that asks.
#[derive(Default)]
pub(super) struct Watch {
    /// Whether the next bytes belong to a head.
    is_on: AtomicBool,
    /// Bytes that came while it was on.
    bytes: AtomicUsize,
    scan: Mutex<Scan>,
}

#[derive(Default)]
struct Scan {
    line: Vec<u8>,
    /// Lines of this head before the current one.
    lines: usize,
    is_interim: bool,
    is_broken: bool,
    is_http10: bool,
}

impl Watch {
    /// Begins with the head of the next answer.
    pub(super) fn begin(&self) {
        *lock(&self.scan) = Scan::default();
        self.bytes.store(0, Ordering::Relaxed);
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Looks at bytes that have come, and puts them right.
    pub(super) fn see(&self, bytes: &mut [u8]) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        if lock(&self.scan).is_over(bytes) {
            self.is_on.store(false, Ordering::Relaxed);
            self.bytes.store(0, Ordering::Relaxed);
        } else {
            self.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
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

    /// Returns whether the last head was of HTTP/1.0, whose connections end with their answer by default.
    pub(super) fn is_http10(&self) -> bool {
        lock(&self.scan).is_http10
    }
}

impl Scan {
    /// Takes bytes in; `true` once the head has ended.
    fn is_over(&mut self, bytes: &mut [u8]) -> bool {
        // Where in `bytes` the current line begins, if it does.
        let mut start = self.line.is_empty().then_some(0);
        for at in 0..bytes.len() {
            let byte = bytes[at];
            if byte != b'\n' {
                if self.line.len() < LINE_BYTES_MAX {
                    self.line.push(byte);
                }
                let is_bare = byte == b'\r' && bytes.get(at + 1).is_some_and(|next| *next != b'\n');
                if is_bare || (byte.is_ascii_control() && !matches!(byte, b'\t' | b'\r')) {
                    bytes[at] = b' ';
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            let start = start.replace(at + 1);
            if let (Some(start), Some(colon)) = (start, colon_of_identity(line)) {
                // Without its colon it is not a header.
                bytes[start + colon] = b' ';
            }
            match (self.lines, line) {
                // Empty lines before a head are allowed.
                (0, []) => continue,
                (0, status) => {
                    self.is_interim = status.get(9) == Some(&b'1') && !status[9..].starts_with(b"101");
                    self.is_http10 = status.starts_with(OLD_VERSION);
                    if let (true, Some(start)) = (self.is_http10, start) {
                        bytes[start + OLD_VERSION.len() - 1] = b'1';
                    }
                }
                (_, []) if self.is_interim => {
                    self.lines = 0;
                    continue;
                }
                (_, []) => return true,
                (_, header) => self.is_broken |= is_broken(header),
            }
            self.lines += 1;
        }
        false
    }
}

/// Returns where the colon is of a line that says that the body has no transfer coding.
fn colon_of_identity(line: &[u8]) -> Option<usize> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let is_name = line[..colon].trim_ascii_end().eq_ignore_ascii_case(b"transfer-encoding");
    (is_name && line[colon + 1..].trim_ascii().eq_ignore_ascii_case(b"identity")).then_some(colon)
}

/// Returns whether a line was meant to be a framing header, and is not one.
fn is_broken(line: &[u8]) -> bool {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return false;
    }
    let colon = line.iter().position(|byte| *byte == b':');
    let (name, value) = colon.map_or((line, None), |at| (&line[..at], Some(&line[at + 1..])));
    let letters: String = name.iter().filter(|byte| byte.is_ascii_alphabetic()).map(|byte| char::from(*byte)).collect();
    let letters = letters.to_ascii_lowercase();
    let Some((_, right)) = FRAMING.iter().find(|(meant, _)| letters == *meant) else { return false };
    let is_name = name.trim_ascii_end().eq_ignore_ascii_case(right.as_bytes());
    let is_text = |value: &[u8]| value.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f));
    !is_name || !value.is_some_and(is_text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_broken(head: &str) -> bool {
        let watch = Watch::default();
        watch.begin();
        head.as_bytes().chunks(3).for_each(|chunk| watch.see(&mut chunk.to_vec()));
        watch.is_broken()
    }

    #[test]
    fn a_line_that_was_meant_to_frame_the_body_must_do_so() {
        for good in [
            "Content-Length: 3",
            "content-length :3",
            "X-Content-Length 3",
            "PHP Warning: Content-Length",
            "Transfer-Encoding:\r\n chunked",
            "X: 1\r\n Content-Length 3",
        ] {
            assert!(!is_broken(&format!("HTTP/1.1 200 OK\r\n{good}\r\n\r\nContent Length: 3\r\n")), "{good}");
        }
        for bad in [
            "Content Length: 3",
            "Content-Length 3",
            "Content_Length: 3",
            "Content-Length\u{0}: 3",
            "Content-Length: 3\u{0}",
            "Transfer-Encoding\u{b}: chunked",
            "TransferEncoding: chunked",
        ] {
            assert!(
                is_broken(&format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\nX: y\r\n{bad}\r\n\r\n")),
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics(mut head in proptest::collection::vec(any::<u8>(), 0..200)) {
            let watch = Watch::default();
            watch.begin();
            watch.see(&mut head);
        }

        #[test]
        fn what_follows_a_head_stays_as_it_is(body in proptest::collection::vec(any::<u8>(), 0..50)) {
            let head = b"HTTP/1.0 200 OK\r\nX: a\0b\rc\x07\r\n\r\n";
            let watch = Watch::default();
            watch.begin();
            let mut bytes = [&head[..], &body].concat();
            watch.see(&mut bytes);
            prop_assert_eq!(&bytes[..head.len()], b"HTTP/1.1 200 OK\r\nX: a b c \r\n\r\n");
            prop_assert_eq!(&bytes[head.len()..], &body[..]);
        }
    }
}
