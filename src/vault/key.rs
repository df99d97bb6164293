//! Keys, and how a root key wraps others.

use std::fmt;

use zeroize::{Zeroize as _, Zeroizing};

use crate::vault::seal::{open_alone, seal_alone};

/// The digits of a key.
const DIGITS: usize = 64;

/// A text that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a key: {DIGITS} hexadecimal digits are needed, as `openssl rand -hex 32` prints them")]
pub struct BadKey;

/// A key of 256 bits. It prints nothing of itself, and is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// A new key.
    pub fn random() -> Key {
        Key(rand::random())
    }

    /// Reads 64 hexadecimal digits, with white space around them or without.
    pub fn read(text: &str) -> Result<Key, BadKey> {
        let digits = text.trim().as_bytes();
        if digits.len() != DIGITS {
            return Err(BadKey);
        }
        let mut key = Key([0; 32]);
        for (byte, pair) in key.0.iter_mut().zip(digits.chunks(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or(BadKey);
            *byte = (digit(0)? << 4 | digit(1)?) as u8;
        }
        Ok(key)
    }

    /// The key as [`Key::read`] takes it, for the file that keeps it and nothing else.
    pub fn digits(&self) -> Zeroizing<String> {
        let mut digits = Zeroizing::new(String::with_capacity(DIGITS));
        for half in self.0.iter().flat_map(|byte| [byte >> 4, byte & 0xf]) {
            digits.extend(char::from_digit(half.into(), 16));
        }
        digits
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Wraps another key, so that it can be kept where anybody may read. `name` has to be said again to unwrap it.
    pub fn wrap(&self, name: &str, key: &Key) -> Option<Vec<u8>> {
        let mut wrapped = Vec::new();
        seal_alone(&self.0, name.as_bytes(), &key.0, &mut wrapped).ok()?;
        Some(wrapped)
    }

    /// Unwraps a key; `None` where another key wrapped it, or it is damaged.
    pub fn unwrap_key(&self, name: &str, wrapped: &[u8]) -> Option<Key> {
        let plain = open_alone(&self.0, name.as_bytes(), wrapped).ok()?;
        plain.as_slice().try_into().ok().map(Key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_64_digits() {
        let key = Key::random();
        assert_eq!(Key::read(&format!(" {}\n", key.digits().to_uppercase())), Ok(key.clone()));
        for bad in ["", "00", &"g".repeat(64), &"0".repeat(65), &"é".repeat(32)] {
            assert_eq!(Key::read(bad), Err(BadKey), "{bad}");
        }
        assert_eq!(format!("{key:?}"), "Key");
    }

    #[test]
    fn only_the_key_that_wrapped_unwraps() {
        let (root, other, key) = (Key::random(), Key::random(), Key::random());
        let wrapped = root.wrap("data key 1", &key).unwrap();
        assert_eq!(root.unwrap_key("data key 1", &wrapped), Some(key));
        assert_eq!(root.unwrap_key("data key 2", &wrapped), None);
        assert_eq!(other.unwrap_key("data key 1", &wrapped), None);
        assert_eq!(root.unwrap_key("data key 1", b""), None);
    }
}
