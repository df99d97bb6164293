//! AES-256-GCM under a key that is derived for each bag (HKDF-SHA256).

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use zeroize::Zeroizing;

use crate::vault::error::VaultError;

/// Random bytes in front of a bag, from which its key is derived.
const SALT_BYTES: usize = 16;
/// Bytes of a sealed text beside those of the text.
pub(super) const MORE_BYTES: usize = SALT_BYTES + 16;
/// What the derived keys of [`seal_alone`] are for.
const PURPOSE: &[u8] = b"haul bag 1";
/// What those of a [`Sealer`] are for, and what its part of the derivation is done with.
const PURPOSE_OF_SEALER: &[u8] = b"haul bag 2";

/// A key of which the keys of many bags are derived. The part of the derivation that is the same for all of them (extract, in
/// the words of RFC 5869) is done once, and the random bytes of a bag go into the part that is not (expand).
pub(super) struct Sealer(Prk);

impl Sealer {
    /// Makes the sealer of a key.
    pub(super) fn new(key: &[u8; 32]) -> Sealer {
        Sealer(Salt::new(HKDF_SHA256, PURPOSE_OF_SEALER).extract(key))
    }

    /// Seals `plain` for `place` and adds it to `out`.
    pub(super) fn seal(&self, place: &[u8], plain: &[u8], out: &mut Vec<u8>) -> Result<(), VaultError> {
        seal_with(|salt| self.derived(salt), place, plain, out)
    }

    /// Opens what [`Sealer::seal`] made.
    pub(super) fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        open_with(|salt| self.derived(salt), place, sealed)
    }

    fn derived(&self, salt: &[u8]) -> Result<LessSafeKey, VaultError> {
        expanded(&self.0, &[PURPOSE_OF_SEALER, salt])
    }
}

/// Seals one text with a key that seals few: other keys, and bags of the first layout.
pub(super) fn seal_alone(key: &[u8; 32], place: &[u8], plain: &[u8], out: &mut Vec<u8>) -> Result<(), VaultError> {
    seal_with(|salt| derived(key, salt), place, plain, out)
}

/// Opens what [`seal_alone`] made.
pub(super) fn open_alone(key: &[u8; 32], place: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    open_with(|salt| derived(key, salt), place, sealed)
}

fn derived(key: &[u8; 32], salt: &[u8]) -> Result<LessSafeKey, VaultError> {
    expanded(&Salt::new(HKDF_SHA256, salt).extract(key), &[PURPOSE])
}

/// The key of one bag. It seals once, so its nonce may be fixed.
fn expanded(from: &Prk, purpose: &[&[u8]]) -> Result<LessSafeKey, VaultError> {
    let bytes = from.expand(purpose, &AES_256_GCM).map_err(|_| VaultError::Damaged)?;
    Ok(LessSafeKey::new(UnboundKey::from(bytes)))
}

/// Seals under the key that `key` derives of random bytes.
///
/// The text is sealed where it lies in `out`, which is large enough from the beginning, so that no copy of it is left.
fn seal_with(
    key: impl FnOnce(&[u8]) -> Result<LessSafeKey, VaultError>,
    place: &[u8],
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), VaultError> {
    let salt: [u8; SALT_BYTES] = rand::random();
    let (nonce, place) = (Nonce::assume_unique_for_key([0; 12]), Aad::from(place));
    let key = key(&salt)?;
    out.reserve(SALT_BYTES + plain.len() + AES_256_GCM.tag_len());
    out.extend_from_slice(&salt);
    let from = out.len();
    out.extend_from_slice(plain);
    let tag = key.seal_in_place_separate_tag(nonce, place, &mut out[from..]).map_err(|_| VaultError::Damaged)?;
    out.extend_from_slice(tag.as_ref());
    Ok(())
}

fn open_with(
    key: impl FnOnce(&[u8]) -> Result<LessSafeKey, VaultError>,
    place: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let (salt, sealed) = sealed.split_at_checked(SALT_BYTES).ok_or(VaultError::Damaged)?;
    let (nonce, place) = (Nonce::assume_unique_for_key([0; 12]), Aad::from(place));
    let mut bytes = Zeroizing::new(sealed.to_vec());
    let plain = key(salt)?.open_in_place(nonce, place, &mut bytes).map_err(|_| VaultError::Damaged)?;
    let length = plain.len();
    bytes.truncate(length);
    Ok(bytes)
}
