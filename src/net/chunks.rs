//! Looks at the chunks of HTTP/1.1 answers on their way to hyper, and puts right how they are framed.
//!
//! hyper bounds the extensions of all chunks of a body together, which a large body whose chunks are signed exceeds, and
//! refuses lines that end with a bare LF, and trailers that are folded or long. Nothing of that says what the body is, so
//! extensions and trailers, which nobody reads, are left out, and lines end as they should. What could mean other bytes,
//! as a size that is no number, is handed on for hyper to refuse. Pure.

use std::ops::Range;

/// Where in a chunked body the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunks {
    /// Within the digits of a size; `None`: before the first.
    Size(Option<u64>),
    /// Behind the digits: blanks, and then an extension or the end of the line.
    Blanks(u64),
    /// Within an extension.
    Extension(u64),
    /// Behind the CR of a line with a size.
    SizeLf(u64),
    /// So many bytes of content are to come.
    Content(u64),
    /// Behind the content of a chunk.
    ContentEnd,
    /// Behind the CR there.
    ContentLf,
    /// At the start of a line behind the last chunk.
    Trailer,
    /// Within such a line.
    TrailerLine,
    /// Behind the CR of an empty one.
    TrailerLf,
    /// The body is over, or is not chunked as it should be: all that follows stays as it is.
    Over,
}

/// What is to be handed on of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Framed {
    /// All of them.
    AsTheyAre,
    /// These bytes instead.
    Instead(Vec<u8>),
}

impl Chunks {
    /// Before the first chunk.
    pub(super) fn new() -> Chunks {
        Chunks::Size(None)
    }

    /// Takes the next bytes in, and says what to hand on.
    pub(super) fn see(&mut self, bytes: &[u8]) -> Framed {
        let mut out = Out { bytes, done: 0, changed: None };
        let mut at = 0;
        while at < bytes.len() && *self != Chunks::Over {
            if let Chunks::Content(left) = self {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                at += here;
                *left -= here as u64;
                if *left == 0 {
                    *self = Chunks::ContentEnd;
                }
                continue;
            }
            *self = self.next(bytes[at], at..at + 1, &mut out);
            at += 1;
        }
        out.end()
    }

    /// Where the byte behind this one is. What is not handed on as it is, is told to `out`.
    fn next(self, byte: u8, here: Range<usize>, out: &mut Out<'_>) -> Chunks {
        match (self, byte) {
            (Chunks::Size(size), _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                let next = size.unwrap_or(0).checked_mul(16).and_then(|size| size.checked_add(digit.into()));
                next.map_or(Chunks::Over, |size| Chunks::Size(Some(size)))
            }
            // Kept, so that what follows never joins the digits.
            (Chunks::Size(Some(size)) | Chunks::Blanks(size), b' ' | b'\t') => Chunks::Blanks(size),
            (Chunks::Size(Some(size)) | Chunks::Blanks(size), b'\r') => Chunks::SizeLf(size),
            (Chunks::Size(Some(size)) | Chunks::Blanks(size) | Chunks::Extension(size), b'\n') => {
                out.put(here, b"\r\n");
                Chunks::behind_size(size)
            }
            (Chunks::Size(Some(size)) | Chunks::Blanks(size), b';') | (Chunks::Extension(size), _) => {
                out.put(here, b"");
                Chunks::Extension(size)
            }
            (Chunks::SizeLf(size), b'\n') => Chunks::behind_size(size),
            (Chunks::ContentEnd, b'\r') => Chunks::ContentLf,
            (Chunks::ContentEnd, b'\n') => {
                out.put(here, b"\r\n");
                Chunks::new()
            }
            (Chunks::ContentLf, b'\n') => Chunks::new(),
            (Chunks::Trailer, b'\r') => Chunks::TrailerLf,
            (Chunks::Trailer, b'\n') => {
                out.put(here, b"\r\n");
                Chunks::Over
            }
            (Chunks::Trailer | Chunks::TrailerLine, _) => {
                out.put(here, b"");
                if byte == b'\n' { Chunks::Trailer } else { Chunks::TrailerLine }
            }
            // The end of the body, or what hyper is to refuse.
            _ => Chunks::Over,
        }
    }

    fn behind_size(size: u64) -> Chunks {
        if size == 0 { Chunks::Trailer } else { Chunks::Content(size) }
    }
}

/// Bytes on their way, some of which are replaced.
struct Out<'a> {
    bytes: &'a [u8],
    /// So many of them were looked at, and are in `changed` where there is one.
    done: usize,
    changed: Option<Vec<u8>>,
}

impl Out<'_> {
    /// Puts other bytes in the place of those in `range`.
    fn put(&mut self, range: Range<usize>, instead: &[u8]) {
        let changed = self.changed.get_or_insert_with(|| Vec::with_capacity(self.bytes.len()));
        changed.extend_from_slice(&self.bytes[self.done..range.start]);
        changed.extend_from_slice(instead);
        self.done = range.end;
    }

    fn end(self) -> Framed {
        let Some(mut changed) = self.changed else { return Framed::AsTheyAre };
        changed.extend_from_slice(&self.bytes[self.done..]);
        Framed::Instead(changed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(body: &[u8], size: usize) -> Vec<u8> {
        let mut chunks = Chunks::new();
        let mut all = Vec::new();
        for piece in body.chunks(size) {
            match chunks.see(piece) {
                Framed::AsTheyAre => all.extend_from_slice(piece),
                Framed::Instead(bytes) => all.extend(bytes),
            }
        }
        all
    }

    #[test]
    fn what_says_nothing_of_the_body_is_left_out_wherever_it_is_cut() {
        for (body, right) in [
            ("3\r\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n"),
            ("3;a=b\r\na;c\r\n0;x\r\n\r\nrest", "3\r\na;c\r\n0\r\n\r\nrest"),
            ("3 \t ; a=\"b;\r\"\r\nabc\r\n0\r\n\r\n", "3 \t \r\nabc\r\n0\r\n\r\n"),
            ("3\nabc\n0\n\n", "3\r\nabc\r\n0\r\n\r\n"),
            ("3  \nabc\r\n000\nA: b\n c\nno header\r\n\n3\n", "3  \r\nabc\r\n000\r\n\r\n3\n"),
            ("00aB \r\n", "00aB \r\n"),
            ("0\r\nX: y\r\n", "0\r\n"),
            // What could be another body is for hyper to refuse.
            (" 3\r\nabc\n", " 3\r\nabc\n"),
            ("3\rx\n;abc\n", "3\rx\n;abc\n"),
            ("3x\n;abc\n", "3x\n;abc\n"),
            ("3 4;\nabc\n", "3 4;\nabc\n"),
            ("3\r\nabcd\n;", "3\r\nabcd\n;"),
            ("\n;", "\n;"),
            ("10000000000000000;\n", "10000000000000000;\n"),
        ] {
            for size in [1, 2, 3, 100] {
                assert_eq!(String::from_utf8_lossy(&seen(body.as_bytes(), size)), right, "{body:?} by {size}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_content_stays_as_it_is(
            contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            extension in "(;[ -~]{0,9})?",
            end in "\r?\n",
            size in 1usize..50,
        ) {
            let line = |length: usize, end: &str, extension: &str| format!("{length:x}{extension}{end}").into_bytes();
            let body = |end: &str, extension: &str| {
                let mut all = Vec::new();
                for content in &contents {
                    all.extend(line(content.len(), end, extension));
                    all.extend_from_slice(content);
                    all.extend_from_slice(end.as_bytes());
                }
                all.extend(line(0, end, extension));
                all.extend_from_slice(end.as_bytes());
                all
            };
            prop_assert_eq!(seen(&body(&end, &extension), size), body("\r\n", ""));
        }

        #[test]
        fn never_panics(body in proptest::collection::vec(proptest::sample::select(b"0af;\r\n \tx".to_vec()), 0..60), size in 1usize..9) {
            seen(&body, size);
        }
    }
}
