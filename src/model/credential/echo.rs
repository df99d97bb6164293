//! Finding a secret in what an origin sends back. Pure.
//!
//! Looked for are the value itself, and in the forms in which origins quote it: percent-encoded, escaped as in JSON, and in the
//! base64 that it was sent in. What is encoded in any other way is not found.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use memchr::memmem;
use percent_encoding::percent_decode;

use crate::model::credential::Value;
use crate::model::failure::{Failure, FailureReason};

/// The least bytes of a secret: a shorter one would be found everywhere.
pub const SECRET_BYTES_MIN: usize = 8;
/// How many bytes an escape has at most for one that it stands for: `\u0041`.
const ESCAPE_BYTES: usize = 6;

/// What is looked for.
#[derive(Debug)]
pub struct Echo {
    needles: Vec<memmem::Finder<'static>>,
    /// The most bytes that one of them takes, with everything in it escaped.
    reach: usize,
}

impl Echo {
    /// Looks for the secret of `value`. `None`: it has none that is sent.
    pub fn of(value: &Value) -> Option<Echo> {
        let texts: Vec<String> = match value {
            // Of the key only what it signs is sent.
            Value::Certificate { .. } => Vec::new(),
            Value::Bearer(token) => vec![token.expose().to_owned()],
            Value::Basic { user, password } => {
                let pair = format!("{user}:{}", password.expose());
                vec![password.expose().to_owned(), STANDARD.encode(&pair), URL_SAFE.encode(&pair)]
            }
            Value::Header { value, .. } => {
                // Of `Scheme token` the token alone is a secret too.
                let last = value.expose().rsplit(' ').next().unwrap_or_default();
                vec![value.expose().to_owned(), last.to_owned()]
            }
            Value::Query { value, .. } => vec![value.expose().to_owned()],
        };
        // Padding may be left away.
        let texts = texts.iter().map(|text| text.trim_end_matches('=').as_bytes());
        let texts: Vec<&[u8]> = texts.filter(|text| text.len() >= SECRET_BYTES_MIN).collect();
        let reach = texts.iter().map(|text| text.len() * ESCAPE_BYTES).max()?;
        let needles = texts.into_iter().map(|text| memmem::Finder::new(text).into_owned()).collect();
        Some(Echo { needles, reach })
    }

    /// Returns whether the secret is in these bytes.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        let is_here = |bytes: &[u8]| self.needles.iter().any(|needle| needle.find(bytes).is_some());
        if is_here(bytes) {
            return true;
        }
        let percent = memchr::memchr(b'%', bytes).is_some();
        if percent && is_here(&percent_decode(bytes).collect::<Vec<u8>>()) {
            return true;
        }
        // Forms write spaces as `+`.
        let is_form = percent && memchr::memchr(b'+', bytes).is_some();
        if is_form {
            let spaced: Vec<u8> = bytes.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
            if is_here(&percent_decode(&spaced).collect::<Vec<u8>>()) {
                return true;
            }
        }
        memchr::memchr(b'\\', bytes).is_some() && is_here(&unescaped(bytes))
    }
}

/// Returns the failure of an attempt whose origin sends the secret back.
pub fn echoed() -> Failure {
    let message = "the origin sent the credential's secret back, so nothing of its answer is kept; bind the credential to paths \
                   that do not repeat what they are sent";
    Failure::fatal(FailureReason::SecretEchoed, message)
}

/// Undoes the escapes of JSON strings, wherever they stand. What is no escape stays.
fn unescaped(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, others)) = rest.split_first() {
        let (byte, taken) = match (first, others.first()) {
            (b'\\', Some(b'u')) => match others.get(1..5).and_then(code) {
                Some(byte) => (byte, ESCAPE_BYTES),
                None => (b'\\', 1),
            },
            (b'\\', Some(quoted @ (b'"' | b'\\' | b'/'))) => (*quoted, 2),
            (byte, _) => (*byte, 1),
        };
        plain.push(byte);
        rest = &rest[taken..];
    }
    plain
}

/// The byte of four hexadecimal digits, where it is one: secrets are of ASCII mostly, and others are not found so.
fn code(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok()?;
    u8::try_from(u32::from_str_radix(text, 16).ok()?).ok().filter(u8::is_ascii)
}

/// A look at bytes that come in pieces, which may cut a secret anywhere.
#[derive(Clone, Debug)]
pub struct EchoScan {
    echo: Arc<Echo>,
    /// The last bytes, as many as a secret takes.
    tail: Vec<u8>,
}

impl EchoScan {
    /// Begins to look.
    pub fn new(echo: Arc<Echo>) -> EchoScan {
        EchoScan { echo, tail: Vec::new() }
    }

    /// Returns whether the secret ends in these bytes, which come next.
    pub fn finds(&mut self, bytes: &[u8]) -> bool {
        let reach = self.echo.reach;
        self.tail.extend_from_slice(&bytes[..bytes.len().min(reach)]);
        let found = self.echo.is_in(&self.tail) || (bytes.len() > reach && self.echo.is_in(bytes));
        if bytes.len() > reach {
            self.tail.clear();
            self.tail.extend_from_slice(&bytes[bytes.len() - reach..]);
        } else {
            self.tail.drain(..self.tail.len().saturating_sub(reach));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::secret::Secret;

    const PASSWORD: &str = "s3cret/w0rd+x";

    fn basic() -> Arc<Echo> {
        let value = Value::Basic { user: "me".into(), password: Secret::new(PASSWORD) };
        Arc::new(Echo::of(&value).unwrap())
    }

    #[test]
    fn each_form_of_a_secret_is_found() {
        let echo = basic();
        let sent = STANDARD.encode(format!("me:{PASSWORD}"));
        for text in [
            PASSWORD,
            &sent,
            sent.trim_end_matches('='),
            "s3cret%2Fw0rd%2Bx",
            "s3cret%2fw0rd%2bx",
            "%733cret/w0rd%2Bx",
            "s3cret\\/w0rd+x",
            "s3cret\\u002fw0rd\\u002Bx",
        ] {
            assert!(echo.is_in(format!("{{\"you sent\": \"{text}\"}}").as_bytes()), "{text}");
        }
        for text in ["s3cret/w0rd", "s3cret/W0rd+x", "", "%", "\\u", "\\u00"] {
            assert!(!echo.is_in(text.as_bytes()), "{text}");
        }
        let header = Value::Header { name: "authorization".into(), value: Secret::new("ApiKey 0123456789") };
        assert!(Echo::of(&header).unwrap().is_in(b"key 0123456789 is wrong"));
        let query = Value::Query { name: "key".into(), value: Secret::new("a b&c=d/e") };
        for text in ["a+b%26c%3Dd%2Fe", "a%20b%26c%3Dd/e"] {
            assert!(Echo::of(&query).unwrap().is_in(text.as_bytes()), "{text}");
        }
        let pem = Value::Certificate { certificate: "pem".into(), key: Secret::new("0123456789") };
        assert!(Echo::of(&pem).is_none());
    }

    proptest! {
        #[test]
        fn no_cut_hides_it(
            before in prop::collection::vec(any::<u8>(), 0..400),
            after in prop::collection::vec(any::<u8>(), 0..400),
            form in 0..4usize,
            cuts in prop::collection::vec(0..1000usize, 0..12),
        ) {
            let form = [PASSWORD, "%73%33%63%72%65%74%2f%77%30%72%64%2b%78", "s3cret\\/w0rd+x", "bWU6czNjcmV0L3cwcmQreA"][form];
            // A backslash or percent sign before it would be of the escape.
            let all = [before.as_slice(), b" ", form.as_bytes(), after.as_slice()].concat();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(all.len())).collect();
            cuts.extend([0, all.len()]);
            cuts.sort_unstable();
            let mut scan = EchoScan::new(basic());
            let mut found = false;
            for pair in cuts.windows(2) {
                found |= scan.finds(&all[pair[0]..pair[1]]);
            }
            prop_assert!(found);
        }

        #[test]
        fn any_bytes_are_looked_at(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            basic().is_in(&bytes);
        }
    }
}
