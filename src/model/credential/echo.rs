//! Finding a secret in what an origin sends back. Pure.
//!
//! Looked for are the value itself, and in the forms in which origins quote it: percent-encoded, escaped as in JSON, and in the
//! base64 that it was sent in. What is encoded in any other way is not found.

use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use memchr::memmem;
use percent_encoding::percent_decode;

use crate::model::credential::Value;
use crate::model::credential::reading::{ESCAPE_BYTES, Needle, Reading, escaped};
use crate::model::failure::{Failure, FailureReason};
use crate::model::secret::is_secret_name;

/// The least bytes of a secret: a shorter one would be found everywhere.
pub const SECRET_BYTES_MIN: usize = 8;

/// What parts of the value of a header end at, and the least bytes of one that is looked for by itself: shorter ones are words.
const PART_ENDS: [char; 3] = [' ', ';', ','];
const PART_BYTES_MIN: usize = 12;

/// A piece of less than this part of the reach is read byte by byte, since what came before it would be searched again for it.
const SMALL_PART: usize = 8;

/// What is looked for.
#[derive(Debug)]
pub struct Echo {
    needles: Vec<Finder>,
    /// The same in lower case, once somebody has asked for it.
    folded: OnceLock<Vec<Finder>>,
    /// The same for who reads byte by byte, once somebody does.
    steps: OnceLock<Vec<Needle>>,
    /// Whether one of them has a space, which forms write as `+`.
    has_space: bool,
    /// The most bytes that one of them takes, with everything in it escaped.
    reach: usize,
}

type Finder = memmem::Finder<'static>;

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
                // Of `Scheme token` the token alone is a secret too, and so is that of `user:token` or `Token token="token"`.
                let last = value.expose().rsplit(' ').next().unwrap_or_default();
                let parts = value.expose().split(PART_ENDS).filter_map(secret_part);
                let parts = parts.filter(|part| part.len() >= PART_BYTES_MIN);
                parts.chain([value.expose(), last]).map(str::to_owned).collect()
            }
            Value::Query { value, .. } => vec![value.expose().to_owned()],
        };
        let texts: Vec<&[u8]> = texts.iter().filter_map(|text| looked_for(text)).collect();
        let reach = texts.iter().map(|text| text.len() * ESCAPE_BYTES).max()?;
        let has_space = texts.iter().any(|text| text.contains(&b' '));
        let needles = texts.into_iter().map(|text| memmem::Finder::new(text).into_owned()).collect();
        Some(Echo { needles, folded: OnceLock::new(), steps: OnceLock::new(), has_space, reach })
    }

    /// Fails where one of these texts holds the secret, whatever the case of its letters. They are what haul has made of an
    /// answer: a name that it decoded, or a URL that it put together, which the answer itself need not hold.
    ///
    /// # Errors
    ///
    /// The failure of an attempt whose origin sends the secret back.
    pub fn refuse(&self, made: &[&str]) -> Result<(), Failure> {
        if made.iter().any(|text| self.is_in_any_case(text.as_bytes())) { Err(echoed()) } else { Ok(()) }
    }

    /// Returns whether the secret is in these bytes.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        reads(bytes, self.has_space, |bytes| self.needles.iter().any(|needle| needle.find(bytes).is_some()))
    }

    /// As [`Echo::is_in`], whatever the case of its letters: for names of headers and for messages, in which haul itself has
    /// written them in lower case.
    pub fn is_in_any_case(&self, bytes: &[u8]) -> bool {
        let folded = || {
            let fold = |needle: &Finder| memmem::Finder::new(&needle.needle().to_ascii_lowercase()).into_owned();
            self.needles.iter().map(fold).collect()
        };
        let needles = self.folded.get_or_init(folded);
        reads(bytes, self.has_space, |bytes| {
            let bytes = bytes.to_ascii_lowercase();
            needles.iter().any(|needle| needle.find(&bytes).is_some())
        })
    }

    fn steps(&self) -> &[Needle] {
        self.steps.get_or_init(|| self.needles.iter().map(|needle| Needle::new(needle.needle())).collect())
    }
}

/// Returns what is secret in a part of the value of a header, apart from the part itself: the value of a name that says so, or
/// what stands behind the name of a user.
fn secret_part(part: &str) -> Option<&str> {
    match part.split_once('=') {
        Some((name, value)) => is_secret_name(name).then(|| value.trim_matches(['"', '\''])),
        None => part.rsplit_once(':').map(|(_, secret)| secret).filter(|secret| !secret.starts_with("//")),
    }
}

/// Returns what of a secret is looked for: padding may be left away, unless too little would be left. `None`: it is too short.
fn looked_for(text: &str) -> Option<&[u8]> {
    let unpadded = text.trim_end_matches('=');
    [unpadded, text].into_iter().map(str::as_bytes).find(|text| text.len() >= SECRET_BYTES_MIN)
}

/// Returns whether something is in these bytes, or in what they stand for where an origin has quoted it.
fn reads(bytes: &[u8], has_space: bool, is_here: impl Fn(&[u8]) -> bool) -> bool {
    if is_here(bytes) {
        return true;
    }
    let percent = memchr::memchr(b'%', bytes).is_some();
    if percent && is_here(&percent_decode(bytes).collect::<Vec<u8>>()) {
        return true;
    }
    let is_form = has_space && memchr::memchr(b'+', bytes).is_some();
    if is_form {
        let spaced: Vec<u8> = bytes.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
        if is_here(&percent_decode(&spaced).collect::<Vec<u8>>()) {
            return true;
        }
    }
    memchr::memchr(b'\\', bytes).is_some() && is_here(&unescaped(bytes))
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
    while let Some(first) = rest.first() {
        let escape = if *first == b'\\' { escaped(rest) } else { None };
        let (byte, taken) = escape.unwrap_or((*first, 1));
        plain.push(byte);
        rest = &rest[taken..];
    }
    plain
}

/// A look at bytes that come in pieces, which may cut a secret anywhere. What it costs goes by the bytes, not by the pieces.
#[derive(Clone, Debug)]
pub struct EchoScan {
    echo: Arc<Echo>,
    /// The last bytes, at least as many as a secret takes.
    tail: Vec<u8>,
    /// How far the secret has come by now, where the last piece was a small one.
    readings: Option<[Reading; 4]>,
}

impl EchoScan {
    /// Begins to look.
    pub fn new(echo: Arc<Echo>) -> EchoScan {
        EchoScan { echo, tail: Vec::new(), readings: None }
    }

    /// Returns whether the secret ends in these bytes, which come next.
    pub fn finds(&mut self, bytes: &[u8]) -> bool {
        let reach = self.echo.reach;
        if bytes.len() < reach / SMALL_PART {
            return self.reads_on(bytes);
        }
        self.readings = None;
        self.tail.drain(..self.tail.len().saturating_sub(reach));
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

    /// As [`EchoScan::finds`], byte by byte.
    fn reads_on(&mut self, bytes: &[u8]) -> bool {
        let (reach, needles) = (self.echo.reach, self.echo.steps());
        let readings = self.readings.get_or_insert_with(|| {
            let mut readings = Reading::all(needles.len());
            let last = &self.tail[self.tail.len().saturating_sub(reach)..];
            for reading in &mut readings {
                reading.finds(needles, last);
            }
            readings
        });
        let mut found = false;
        for reading in readings {
            found |= reading.finds(needles, bytes);
        }
        self.tail.extend_from_slice(bytes);
        // Not at each piece, since all that stays is moved.
        if self.tail.len() > 2 * reach {
            self.tail.drain(..self.tail.len() - reach);
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
        for text in [
            "Token token=\"0123456789ab\"",
            "someone@example.com:0123456789ab",
            "MediaBrowser Token='0123456789ab', V=1",
        ] {
            let parts = Echo::of(&Value::Header { name: "x-auth".into(), value: Secret::new(text) }).unwrap();
            assert!(parts.is_in(b"no such token: 0123456789ab"), "{text}");
            assert!(!parts.is_in(b"MediaBrowser says hello to someone@example.com"), "{text}");
        }
        let realm = "OAuth realm=\"https://api.example.com/\", oauth_token=0123456789ab, a=b";
        let realm = Echo::of(&Value::Header { name: "authorization".into(), value: Secret::new(realm) }).unwrap();
        assert!(!realm.is_in(b"https://api.example.com/next") && realm.is_in(b"0123456789ab"));
        let query = Value::Query { name: "key".into(), value: Secret::new("a b&c=d/e") };
        for text in ["a+b%26c%3Dd%2Fe", "a%20b%26c%3Dd/e", "a+b&c=d/e"] {
            assert!(Echo::of(&query).unwrap().is_in(text.as_bytes()), "{text}");
        }
        let padded = Echo::of(&Value::Bearer(Secret::new("abcdef=="))).unwrap();
        assert!(padded.is_in(b"you sent abcdef==") && !padded.is_in(b"you sent abcdef"));
        assert!(padded.refuse(&["a", "/abcdef%3D="]).is_err() && padded.refuse(&["a", "b"]).is_ok());
        let pem = Value::Certificate { certificate: "pem".into(), key: Secret::new("0123456789") };
        assert!(Echo::of(&pem).is_none());
    }

    #[test]
    fn case_counts_only_where_nobody_has_changed_it() {
        let echo = basic();
        for text in ["S3CRET/w0rd+x", "s3cret%2FW0RD%2BX", "S3CRET\\/w0rd+x"] {
            assert!(!echo.is_in(text.as_bytes()) && echo.is_in_any_case(text.as_bytes()), "{text}");
        }
        assert!(!echo.is_in_any_case(b"s3cret/w0rd-x"));
    }

    /// Each byte is a piece of its own, and the end of a whole secret but for its last byte.
    #[test]
    fn small_pieces_cost_what_their_bytes_do() {
        let long = "a%".repeat(8 << 10);
        let value = Value::Bearer(Secret::new(format!("{long}b")));
        let mut scan = EchoScan::new(Arc::new(Echo::of(&value).unwrap()));
        for (before, piece) in long.repeat(8).as_bytes().chunks(1).chain([&b"b"[..]]).enumerate() {
            assert!(scan.readings.is_some() || before == 0, "what came before is not searched again");
            assert_eq!(scan.finds(piece), piece == b"b");
        }
        assert!(scan.tail.len() <= 2 * scan.echo.reach);
    }

    proptest! {
        /// Large pieces are searched, small ones are read byte by byte.
        #[test]
        fn both_ways_to_look_find_the_same(
            text in prop::collection::vec(prop::sample::select(vec!["a", "+", " ", "%20", "%2b", "word", "pass", "\\u0020", "="]), 0..12),
            secret in prop::sample::select(vec!["pass word", "pass+word", "password", "wordpass=="]),
        ) {
            let echo = Arc::new(Echo::of(&Value::Bearer(Secret::new(secret))).unwrap());
            let text = text.concat();
            let mut scan = EchoScan::new(Arc::clone(&echo));
            let mut found = false;
            for byte in text.as_bytes().chunks(1) {
                found |= scan.finds(byte);
            }
            prop_assert_eq!(found, echo.is_in(text.as_bytes()));
        }

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
