//! Looks out for broken framing headers in the heads of HTTP/1.1 answers.
//!
//! Lines that are not headers are passed over, which must not happen to one that was meant to say where the body ends: a
//! body that is cut would pass for a whole one. hyper does not tell which lines it has passed over, so the bytes of each
//! head are looked at on their way to it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::net::lock;

/// What is kept of a line: more than a framing header has.
const LINE_BYTES_MAX: usize = 256;
/// The headers that frame a body, without what is not a letter.
const FRAMING: [(&str, &str); 2] = [("contentlength", "content-length"), ("transferencoding", "transfer-encoding")];

/// Shared by the stream that is read and the connection that asks.
#[derive(Default)]
pub(super) struct Watch {
    /// Whether the next bytes belong to a head.
    is_on: AtomicBool,
    scan: Mutex<Scan>,
}

#[derive(Default)]
struct Scan {
    line: Vec<u8>,
    /// Lines of this head before the current one.
    lines: usize,
    is_interim: bool,
    is_broken: bool,
}

impl Watch {
    /// Begins with the head of the next answer.
    pub(super) fn begin(&self) {
        *lock(&self.scan) = Scan::default();
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Looks at bytes that have come.
    pub(super) fn see(&self, bytes: &[u8]) {
        if self.is_on.load(Ordering::Relaxed) && lock(&self.scan).is_over(bytes) {
            self.is_on.store(false, Ordering::Relaxed);
        }
    }

    /// Returns whether the last head had a framing header that is broken.
    pub(super) fn is_broken(&self) -> bool {
        lock(&self.scan).is_broken
    }
}

impl Scan {
    /// Takes bytes in; `true` once the head has ended.
    fn is_over(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            if *byte != b'\n' {
                if self.line.len() < LINE_BYTES_MAX {
                    self.line.push(*byte);
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            match (self.lines, line) {
                // Empty lines before a head are allowed.
                (0, []) => continue,
                (0, status) => self.is_interim = status.get(9) == Some(&b'1') && !status[9..].starts_with(b"101"),
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
        head.as_bytes().chunks(3).for_each(|chunk| watch.see(chunk));
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
        fn never_panics(head in proptest::collection::vec(any::<u8>(), 0..200)) {
            let watch = Watch::default();
            watch.begin();
            watch.see(&head);
        }
    }
}
