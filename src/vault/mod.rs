//! Secrets at rest: what is sealed into a bag, and with which key.
//!
//! A root key, which the operator keeps, wraps the data keys; these are stored beside what they seal. A bag is sealed under a
//! key of its own, derived from a data key and 16 random bytes, so that no nonce can ever be used twice. It opens only in the
//! place that it was sealed for: a bag that is moved to another row is damaged.
//!
//! It must not know where keys and bags are kept: bytes come in, bytes go out.

mod error;
mod key;
mod seal;

use std::sync::{PoisonError, RwLock};

use ring::hmac;
use zeroize::Zeroizing;

pub use crate::vault::error::VaultError;
pub use crate::vault::key::{BadKey, Key};
use crate::vault::seal::{MORE_BYTES, Sealer, open_alone};

/// The first byte of a bag: its layout, which says how its key is derived.
const LAYOUT: u8 = 2;
/// The layout of older bags, the whole of whose derivation was done for each.
const OLDER_LAYOUT: u8 = 1;
/// The layout and the number of the data key.
const HEAD_BYTES: usize = 5;

/// The number of a data key.
pub type KeyNumber = u32;

/// The data keys of a store, unwrapped.
pub struct Vault {
    keys: RwLock<Keys>,
    mac: hmac::Key,
}

struct Keys {
    /// The number of the key that seals.
    current: KeyNumber,
    all: Vec<DataKey>,
}

struct DataKey {
    number: KeyNumber,
    key: Key,
    sealer: Sealer,
}

impl DataKey {
    fn new((number, key): (KeyNumber, Key)) -> DataKey {
        let sealer = Sealer::new(key.bytes());
        DataKey { number, key, sealer }
    }
}

impl Keys {
    fn find(&self, number: KeyNumber) -> Result<&DataKey, VaultError> {
        self.all.iter().find(|other| other.number == number).ok_or(VaultError::NoKey(number))
    }
}

impl Vault {
    /// A vault of these data keys, of which the last one seals, and of the key of digests and page tokens. Without a data key
    /// there is nothing to seal with.
    pub fn new(keys: Vec<(KeyNumber, Key)>, mac: &Key) -> Option<Vault> {
        let current = keys.last()?.0;
        let mac = hmac::Key::new(hmac::HMAC_SHA256, mac.bytes());
        let all = keys.into_iter().map(DataKey::new).collect();
        Some(Vault { keys: RwLock::new(Keys { current, all }), mac })
    }

    /// Seals a bag for `place`, which has to be named again to open it.
    pub fn seal(&self, place: &[u8], plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let key = keys.find(keys.current)?;
        let mut bag = Vec::with_capacity(HEAD_BYTES + plain.len() + MORE_BYTES);
        bag.push(LAYOUT);
        bag.extend_from_slice(&keys.current.to_be_bytes());
        key.sealer.seal(place, plain, &mut bag)?;
        Ok(bag)
    }

    /// Opens a bag of `place`.
    pub fn open(&self, place: &[u8], bag: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let number = key_of(bag)?;
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let (key, sealed) = (keys.find(number)?, &bag[HEAD_BYTES..]);
        if bag[0] == OLDER_LAYOUT { open_alone(key.key.bytes(), place, sealed) } else { key.sealer.open(place, sealed) }
    }

    /// The number of the key that seals.
    pub fn current(&self) -> KeyNumber {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).current
    }

    /// Seals with another key from now on.
    pub fn turn_to(&self, number: KeyNumber, key: Key) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.all.push(DataKey::new((number, key)));
        keys.current = number;
    }

    /// A digest that nobody without the key can compute: one of a password cannot be guessed from the database. `purpose`
    /// keeps digests of one kind from being taken for those of another.
    pub fn keyed(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.mac);
        // Lengths go in, so that no two inputs read the same.
        for part in std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }
}

/// The number of the data key that a bag is sealed with.
pub fn key_of(bag: &[u8]) -> Result<KeyNumber, VaultError> {
    match bag {
        [LAYOUT | OLDER_LAYOUT, a, b, c, d, ..] => Ok(KeyNumber::from_be_bytes([*a, *b, *c, *d])),
        _ => Err(VaultError::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault() -> Vault {
        Vault::new(vec![(1, Key::random()), (2, Key::random())], &Key::random()).unwrap()
    }

    #[test]
    fn a_bag_opens_in_its_place_alone() {
        let vault = vault();
        let bag = vault.seal(b"task 1", b"secret").unwrap();
        assert_eq!(key_of(&bag), Ok(2));
        assert!(!bag.windows(6).any(|bytes| bytes == b"secret"));
        assert_eq!(*vault.open(b"task 1", &bag).unwrap(), b"secret");
        assert_eq!(vault.open(b"task 2", &bag), Err(VaultError::Damaged));
        assert_ne!(vault.seal(b"task 1", b"secret").unwrap(), bag, "a fresh key each time");
    }

    #[test]
    fn a_bag_of_the_older_layout_opens() {
        // As it was sealed when that was the only layout, for the place `p`.
        let key = Key::read(&"07".repeat(32)).unwrap();
        let bag = [
            0x01, 0x00, 0x00, 0x00, 0x01, 0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c,
            0x0d, 0x0e, 0x0f, 0x05, 0x01, 0xb7, 0xbd, 0x5c, 0xbf, 0x98, 0x18, 0x99, 0x64, 0xe6, 0x8a, 0x86, 0x60, 0xa7,
            0xb0, 0xd2, 0x22, 0x6d, 0x2e, 0x71, 0x6b,
        ];
        let vault = Vault::new(vec![(1, key)], &Key::random()).unwrap();
        assert_eq!(key_of(&bag), Ok(1));
        assert_eq!(*vault.open(b"p", &bag).unwrap(), b"secret");
        assert_eq!(vault.open(b"q", &bag), Err(VaultError::Damaged));
        // Neither reads as the other.
        let changed = |mut bag: Vec<u8>, layout| {
            bag[0] = layout;
            vault.open(b"p", &bag)
        };
        assert_eq!(changed(bag.to_vec(), LAYOUT), Err(VaultError::Damaged));
        assert_eq!(changed(vault.seal(b"p", b"secret").unwrap(), OLDER_LAYOUT), Err(VaultError::Damaged));
    }

    #[test]
    fn whatever_is_changed_is_found() {
        let vault = vault();
        let bag = vault.seal(b"p", b"secret").unwrap();
        for at in 0..bag.len() {
            let mut changed = bag.clone();
            changed[at] ^= 1;
            assert!(vault.open(b"p", &changed).is_err(), "byte {at}");
            assert!(vault.open(b"p", &bag[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_key_that_is_turned_to_seals_and_the_old_ones_open() {
        let vault = vault();
        let old = vault.seal(b"p", b"old").unwrap();
        vault.turn_to(3, Key::random());
        let new = vault.seal(b"p", b"new").unwrap();
        assert_eq!((vault.current(), key_of(&new)), (3, Ok(3)));
        assert_eq!(*vault.open(b"p", &old).unwrap(), b"old");
        assert_eq!(*vault.open(b"p", &new).unwrap(), b"new");
        let later = Vault::new(vec![(4, Key::random())], &Key::random()).unwrap();
        assert_eq!(later.open(b"p", &new), Err(VaultError::NoKey(3)));
    }

    #[test]
    fn digests_differ_by_key_purpose_and_parts() {
        let (one, other) = (vault(), vault());
        assert_eq!(one.keyed("a", &[b"bc"]), one.keyed("a", &[b"bc"]));
        assert_ne!(one.keyed("a", &[b"bc"]), other.keyed("a", &[b"bc"]));
        assert_ne!(one.keyed("a", &[b"bc"]), one.keyed("ab", &[b"c"]));
        assert_ne!(one.keyed("a", &[b"bc"]), one.keyed("a", &[b"b", b"c"]));
    }
}
