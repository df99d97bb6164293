//! Looking for secrets byte by byte. Pure.
//!
//! Each byte costs the same however the bytes are cut, and whatever they are: what was read of a secret so far is known by a
//! number (the algorithm of Knuth, Morris and Pratt), and is not read again.

/// A secret, prepared.
#[derive(Debug)]
pub(super) struct Needle {
    bytes: Vec<u8>,
    /// For each length of a beginning of the secret: how long the longest shorter beginning is with which that one ends.
    borders: Vec<usize>,
}

impl Needle {
    pub(super) fn new(bytes: &[u8]) -> Needle {
        let mut needle = Needle { bytes: bytes.to_vec(), borders: vec![0; bytes.len().min(1)] };
        let mut length = 0;
        for byte in bytes.iter().skip(1) {
            length = needle.step(length, *byte);
            needle.borders.push(length);
        }
        needle
    }

    /// Returns how many bytes of the secret are there when `byte` follows on `length` of them.
    fn step(&self, mut length: usize, byte: u8) -> usize {
        while length > 0 && self.bytes.get(length) != Some(&byte) {
            length = self.borders[length - 1];
        }
        length + usize::from(self.bytes.get(length) == Some(&byte))
    }
}

/// How an origin quotes what it was sent.
#[derive(Clone, Copy, Debug)]
enum Form {
    Plain,
    Percent,
    /// As in [`Form::Percent`], with `+` for spaces.
    Query,
    Escaped,
}

/// One way in which bytes are read, and how far it has come.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    form: Form,
    /// The bytes of an escape that is not whole.
    held: Vec<u8>,
    /// How many bytes of each secret are there.
    lengths: Vec<usize>,
}

impl Reading {
    /// All ways, before the first byte of any of so many secrets.
    pub(super) fn all(needles: usize) -> [Reading; 4] {
        [Form::Plain, Form::Percent, Form::Query, Form::Escaped].map(|form| Reading {
            form,
            held: Vec::new(),
            lengths: vec![0; needles],
        })
    }

    /// Returns whether a secret ends in these bytes, which come next.
    pub(super) fn finds(&mut self, needles: &[Needle], bytes: &[u8]) -> bool {
        let mut found = false;
        for byte in bytes {
            self.held.push(*byte);
            while let Some((byte, taken)) = self.form.first(&self.held) {
                self.held.drain(..taken);
                for (needle, length) in needles.iter().zip(&mut self.lengths) {
                    *length = needle.step(*length, byte);
                    found |= *length == needle.bytes.len();
                }
            }
        }
        found
    }
}

impl Form {
    /// Returns the byte for which the first ones stand, and how many these are; `None`: that needs more of them.
    fn first(self, bytes: &[u8]) -> Option<(u8, usize)> {
        let first = *bytes.first()?;
        match (self, first) {
            (Form::Percent | Form::Query, b'%') => percent(bytes),
            (Form::Query, b'+') => Some((b' ', 1)),
            (Form::Escaped, b'\\') => escaped(bytes),
            _ => Some((first, 1)),
        }
    }
}

fn percent(bytes: &[u8]) -> Option<(u8, usize)> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let Some(high) = digit(bytes.get(1)?) else { return Some((b'%', 1)) };
    let Some(low) = digit(bytes.get(2)?) else { return Some((b'%', 1)) };
    Some((u8::try_from(high * 16 + low).unwrap_or(b'%'), 3))
}

/// Returns the byte for which an escape of a JSON string stands. What is no escape stays.
pub(super) fn escaped(bytes: &[u8]) -> Option<(u8, usize)> {
    match bytes.get(1)? {
        b'u' => {
            let digits = bytes.get(2..ESCAPE_BYTES)?;
            Some(code(digits).map_or((b'\\', 1), |byte| (byte, ESCAPE_BYTES)))
        }
        quoted @ (b'"' | b'\\' | b'/') => Some((*quoted, 2)),
        _ => Some((b'\\', 1)),
    }
}

/// How many bytes an escape has at most for one that it stands for: `\u0041`.
pub(super) const ESCAPE_BYTES: usize = 6;

/// The byte of four hexadecimal digits, where it is one: secrets are of ASCII mostly, and others are not found so.
fn code(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok()?;
    u8::try_from(u32::from_str_radix(text, 16).ok()?).ok().filter(u8::is_ascii)
}
