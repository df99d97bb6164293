//! Header lines of long heads that hyper is not shown.
//!
//! At each answer hyper makes room for as many headers as it may be shown, and heads of more than some dozen lines are rare. So
//! what says nothing about how an answer is framed is put aside from some line on, and joins the rest of the head when that was read.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The most lines that are kept.
const LINES_MAX: usize = 4_000;

/// Lines of one head. They keep their order, and stand behind all that were read before them.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// Each line ends with `\n`.
    bytes: Vec<u8>,
    lines: usize,
    /// Whether the last line goes on.
    is_open: bool,
}

impl Aside {
    /// Puts the beginning of a line aside, or all of it. Control characters must have been replaced.
    pub(super) fn begin(&mut self, line: &[u8]) {
        self.is_open = self.lines < LINES_MAX;
        if self.is_open {
            self.lines += 1;
            self.bytes.push(b'\n');
            self.bytes.extend_from_slice(line);
        }
    }

    /// Puts more of the last line aside, if that is here: a further piece of it, or a fold.
    pub(super) fn go_on(&mut self, piece: &[u8]) {
        if self.is_open {
            self.bytes.extend_from_slice(piece);
        }
    }

    /// Ends the last line: what goes on is another.
    pub(super) fn close(&mut self) {
        self.is_open = false;
    }

    /// Adds all lines to the headers of their head. One that cannot be a header is passed over, as hyper does.
    pub(super) fn join(self, headers: &mut HeaderMap) {
        for line in self.bytes.split(|byte| *byte == b'\n') {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let name = HeaderName::from_bytes(line[..colon].trim_ascii_end());
            let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
            if let (Ok(name), Ok(value)) = (name, value) {
                // There is room for more headers than lines are kept.
                let _ = headers.try_append(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_join_the_headers_in_their_order() {
        let mut aside = Aside::default();
        aside.go_on(b"behind nothing");
        aside.begin(b"Set-Cookie : a=1");
        aside.go_on(b"; Path=/");
        aside.close();
        aside.go_on(b"; Secure");
        for line in ["set-cookie:b=2", "not a header", "na me: x", "X:", "Y: \u{e4}"] {
            aside.begin(line.as_bytes());
        }
        let mut headers = HeaderMap::new();
        headers.insert("set-cookie", HeaderValue::from_static("first"));
        aside.join(&mut headers);
        let all = headers.get_all("set-cookie").iter().map(|it| it.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(all, ["first", "a=1; Path=/", "b=2"]);
        assert_eq!((headers["x"].as_bytes(), headers["y"].as_bytes()), (&b""[..], "\u{e4}".as_bytes()));
        assert_eq!(headers.len(), 5);
    }

    #[test]
    fn so_many_lines_are_kept_and_no_more() {
        let mut aside = Aside::default();
        for _ in 0..LINES_MAX {
            aside.begin(b"x: y");
        }
        let bytes = aside.bytes.len();
        aside.begin(b"x: y");
        aside.go_on(b"more");
        assert_eq!(aside.bytes.len(), bytes);
        let mut headers = HeaderMap::new();
        aside.join(&mut headers);
        assert_eq!(headers.len(), LINES_MAX);
    }
}
