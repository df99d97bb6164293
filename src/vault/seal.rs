//! AES-256-GCM under a key that is derived for each bag (HKDF-SHA256).

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use crate::vault::error::VaultError;

/// Random bytes in front of a bag, from which its key is derived.
const SALT_BYTES: usize = 16;
/// Bytes of a sealed text beside those of the text.
pub(super) const MORE_BYTES: usize = SALT_BYTES + 16;
/// What the derived keys are for.
const PURPOSE: &[u8] = b"haul bag 1";

/// Seals `plain` for `place` and adds it to `out`.
///
/// It is sealed where it lies in `out`, which is large enough from the beginning, so that no copy of it is left.
pub(super) fn seal(key: &[u8; 32], place: &[u8], plain: &[u8], out: &mut Vec<u8>) -> Result<(), VaultError> {
    let salt: [u8; SALT_BYTES] = rand::random();
    let (nonce, place) = (Nonce::assume_unique_for_key([0; 12]), Aad::from(place));
    let key = derived(key, &salt)?;
    out.reserve(SALT_BYTES + plain.len() + AES_256_GCM.tag_len());
    out.extend_from_slice(&salt);
    let from = out.len();
    out.extend_from_slice(plain);
    let tag = key.seal_in_place_separate_tag(nonce, place, &mut out[from..]).map_err(|_| VaultError::Damaged)?;
    out.extend_from_slice(tag.as_ref());
    Ok(())
}

/// Opens what [`seal`] made.
pub(super) fn open(key: &[u8; 32], place: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let (salt, sealed) = sealed.split_at_checked(SALT_BYTES).ok_or(VaultError::Damaged)?;
    let (nonce, place) = (Nonce::assume_unique_for_key([0; 12]), Aad::from(place));
    let mut bytes = Zeroizing::new(sealed.to_vec());
    let plain = derived(key, salt)?.open_in_place(nonce, place, &mut bytes).map_err(|_| VaultError::Damaged)?;
    let length = plain.len();
    bytes.truncate(length);
    Ok(bytes)
}

/// The key of one bag. It seals once, so its nonce may be fixed.
fn derived(key: &[u8; 32], salt: &[u8]) -> Result<LessSafeKey, VaultError> {
    let derived = Salt::new(HKDF_SHA256, salt).extract(key);
    let bytes = derived.expand(&[PURPOSE], &AES_256_GCM).map_err(|_| VaultError::Damaged)?;
    Ok(LessSafeKey::new(UnboundKey::from(bytes)))
}
