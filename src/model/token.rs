//! The text of a token: `haul_`, a public id, `_`, a secret and a checksum by which scanners know it. Pure.
//!
//! 43 characters of chance need no slow hash: who has the database cannot find the text that a hash was made of.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

const PREFIX: &str = "haul_";
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 60 bits.
const ID_CHARACTERS: usize = 10;
/// 256 bits.
const SECRET_CHARACTERS: usize = 43;
const CHECK_CHARACTERS: usize = 6;
const TEXT_BYTES: usize = PREFIX.len() + ID_CHARACTERS + 1 + SECRET_CHARACTERS + CHECK_CHARACTERS;

/// The SHA-256 of the whole text of a token: all that is kept of it.
#[derive(Clone, Copy)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// Compares in a time that does not depend on where they differ.
    pub fn is(&self, other: &TokenHash) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::model::secret::REDACTED)
    }
}

/// A token as it is sent. Prints as `REDACTED`.
#[derive(Clone)]
pub struct TokenText(String);

impl TokenText {
    /// Makes a token of characters that `draw` chooses, each evenly from 0 to 61.
    pub fn of(mut draw: impl FnMut() -> usize) -> TokenText {
        let mut characters =
            |count: usize| -> String { (0..count).map(|_| char::from(ALPHABET[draw() % ALPHABET.len()])).collect() };
        let (id, secret) = (characters(ID_CHARACTERS), Zeroizing::new(characters(SECRET_CHARACTERS)));
        // Large enough from the beginning: a string that grows leaves what it was.
        let mut text = String::with_capacity(TEXT_BYTES);
        for part in [PREFIX, &id, "_", &secret] {
            text.push_str(part);
        }
        let check = checksum(&text);
        text.push_str(&check);
        TokenText(text)
    }

    /// Reads a token; `None` where it is none, or was damaged on the way.
    pub fn parse(text: &str) -> Option<TokenText> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let is_whole = id.len() == ID_CHARACTERS && secret.len() == SECRET_CHARACTERS + CHECK_CHARACTERS;
        let is_ours = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_whole || !is_ours(id) || !is_ours(secret) {
            return None;
        }
        let (body, check) = text.split_at(text.len() - CHECK_CHARACTERS);
        (checksum(body) == check).then(|| TokenText(text.to_owned()))
    }

    /// Returns its id, which is no secret.
    pub fn id(&self) -> &str {
        &self.0[PREFIX.len()..PREFIX.len() + ID_CHARACTERS]
    }

    /// Returns its hash.
    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(&self.0).into())
    }

    /// Returns the text itself, for who asked for the token and nobody else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// What is freed is not left in memory.
impl Drop for TokenText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::model::secret::REDACTED)
    }
}

/// The CRC-32 of zlib in base 62, high digit first.
fn checksum(text: &str) -> String {
    let mut rest = crc32(text.as_bytes()) as usize;
    let mut digits = [0; CHECK_CHARACTERS];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[rest % ALPHABET.len()];
        rest /= ALPHABET.len();
    }
    digits.map(char::from).iter().collect()
}

fn crc32(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> TokenText {
        let mut at = 0;
        TokenText::of(|| {
            at += 7;
            at
        })
    }

    #[test]
    fn the_sum_is_that_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
        assert_eq!(checksum(""), "000000");
    }

    #[test]
    fn a_token_is_read_as_it_was_made_and_nothing_else_is() {
        let whole = token();
        let text = whole.expose().to_owned();
        assert_eq!(text.len(), 5 + 10 + 1 + 49);
        let read = TokenText::parse(&text).unwrap();
        assert!(read.hash().is(&whole.hash()) && read.id() == &text[5..15]);
        for end in 0..text.len() {
            assert!(TokenText::parse(&text[..end]).is_none(), "cut at {end}");
        }
        for at in 0..text.len() {
            for other in ["0", "z", "_", "-", " ", "ü"] {
                let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
                assert!(changed == text || TokenText::parse(&changed).is_none(), "{changed}");
            }
        }
        for odd in [format!(" {text}"), format!("{text}\n"), text.to_uppercase(), format!("{text}0")] {
            assert!(TokenText::parse(&odd).is_none(), "{odd:?}");
        }
    }

    #[test]
    fn nothing_prints_it() {
        let token = token();
        assert_eq!(format!("{token:?} {:?}", token.hash()), "REDACTED REDACTED");
    }
}
